"""Inputs and results of the model that `conftest.half_onnx` writes."""

from __future__ import annotations

import numpy as np

from paro_trt.engine import SizeRange
from paro_trt.runtime.onnxruntime_session import OrtSession

SIZES = {"B": SizeRange(1, 2, 4), "text_tokens": SizeRange(1, 8, 32)}


def random_inputs(batch, seed=None, text=5):
    rng = np.random.default_rng(seed)
    return {
        "hidden_states": rng.normal(0.3, 1, (batch, 4, 2, 16, 16)).astype(np.float16),
        "timestep": rng.uniform(0, 1000, batch).astype(np.float32),
        "encoder_hidden_states": rng.normal(-0.2, 1, (batch, text, 16)).astype(np.float16),
        "mask_bin": rng.integers(0, 3, batch).astype(np.int32),
    }


def expected(onnx_file, inputs):
    with OrtSession(onnx_file, threads=1) as session:
        return session.run(inputs)["sample"]
