"""Dense runs that are started again are answered from what was computed."""

import pytest
import torch

from paro_trt.calibration.fp16_guard import peak_arrays, recorded_peaks
from paro_trt.calibration.unfinished import UnfinishedRun


class Scaled(torch.nn.Module):
    """Stands for a transformer; the first of its answers are the largest."""

    def __init__(self):
        super().__init__()
        self.layer = torch.nn.Identity()
        self.factor, self.computed = 16.0, 0

    def forward(self, hidden_states, return_dict=True):  # noqa: ARG002 as diffusers' have it
        self.computed += 1
        self.factor /= 4
        return (self.layer(hidden_states * self.factor),)


def run(model, path, count):
    """`count` calls, each with the answer to the one before: the last answer, and peaks."""
    peaks = {}
    unfinished = UnfinishedRun(path, peaks)
    latents = torch.ones(2, 3, dtype=torch.bfloat16)
    with recorded_peaks(model, peaks), unfinished.continued([model]):
        for _ in range(count):
            (latents,) = model(latents, return_dict=False)
    return latents, peak_arrays(peaks)


def test_answers_and_peaks_are_those_of_one_run(tmp_path):
    straight, peaks = run(Scaled(), tmp_path / "straight", 4)
    run(Scaled(), tmp_path / "run", 2)
    model = Scaled()
    model.factor = 1.0
    resumed, resumed_peaks = run(model, tmp_path / "run", 4)
    assert model.computed == 2
    assert torch.equal(resumed, straight)
    assert resumed.dtype == torch.bfloat16
    assert resumed_peaks == peaks
    assert peaks["peak.layer"] == 4.0


def test_calls_count_up_to_the_first_that_is_missing(tmp_path):
    run(Scaled(), tmp_path / "run", 3)
    (tmp_path / "run" / "call1.pt").unlink()
    assert UnfinishedRun(tmp_path / "run", {}).calls == 1


def test_the_models_are_as_before(tmp_path):
    model = Scaled()
    run(model, tmp_path / "run", 1)
    assert "forward" not in vars(model)
    with pytest.raises(RuntimeError), UnfinishedRun(tmp_path / "run", {}).continued([model]):
        raise RuntimeError
    assert "forward" not in vars(model)
    UnfinishedRun(tmp_path / "run", {}).remove()
    assert not (tmp_path / "run").exists()
