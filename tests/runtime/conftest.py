"""A small ONNX file to open."""

import onnx
import pytest

from tests.support.small_onnx import small_onnx


@pytest.fixture
def onnx_file(tmp_path):
    path = tmp_path / "model.onnx"
    onnx.save(small_onnx(), path)
    return path
