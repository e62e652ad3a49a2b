"""A plugin of a newer CUDA than the driver's is refused before anything is built or loaded."""

from __future__ import annotations

import pytest

from paro_trt.engine import plugin_library
from paro_trt.engine.build import build_engine
from paro_trt.engine.load import load_engine
from paro_trt.errors import BackendUnavailableError
from paro_trt.nvidia.driver import Driver
from tests.support.fake_driver import fake_cuda_library

REFUSED = (
    r"libparo_attention\.so of CUDA 13: expected a driver of CUDA 13, 580\.65\.06 or later, got "
    r"570\.86\.15, CUDA 12\.8; fix: update the driver, or compile the plugin for CUDA 12: "
    r"CUDA_MAJOR=12 make plugin"
)


@pytest.fixture(autouse=True)
def _old_driver(monkeypatch):
    driver = Driver((12, 8), "570.86.15", ())
    monkeypatch.setattr(plugin_library, "ask_driver", lambda: driver)


def test_when_building(newest, half_onnx, tmp_path):
    fake_cuda_library(newest.plugin, "13.0")
    with pytest.raises(BackendUnavailableError, match=REFUSED):
        build_engine(half_onnx, tmp_path / "a.engine")
    assert not list(tmp_path.glob("a.engine*"))


@pytest.mark.usefixtures("newest")
def test_when_loading(half_onnx, tmp_path, monkeypatch):
    build_engine(half_onnx, tmp_path / "a.engine")
    other = tmp_path / "other"
    other.mkdir()
    fake_cuda_library(other / "libparo_attention.so", "13.0")
    monkeypatch.setenv("PARO_LIBRARY_DIR", str(other))
    with pytest.raises(BackendUnavailableError, match=REFUSED):
        load_engine(tmp_path / "a.engine")


@pytest.mark.parametrize("cuda", ["12.9", "12.0"])
def test_one_of_the_driver_s_major_is_no_matter(newest, cuda):
    """Minor releases are compatible."""
    fake_cuda_library(newest.plugin, cuda)
    plugin_library.check_plugin_driver(plugin_library.find_plugin())
