"""What a real builder asks of the plugin, against what the host harness assumes that it asks."""

from __future__ import annotations

import json
import shutil

import pytest

from paro_trt.op.spec import INPUTS
from tests.native_builds import plugins_build

BATCHES = (1, 2, 4)

# plugins/tensorrt/host/life.cpp, in its order.
HARNESS = (
    "createPlugin", "clone", "getOutputDataTypes", "getOutputShapes", "supportsFormatCombination",
    "configurePlugin", "getWorkspaceSize", "getTimingCacheID", "setTactic", "getFieldsToSerialize",
    "attachToContext", "onShapeChange", "enqueue",
)  # fmt: skip


@pytest.fixture
def calls(build_with_rtx, half_onnx, tmp_path):
    """Every call of a build for batches of 1 to 4, as plugins/tensorrt/host/trace.cpp writes it."""
    build = plugins_build("plain", "paro_attention_traced")
    folder, trace = tmp_path / "traced", tmp_path / "calls.jsonl"
    folder.mkdir()
    traced = build / "tensorrt/host/libparo_attention_traced.so"
    shutil.copy(traced, folder / "libparo_attention.so")
    environment = {"PARO_LIBRARY_DIR": str(folder), "PARO_TRACE_FILE": str(trace)}
    sizes = {"B": BATCHES, "text_tokens": (1, 8, 32)}
    built = build_with_rtx(half_onnx, 89, environment=environment, sizes=sizes)
    assert built.complaints == []
    return [json.loads(line) for line in trace.read_text().splitlines()]


def test_builder_s_calls_and_bounds(calls):
    names = [call["call"] for call in calls]
    assert set(names) <= set(HARNESS)
    needed = ("createPlugin", "getOutputDataTypes", "configurePlugin", "getWorkspaceSize")
    first = [names.index(name) for name in (*needed, "getFieldsToSerialize")]
    assert first == sorted(first)
    for call in calls:
        if call["call"] not in ("supportsFormatCombination", "getWorkspaceSize"):
            assert call["result"] == 0, call
    asked = [call for call in calls if "min" in call]
    assert {call["call"] for call in asked} == {"configurePlugin", "getWorkspaceSize"}
    batched = [index for index, entry in enumerate(INPUTS) if entry.shape[0] == "B"]
    for call in asked:
        for bound, batch in zip(("min", "opt", "max"), BATCHES, strict=True):
            assert [call[bound][index][0] for index in batched] == [batch] * len(batched), call
            assert call[bound][0][1:] == [128, 2, 64]
    assert all(call["result"] > 0 for call in asked if call["call"] == "getWorkspaceSize")
