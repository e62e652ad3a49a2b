"""doctor: what it says of this machine, and of one that lacks something."""

from __future__ import annotations

import pytest

from paro_trt.doctor import probes


@pytest.fixture
def without(monkeypatch):
    """Make packages impossible to find."""

    def hide(*names):
        find = probes.importlib.util.find_spec
        monkeypatch.setattr(
            probes.importlib.util, "find_spec", lambda name: None if name in names else find(name)
        )

    return hide


def states(document):
    return {backend["name"]: backend["state"] for backend in document["backends"]}


def test_this_machine_can_run_the_chain(paro):
    document = paro("doctor", "--json").document()
    assert document["cpu_chain"] is True
    found = states(document)
    assert [found[name] for name in ("reference", "ort", "cpu")] == ["runs"] * 3
    assert {found[name] for name in ("cuda", "emulated", "tensorrt")} == {"not in this release"}
    assert document["machine"]["cores"] >= 1


def test_table_names_components_and_backends(paro):
    outcome = paro("doctor")
    assert outcome.status == 0
    for word in ("onnxruntime", "reference", "not in this release", "NVIDIA GPUs"):
        assert word in outcome.stdout


def test_a_missing_package_is_named_with_its_remedy(paro, without):
    without("onnxruntime")
    outcome = paro("doctor")
    assert outcome.status == 2
    assert "pip install onnxruntime" in outcome.stdout
    assert "needs onnxruntime" in outcome.stdout


def test_a_package_that_does_not_load_is_no_package(tmp_path, monkeypatch):
    (tmp_path / "half_installed.py").write_text("raise ImportError('libhalf.so: cannot open')")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    (part,) = probes.packages({"half_installed": "nothing"})
    assert not part.present
    assert "libhalf.so: cannot open" in part.detail
    assert "--force-reinstall" in part.remedy


def test_a_package_that_kills_python_does_not_kill_doctor(tmp_path, monkeypatch):
    (tmp_path / "aborting.py").write_text("import os; os._exit(7)")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    (part,) = probes.packages({"aborting": "nothing"})
    assert (part.present, "status 7" in part.detail) == (False, True)


def test_native_libraries_that_are_missing_are_named(paro, tmp_path, monkeypatch):
    monkeypatch.setenv("PARO_LIBRARY_DIR", str(tmp_path))
    document = paro("doctor", "--json").document()
    assert states(document)["cpu"] == "missing"
    missing = {part["name"] for part in document["components"] if not part["present"]}
    assert {"libparo_cpu", "libparo_onnxruntime"} <= missing
    assert document["cpu_chain"] is True
