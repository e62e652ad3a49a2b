"""Layers near float16's maximum are found, over all runs, and named worst first."""

import torch

from paro_trt.calibration import CalibrationSettings
from paro_trt.calibration.fp16_guard import overflow_notes, peak_arrays, recorded_peaks
from tests.support.calibrations import Schedule
from tests.support.calibrations import calibrate_embeddings as calibrate
from tests.support.tiny import variants_of


def test_peaks_are_of_leaf_layers_and_hooks_are_removed():
    model = torch.nn.Sequential(torch.nn.Linear(4, 4), torch.nn.Sequential(torch.nn.ReLU()))
    peaks = {}
    with recorded_peaks(model, peaks):
        first = model[0](torch.full((1, 4), -3.0))
        model(torch.full((1, 4), 5.0))
    assert set(peaks) == {"0", "1.0"}
    assert peaks["0"] >= float(first.abs().max()) - 1e-6
    recorded = dict(peaks)
    model(torch.full((1, 4), 1e6))
    assert peaks == recorded


def _arrays(**peaks):
    return peak_arrays({name: torch.tensor(peak) for name, peak in peaks.items()})


def test_the_worst_of_all_runs_is_named_first():
    runs = [_arrays(a=20000.0, b=16000.0), _arrays(a=1.0, c=70000.0)]
    (note,) = overflow_notes(iter(runs))
    assert note.startswith("2 layers")
    assert note.index("c 7e+04") < note.index("a 2e+04")
    assert " b " not in note
    assert overflow_notes(iter([_arrays(b=16000.0)])) == []


def test_not_a_number_counts_as_near():
    assert overflow_notes(iter([_arrays(x=float("nan"))])) != []


def test_calibration_reports_a_layer_that_would_overflow(tmp_path):
    tiny = variants_of("hunyuan_video")[0]
    loaded = tiny.loaded()
    settings = CalibrationSettings(
        captured_steps=1, block_q=64, candidate_orders=("fhw",), time_attention=False
    )
    arguments = (tiny.prompts(1), tiny.latent_size, settings)
    quiet = calibrate(loaded, *arguments, tmp_path / "quiet", schedule=Schedule(steps=2))
    assert not any("float16" in note for note in quiet.calibration.notes)
    with torch.no_grad():
        loaded.model.context_embedder.proj_in.weight.mul_(1e5)
    loud = calibrate(loaded, *arguments, tmp_path / "loud", schedule=Schedule(steps=2))
    (note,) = [note for note in loud.calibration.notes if "float16" in note]
    assert "context_embedder.proj_in" in note
