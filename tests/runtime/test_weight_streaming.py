"""Weights streamed from host memory, on stubs that refuse what TensorRT refuses."""

from __future__ import annotations

import logging

import numpy as np
import pytest

from paro_trt.engine import BuildSettings
from paro_trt.engine.build import build_engine
from paro_trt.errors import ArgumentError, BackendUnavailableError
from paro_trt.runtime import open_session
from paro_trt.runtime.backends import session_for
from paro_trt.runtime.engine import Engine
from tests.engine.conftest import engine_file, half_onnx, machine, newest  # noqa: F401 (fixtures)
from tests.engine.running import expected, random_inputs


def test_automatic_budget(newest, engine_file, half_onnx, fresh_seed):  # noqa: F811
    inputs = random_inputs(2, fresh_seed)
    with Engine(engine_file, weight_streaming_budget="auto") as engine:
        assert newest.trt.engine.weight_streaming_budget_v2 == 400
        assert engine.weight_streaming_budget == 400
        sample = engine.run(inputs)["sample"]
    np.testing.assert_array_equal(sample, expected(half_onnx, inputs))


def test_no_budget_keeps_all_weights_and_is_captured(newest, engine_file):  # noqa: F811
    newest.trt.automatic_budget = 1 << 40
    for budget in (None, "auto", 1000):
        with Engine(engine_file, cuda_graph=True, weight_streaming_budget=budget) as engine:
            assert engine.weight_streaming_budget is None
            for _ in range(3):
                engine.run(random_inputs(2))
    assert newest.cuda.calls.count("cuGraphInstantiate") == 3


def test_streamed_weights_are_not_captured(newest, engine_file, half_onnx, fresh_seed):  # noqa: F811
    """The stub refuses to run while a stream is captured, as TensorRT does."""
    with Engine(engine_file, cuda_graph=True, weight_streaming_budget=600) as engine:
        for seed in range(3):
            inputs = random_inputs(2, fresh_seed + seed)
            sample = engine.run(inputs)["sample"]
            np.testing.assert_array_equal(sample, expected(half_onnx, inputs))
    assert "cuStreamBeginCapture" not in newest.cuda.calls


def test_a_capture_that_fails_falls_back_with_one_warning(
    newest,  # noqa: F811
    engine_file,  # noqa: F811
    half_onnx,  # noqa: F811
    fresh_seed,
    caplog,
):
    newest.trt.refuse_capture = True
    caplog.set_level(logging.WARNING, logger="paro_trt.runtime")
    with Engine(engine_file, cuda_graph=True) as engine:
        for seed in range(4):
            inputs = random_inputs(2, fresh_seed + seed)
            sample = engine.run(inputs)["sample"]
            np.testing.assert_array_equal(sample, expected(half_onnx, inputs))
    (record,) = [record for record in caplog.records if record.name == "paro_trt.runtime"]
    assert record.levelno == logging.WARNING
    assert "capture failed" in record.getMessage()
    assert newest.cuda.calls.count("cuStreamBeginCapture") == 1


@pytest.mark.parametrize("budget", [-1, "some", True, 0.5])
def test_what_is_no_budget(engine_file, budget):  # noqa: F811
    with pytest.raises(ArgumentError, match=r'expected bytes, 0 or more, or "auto"'):
        Engine(engine_file, weight_streaming_budget=budget)


@pytest.mark.parametrize("machine", ["10.0.1"], indirect=True)
def test_a_release_without_an_automatic_budget(machine, half_onnx, tmp_path):  # noqa: F811, ARG001
    build_engine(half_onnx, tmp_path / "a.engine", BuildSettings(weight_streaming=True))
    with pytest.raises(BackendUnavailableError, match=r"TensorRT 10\.3 or later"):
        Engine(tmp_path / "a.engine", weight_streaming_budget="auto")


def test_sessions_pass_a_budget_on(newest, engine_file, half_onnx):  # noqa: F811
    for opened in (open_session, session_for):
        with opened(engine_file, weight_streaming_budget=300) as session:
            assert newest.trt.engine.weight_streaming_budget_v2 == 300
            with pytest.raises(ArgumentError, match="an open session, which has one"):
                session_for(session, weight_streaming_budget=300)
    with pytest.raises(ArgumentError, match="expected none: it is an engine's"):
        open_session(half_onnx, weight_streaming_budget=300)
