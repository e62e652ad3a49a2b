"""The model that the parser reads: the unchanged file, or the file without its function."""

from __future__ import annotations

import onnx
import pytest

from paro_trt.engine.parser_input import for_function_body, for_plugin
from paro_trt.errors import OnnxFileError
from paro_trt.onnx_export import Body
from paro_trt.onnx_file.source import read_source

from .conftest import with_attention


def test_dense_body_is_given_as_it_is(tmp_path):
    onnx.save(with_attention(), tmp_path / "m.onnx")
    source = read_source(tmp_path / "m.onnx")
    assert onnx.load_from_string(for_function_body(source)) == source.proto


@pytest.mark.parametrize(
    ("body", "named"), [(Body.SPARSE, "got the sparse one"), (Body.NONE, "got none")]
)
def test_another_body_is_refused(tmp_path, body, named):
    onnx.save(with_attention(body=body), tmp_path / "m.onnx")
    with pytest.raises(OnnxFileError, match=f"{named}; fix: export again with --body dense"):
        for_function_body(read_source(tmp_path / "m.onnx"))


@pytest.mark.parametrize("body", [Body.SPARSE, Body.DENSE, Body.NONE])
def test_plugin_gets_no_function_and_the_file_stays(tmp_path, body):
    onnx.save(with_attention(body=body), tmp_path / "m.onnx")
    source = read_source(tmp_path / "m.onnx")
    assert not onnx.load_from_string(for_plugin(source)).functions
    assert len(source.proto.functions) == (body is not Body.NONE)
