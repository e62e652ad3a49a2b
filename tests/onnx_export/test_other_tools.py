"""What common ONNX tools write of an exported file still runs, within the tool's own error."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnx.inliner
import onnxruntime
import pytest

from paro_trt.models.load import load_model
from paro_trt.onnx_export import export_onnx
from tests.support.plans import small_plan
from tests.support.tiny_wan import tiny_wan, tiny_wan_inputs


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("model")
    tiny_wan(seed=5).save_pretrained(directory)
    loaded = load_model(directory)
    plan = small_plan(model=loaded.identity, pool_dropped=True, qk_bits=16, pv_bits=16)
    export_onnx(loaded, plan, directory / "tiny.onnx")
    return directory / "tiny.onnx"


def inlined(source: Path, target: Path) -> None:
    onnx.save(onnx.inliner.inline_local_functions(onnx.load(source)), target)


def optimized(source: Path, target: Path) -> None:
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(target)
    onnxruntime.InferenceSession(source, options, providers=["CPUExecutionProvider"])


def as_ort_format(source: Path, target: Path) -> None:
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(target)
    options.add_session_config_entry("session.save_model_format", "ORT")
    onnxruntime.InferenceSession(source, options, providers=["CPUExecutionProvider"])


def quantized(source: Path, target: Path) -> None:
    from onnxruntime.quantization import quantize_dynamic

    quantize_dynamic(source, target)


def halved(source: Path, target: Path) -> None:
    from onnxruntime.transformers.float16 import DEFAULT_OP_BLOCK_LIST, convert_float_to_float16

    blocked = [*DEFAULT_OP_BLOCK_LIST, "PAROAttention"]
    converted = convert_float_to_float16(
        onnx.load(source), keep_io_types=True, op_block_list=blocked
    )
    onnx.save(converted, target)


def output(path: Path) -> np.ndarray:
    latents, timestep, conditioning = tiny_wan_inputs(2, seed=3)
    feeds = {
        "hidden_states": latents.numpy(),
        "timestep": timestep.numpy(),
        "mask_bin": np.zeros(2, np.int32),
        **{name: tensor.numpy() for name, tensor in conditioning.items()},
    }
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    made: np.ndarray = session.run(None, feeds)[0]
    return made


@pytest.mark.parametrize(
    ("tool", "suffix", "allowed"),
    [
        (inlined, ".onnx", 1e-6),
        (optimized, ".onnx", 1e-5),
        (as_ort_format, ".ort", 1e-5),
        (quantized, ".onnx", 0.1),  # weights of 8 bits
        (halved, ".onnx", 2**-6),  # the 11 bits of float16 over a model's depth
    ],
)
def test_what_a_tool_writes_computes_the_same(
    exported: Path,
    tmp_path: Path,
    tool: Callable[[Path, Path], None],
    suffix: str,
    allowed: float,
) -> None:
    target = tmp_path / f"made{suffix}"
    tool(exported, target)
    exact = output(exported)
    assert np.linalg.norm(output(target) - exact) < allowed * np.linalg.norm(exact)
