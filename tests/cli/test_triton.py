"""`paro-trt triton`, on an engine of the stubs."""

from __future__ import annotations

import pytest

from tests.engine.conftest import half_onnx, newest  # noqa: F401 (fixtures)


@pytest.fixture
def engine_file(paro, newest, half_onnx, tmp_path):  # noqa: F811, ARG001
    path = tmp_path / "video.engine"
    assert paro("build", half_onnx, "-o", path).status == 0
    return path


def test_writes_a_repository(paro, engine_file, tmp_path):
    document = paro("triton", engine_file, "-o", tmp_path / "repo", "--json").document()
    assert (tmp_path / "repo" / "video" / "config.pbtxt").is_file()
    assert document["command"].startswith("tritonserver --model-repository=")
    shown = paro("triton", engine_file, "-o", tmp_path / "repo", "--name", "b", "--gpus", "0,1")
    assert shown.status == 0, shown.stderr
    assert "gpus: [ 0, 1 ]" in (tmp_path / "repo" / "b" / "config.pbtxt").read_text()


def test_bad_input(paro, engine_file, half_onnx, tmp_path):  # noqa: F811
    repository = tmp_path / "repo"
    paro("triton", half_onnx, "-o", repository).assert_refused("the engine's manifest")
    paro("triton", tmp_path / "none", "-o", repository).assert_refused("no such file")
    paro("triton", engine_file, "-o", repository, "--gpus", "a").assert_refused("--gpus")
    assert not repository.exists()
