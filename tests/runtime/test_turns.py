"""Engines that are unloaded and loaded again, alone or in turns with others on one GPU."""

from __future__ import annotations

import os
import threading

import numpy as np
import pytest

from paro_trt.engine import BuildSettings, EngineError, file_hash
from paro_trt.engine.build import build_engine
from paro_trt.errors import ArgumentError
from paro_trt.files import sha256_of_files
from paro_trt.runtime.engine import Engine, EngineTurns
from tests.engine.conftest import engine_file, half_onnx, newest  # noqa: F401 (fixtures)
from tests.engine.running import SIZES, expected, random_inputs


@pytest.fixture
def other_file(newest, half_onnx, tmp_path):  # noqa: F811, ARG001
    path = tmp_path / "other.engine"
    build_engine(half_onnx, path, BuildSettings(sizes=SIZES, builder_level=1))
    return path


@pytest.fixture
def hashed(monkeypatch):
    """Files that were hashed, in order."""
    found = []

    def noted(*paths):
        found.extend(paths)
        return sha256_of_files(*paths)

    monkeypatch.setattr(file_hash, "sha256_of_files", noted)
    return found


def test_unloaded_and_loaded_again(newest, engine_file, half_onnx, fresh_seed):  # noqa: F811
    inputs = random_inputs(2, fresh_seed)
    with Engine(engine_file, cuda_graph=True, weight_streaming_budget=500) as engine:
        context = engine.context()
        for _ in range(3):
            engine.run(inputs)
        engine.unload()
        assert not engine.is_loaded
        assert (len(newest.trt.loaded), newest.cuda.allocations) == (0, set())
        assert engine.manifest.inputs[0].name == "hidden_states"
        with pytest.raises(ArgumentError, match="a closed one"):
            context.run(inputs)
        np.testing.assert_array_equal(engine.run(inputs)["sample"], expected(half_onnx, inputs))
        assert newest.trt.engine.weight_streaming_budget_v2 == 500
    with pytest.raises(ArgumentError, match="a closed one"):
        engine.load()


def test_two_engines_share_a_gpu(newest, engine_file, other_file, half_onnx, fresh_seed):  # noqa: F811
    """As the two experts of a pipeline: one is loaded at a time, and first when it runs."""
    turns = EngineTurns()
    with Engine(engine_file, turns=turns) as first, Engine(other_file, turns=turns) as second:
        assert len(newest.trt.loaded) == 0
        for seed, engine in enumerate((first, first, second, first)):
            inputs = random_inputs(1, fresh_seed + seed)
            np.testing.assert_array_equal(engine.run(inputs)["sample"], expected(half_onnx, inputs))
            assert len(newest.trt.loaded) == 1
            assert engine.is_loaded
    assert not newest.cuda.allocations


def test_turns_of_threads(newest, engine_file, other_file, half_onnx, fresh_seed):  # noqa: F811, ARG001
    turns, samples = EngineTurns(), {}
    inputs = random_inputs(1, fresh_seed)
    with Engine(engine_file, turns=turns) as first, Engine(other_file, turns=turns) as second:

        def work(index, engine):
            for _ in range(4):
                samples[index] = engine.run(inputs)["sample"]

        threads = [
            threading.Thread(target=work, args=pair) for pair in enumerate((first, second) * 2)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert len(samples) == 4
    for sample in samples.values():
        np.testing.assert_array_equal(sample, expected(half_onnx, inputs))


def test_what_is_wrong_is_said_before_a_turn_comes(newest, engine_file):  # noqa: F811
    with newest.plugin.open("ab") as file:
        file.write(b"?")
    with pytest.raises(EngineError, match="plugin: expected paro-cpu"):
        Engine(engine_file, turns=EngineTurns())
    engine_file.write_bytes(engine_file.read_bytes()[:-1])
    with pytest.raises(EngineError, match="the file is damaged or of another build"):
        Engine(engine_file, turns=EngineTurns())


def test_a_file_is_hashed_once(engine_file, hashed):  # noqa: F811
    os.utime(engine_file, (1e9, 1e9))
    for _ in range(2):
        with Engine(engine_file) as engine:
            engine.unload()
            engine.load()
    assert hashed == [engine_file]
    content = engine_file.read_bytes()
    engine_file.write_bytes(content[:-1] + b"?")
    with pytest.raises(EngineError, match="the file is damaged or of another build"):
        Engine(engine_file)


def test_a_file_is_not_hashed_where_it_is_trusted(engine_file, hashed):  # noqa: F811
    with Engine(engine_file, check_hash=False) as engine:
        engine.unload()
        engine.load()
    assert hashed == []
