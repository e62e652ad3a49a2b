"""Metadata of exported files: written and read back, damaged ones refused."""

import dataclasses
import json

import pytest

from paro_trt.errors import OnnxFileError
from paro_trt.onnx_file.info import ExportInfo
from tests.support.small_onnx import INFO


def test_round_trip():
    assert ExportInfo.from_metadata("m.onnx", INFO.to_metadata()) == INFO
    dense = dataclasses.replace(INFO, plan_hash=None, bin_boundaries=None)
    assert ExportInfo.from_metadata("m.onnx", dense.to_metadata()) == dense
    one_bin = dataclasses.replace(INFO, bin_boundaries=())
    assert ExportInfo.from_metadata("m.onnx", one_bin.to_metadata()) == one_bin
    timed = dataclasses.replace(INFO, frame_rate=25.0)
    assert timed.to_metadata()["paro.frame_rate"] == "25"
    assert ExportInfo.from_metadata("m.onnx", timed.to_metadata()) == timed


def test_metadata_keys_are_the_documented_ones():
    metadata = INFO.to_metadata()
    assert set(metadata) == {
        "paro.format",
        "paro.model_class",
        "paro.config_hash",
        "paro.grid",
        "paro.plan_hash",
        "paro.bin_boundaries",
    }
    assert json.loads(metadata["paro.bin_boundaries"]) == [700.0, 250.0]


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("paro.format", None),
        ("paro.format", "2"),
        ("paro.model_class", None),
        ("paro.model_class", ""),
        ("paro.config_hash", "xyz"),
        ("paro.grid", None),
        ("paro.grid", "[2, 8]"),
        ("paro.grid", "[2, 8, -8]"),
        ("paro.grid", "7"),
        ("paro.grid", "[" * 100_000),
        ("paro.plan_hash", None),
        ("paro.plan_hash", "xyz"),
        ("paro.bin_boundaries", "[1, 2]"),
        ("paro.bin_boundaries", "[1000.0]"),
        ("paro.bin_boundaries", "[NaN]"),
        ("paro.bin_boundaries", '["500"]'),
        ("paro.bin_boundaries", "{}"),
        ("paro.frame_rate", "often"),
        ("paro.frame_rate", "-1"),
        ("paro.bin_boundaries", json.dumps([900 - i for i in range(100)])),
    ],
)
def test_damaged_metadata(key, value):
    metadata = dataclasses.replace(INFO, frame_rate=25.0).to_metadata()
    del metadata[key]
    if value is not None:
        metadata[key] = value
    with pytest.raises(OnnxFileError, match=r"m\.onnx: metadata") as info:
        ExportInfo.from_metadata("m.onnx", metadata)
    assert len(str(info.value)) < 400
