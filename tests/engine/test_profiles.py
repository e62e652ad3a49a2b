"""Several ranges of the batch: an optimization profile each, chosen by the batch that comes."""

from __future__ import annotations

import numpy as np
import pytest

from paro_trt.engine import BuildSettings, EngineError, SizeRange
from paro_trt.engine.build import adopt_engine, build_engine
from paro_trt.engine.manifest_file import manifest_path
from paro_trt.errors import ArgumentError
from paro_trt.runtime.engine import Engine

from .running import expected, random_inputs

TEXT = SizeRange(1, 8, 32)
BATCHES = (SizeRange(1, 1, 1), SizeRange(4, 4, 6))


def settings(*batches, **options):
    return BuildSettings(sizes={"B": batches, "text_tokens": TEXT}, **options)


def test_profiles_on_every_release(machine, half_onnx, tmp_path, fresh_seed):
    path = tmp_path / "model.engine"
    manifest = build_engine(half_onnx, path, settings(*BATCHES)).manifest
    assert [(p.min, p.opt, p.max) for p in manifest.profiles] == [(1, 1, 1), (4, 4, 6)]
    latents = manifest.inputs[0]
    assert (latents.min[0], latents.opt[0], latents.max[0]) == (1, 1, 6)
    # Back and forth, by contexts of which only the first one has a profile from the beginning.
    with Engine(path, cuda_graph=True) as engine:
        other = engine.context()
        for seed, batch in enumerate([4, 4, 4, 1, 4, 4, 1, 1, 5]):
            inputs = random_inputs(batch, fresh_seed + seed)
            wanted = expected(half_onnx, inputs)
            np.testing.assert_array_equal(engine.run(inputs)["sample"], wanted)
            np.testing.assert_array_equal(other.run(inputs)["sample"], wanted)
        with pytest.raises(ArgumentError, match=r"B: expected a batch of 1, tuned for 1, or of 4"):
            engine.run(random_inputs(2))
        with pytest.raises(ArgumentError, match="build an engine for B = 7"):
            engine.run(random_inputs(7))
    # A graph is not kept over a change of profile, which may move the activations.
    assert machine.cuda.calls.count("cuGraphInstantiate") == 3


def test_equal_settings_are_reused_and_others_are_not(newest, half_onnx, tmp_path):
    path = tmp_path / "model.engine"
    build_engine(half_onnx, path, settings(*BATCHES))
    assert build_engine(half_onnx, path, settings(*BATCHES)).reused
    assert not build_engine(half_onnx, path, settings(BATCHES[0])).reused
    manifest_path(path).unlink()
    with pytest.raises(EngineError, match=r"optimization profiles: expected 2, got 1"):
        adopt_engine(half_onnx, path, settings(*BATCHES))
    assert not newest.trt.loaded


@pytest.mark.parametrize(
    ("batches", "said"),
    [
        (((1, 1, 2), (2, 2, 4)), r"batch 2,2,4: expected batches of no other range.*2 to 2 again"),
        (((1, 2, 4), (1, 1, 1)), r"1 to 1 again"),
        (((2, 2, 2), (2, 2, 2)), r"fix: pass ranges that do not overlap, .* from 3 on"),
        (((1, 4, 8), (2, 3, 4)), r"2 to 4 again, of 1,4,8"),
        ((), "1 to 16 ranges"),
        (tuple((n, n, n) for n in range(1, 18)), "1 to 16 ranges"),
    ],
)
def test_ranges_that_overlap_are_refused(batches, said):
    with pytest.raises(ArgumentError, match=said):
        settings(*(SizeRange(*batch) for batch in batches))


def test_only_the_batch_has_several_ranges():
    with pytest.raises(ArgumentError, match="size text_tokens: expected one range"):
        BuildSettings(sizes={"text_tokens": (TEXT, TEXT)})


def test_a_real_builder_tunes_each_profile(build_with_rtx, half_onnx):
    """TensorRT for RTX makes the plan of each, and says what each takes."""
    sizes = {"B": [[1, 1, 1], [4, 8, 16]], "text_tokens": [1, 8, 32]}
    built = build_with_rtx(half_onnx, 89, sizes=sizes)
    assert built.complaints == []
    one, many = built.manifest["profiles"]
    assert (one["opt"], many["opt"]) == (1, 8)
    assert 0 < one["activations"] < many["activations"]
    assert built.manifest["memory"]["activations"] == many["activations"]
