"""The stubs' names against the real bindings, and the stub's own strictness."""

from __future__ import annotations

import json

import pytest

from .stub_cuda import StubCuda
from .stub_tensorrt import StubTensorRt
from .surface import FILE, measure


@pytest.mark.long
def test_recorded_surface_is_that_of_the_real_bindings(tmp_path):
    """Downloads four releases of the bindings; fails where the record differs from them."""
    import subprocess

    try:
        found = measure(tmp_path)
    except subprocess.SubprocessError as error:
        pytest.skip(f"the bindings are not available here: {error}")
    assert json.loads(json.dumps(found)) == json.loads(FILE.read_text())


def test_stub_refuses_what_a_release_does_not_have():
    old, new = (StubTensorRt(version, StubCuda()) for version in ("10.0.1", "11.4.0.106"))
    assert old.module().BuilderFlag.FP16
    with pytest.raises(AttributeError):
        _ = new.module().BuilderFlag.FP16
    assert "plugin_creator_list" in old.surface["IPluginRegistry"]
    with pytest.raises(AttributeError, match="plugin_creator_list"):
        _ = new.registry.plugin_creator_list
    with pytest.raises(AssertionError, match="is none of"):
        new.registry.get_creator("PAROAttention")
    flags = [int(t.module().NetworkDefinitionCreationFlag.STRONGLY_TYPED) for t in (old, new)]
    assert flags == [1, 0]
