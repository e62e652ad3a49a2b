"""doctor: what it says of this machine, and of one that lacks something."""

from __future__ import annotations

import dataclasses
import functools
import re
import shutil

import pytest

from paro_trt import doctor, library_files
from paro_trt.doctor import libraries, probes
from paro_trt.errors import BackendUnavailableError
from paro_trt.op.native import library_path
from tests.support.fake_driver import fake_cuda_library, fake_driver


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


@pytest.fixture(scope="module", autouse=True)
def _packages_imported_once():
    """Importing the packages takes seconds and has the same result in each of these tests."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(probes, "failed_imports", functools.cache(probes.failed_imports))
        yield


@pytest.fixture(scope="module")
def found_here():
    return doctor.examine()


def test_this_machine_can_run_the_chain(paro, found_here, monkeypatch):
    monkeypatch.setattr(doctor, "examine", lambda: found_here)
    document = paro("doctor", "--json").document()
    assert document["cpu_chain"] is True
    found = states(document)
    assert [found[name] for name in ("reference", "ort", "cpu")] == ["runs"] * 3
    assert document["machine"]["cores"] >= 1


def test_table_names_components_and_backends(paro, found_here, monkeypatch):
    monkeypatch.setattr(doctor, "examine", lambda: found_here)
    outcome = paro("doctor")
    assert outcome.status == 0
    for word in ("onnxruntime", "reference", "libparo_emulated", "NVIDIA GPUs", "NVIDIA driver"):
        assert word in outcome.stdout


def test_a_mismatch_is_printed(paro, found_here, monkeypatch):
    line = "cuda-bindings 13: expected a driver of CUDA 13, got 12; fix: pip install ..."
    found = dataclasses.replace(found_here, mismatches=(line,))
    monkeypatch.setattr(doctor, "examine", lambda: found)
    assert line in paro("doctor").stdout


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
    (nvinfer,) = [part for part in document["components"] if part["name"] == "libnvinfer"]
    if not nvinfer["present"]:  # this machine has no TensorRT of the system's
        assert nvinfer["remedy"].startswith("export LD_LIBRARY_PATH=$(python -c")
    missing = {part["name"] for part in document["components"] if not part["present"]}
    assert {
        "libparo_cpu",
        "libparo_onnxruntime",
        "libparo_emulated",
        "libparo_attention",
    } <= missing
    assert document["cpu_chain"] is True
    backends = {backend["name"]: backend for backend in document["backends"]}
    assert backends["emulated"]["state"] == "missing"
    assert "needs libparo_emulated: make emulated" in backends["emulated"]["detail"]
    assert "libparo_attention" in backends["cuda"]["detail"]
    where = f"or unset PARO_LIBRARY_DIR, now {tmp_path}"
    assert backends["cpu"]["detail"].endswith(where)  # both libraries have one remedy
    with pytest.raises(BackendUnavailableError, match=re.escape(where)):
        library_path("cpu")


def library_parts():
    return {part.name: part for part in libraries.examine_libraries()}


def test_a_kernel_library_is_asked_for_its_kernel_and_tried(tmp_path, monkeypatch):
    """The CPU library, which has the same C ABI, in the place of the emulated kernels."""
    shutil.copy(library_path("cpu"), tmp_path / "libparo_emulated.so")
    monkeypatch.setenv("PARO_LIBRARY_DIR", str(tmp_path))
    part = library_parts()["libparo_emulated"]
    assert part.present
    assert part.detail.startswith("paro-cpu 0.1.0; ")
    assert "kernels on" in part.detail
    assert libraries.computes("emulated") == (True, "128 tokens computed on cpu")


def test_libraries_that_do_not_load_are_none(tmp_path, monkeypatch):
    monkeypatch.setenv("PARO_LIBRARY_DIR", str(tmp_path))
    (tmp_path / "libparo_emulated.so").write_bytes(b"no library")
    (tmp_path / "libparo_attention_autoreg.so").write_bytes(b"no library next to it")
    parts = library_parts()
    assert not any(part.present for part in parts.values())
    assert "file too short" in parts["libparo_emulated"].detail
    assert "no libparo_attention.so next to it" in parts["libparo_attention_autoreg"].detail
    computed, why_not = libraries.computes("emulated")
    assert not computed
    assert "file too short" in why_not


def test_a_library_that_needs_a_torch_that_does_not_load_says_so(tmp_path, monkeypatch):
    (tmp_path / "torch.py").write_text("raise ImportError('libtorch.so: cannot open')")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    part = library_parts()["libparo_cpu"]
    assert (part.present, part.detail) == (False, "ImportError: libtorch.so: cannot open")


@pytest.fixture
def stub_tensorrt(tmp_path, monkeypatch):
    """A machine with everything that engines need, down to a plugin (the CPU library's copy)."""
    site = tmp_path / "site"
    (site / "cuda").mkdir(parents=True)
    (site / "cuda" / "__init__.py").touch()
    (site / "cuda" / "core.py").write_text("__version__ = '1.2.2'")
    (site / "cuda" / "bindings.py").write_text("__version__ = '13.5.0'")
    (site / "tensorrt.py").write_text("__version__ = '10.16.1.11'")
    (site / "tensorrt_rtx.py").write_text("raise ImportError('libtensorrt_rtx.so: not found')")
    (tmp_path / "loader").mkdir()
    shutil.copy(library_path("cpu"), tmp_path / "loader" / "libnvinfer.so.11")
    monkeypatch.setenv("LD_LIBRARY_PATH", str(tmp_path / "loader"))
    for name, value in fake_driver((13, 0), "580.65.06").items():
        monkeypatch.setenv(name, value)
    for name in ("attention", "attention_autoreg", "cpu", "onnxruntime"):
        source = library_path("cpu" if name.startswith("attention") else name)
        shutil.copy(source, tmp_path / f"libparo_{name}.so")
    (tmp_path / "include").mkdir()
    (tmp_path / "include" / "NvInferVersion.h").write_text(
        "#define TRT_MAJOR_ENTERPRISE 11\n#define NV_TENSORRT_MAJOR TRT_MAJOR_ENTERPRISE\n"
        "#define NV_TENSORRT_MINOR 1\n"
    )
    monkeypatch.syspath_prepend(site)
    monkeypatch.setenv("PYTHONPATH", str(site))
    monkeypatch.setenv("PARO_LIBRARY_DIR", str(tmp_path))
    monkeypatch.setenv("TENSORRT_ROOT", str(tmp_path))
    return tmp_path


def test_parts_of_the_way_to_engines(paro, stub_tensorrt):
    document = paro("doctor", "--json").document()
    assert states(document)["tensorrt"] == "runs"
    parts = {part["name"]: part for part in document["components"]}
    assert parts["tensorrt"]["detail"] == "10.16.1.11"
    assert parts["cuda.core"]["detail"] == "1.2.2"
    assert parts["libnvinfer"]["detail"] == "libnvinfer.so.11"
    assert parts["cuda.bindings"]["detail"] == "13.5.0"
    assert parts["driver"]["detail"] == "580.65.06, CUDA 13.0"
    assert parts["GPU"]["detail"] == "Fake GPU 0 (SM 89)"
    assert document["mismatches"] == []
    assert parts["TensorRT headers"]["detail"] == f"11.1 in {stub_tensorrt / 'include'}"
    assert f"ABI {library_files.ABI_VERSION}" in parts["libparo_attention"]["detail"]
    assert parts["libparo_attention_autoreg"]["present"]
    # Its GPU is only pretended: the implementation itself refuses, and says why.
    (cuda,) = [backend for backend in document["backends"] if backend["name"] == "cuda"]
    assert cuda["state"] == "missing"
    assert cuda["detail"]
    assert not cuda["detail"].startswith("needs")
    assert "does not load: libtensorrt_rtx.so" in parts["tensorrt_rtx"]["detail"]
    assert parts["tensorrt_rtx"]["remedy"] == "pip install tensorrt-rtx --force-reinstall"


def test_what_does_not_go_with_the_driver_is_said_with_the_fix(paro, stub_tensorrt, monkeypatch):
    """A driver of CUDA 12, the rest of CUDA 13, and too old a GPU."""
    site = stub_tensorrt / "site"
    (site / "tensorrt_cu13-10.16.1.11.dist-info").mkdir()
    (site / "tensorrt_cu13-10.16.1.11.dist-info" / "METADATA").write_text(
        "Metadata-Version: 2.1\nName: tensorrt_cu13\nVersion: 10.16.1.11\n"
    )
    fake_cuda_library(stub_tensorrt / "libparo_attention.so", "13.0")
    for name, value in fake_driver((12, 8), "570.86.15", (75,)).items():
        monkeypatch.setenv(name, value)
    document = paro("doctor", "--json").document()
    refused = "expected a driver of CUDA 13, 580.65.06 or later, got 570.86.15, CUDA 12.8; fix: "
    assert [line.partition(refused)[::2] for line in document["mismatches"][1:]] == [
        ("tensorrt 10.16.1.11 of CUDA 13: ", "update the driver, or pip install tensorrt-cu12"),
        (
            "cuda-bindings 13.5.0: ",
            "update the driver, or pip install 'cuda-bindings<13'",
        ),
        (
            "libparo_attention of CUDA 13: ",
            "update the driver, or compile the plugin for CUDA 12: CUDA_MAJOR=12 make plugin",
        ),
    ]
    assert document["mismatches"][0].startswith("Fake GPU 0: expected SM 80 or later")
    assert states(document)["tensorrt"] == "missing"
    assert document["cpu_chain"]  # needs none of it


@pytest.mark.long
def test_tensorrt_for_rtx_builds_around_the_plugin(paro, stub_tensorrt):
    (stub_tensorrt / "site" / "tensorrt_rtx.py").write_text("__version__ = '1.7.1.116'")
    assert states(paro("doctor", "--json").document())["tensorrt_rtx"] == "runs"
    (stub_tensorrt / "libparo_attention.so").unlink()
    document = paro("doctor", "--json").document()
    (rtx,) = [backend for backend in document["backends"] if backend["name"] == "tensorrt_rtx"]
    assert rtx["state"] == "missing"
    assert "libparo_attention: make plugin" in rtx["detail"]


def test_what_engines_lack_is_said_with_the_command(paro, stub_tensorrt):
    (stub_tensorrt / "libparo_attention.so").write_bytes(b"no library")
    (stub_tensorrt / "site" / "tensorrt.py").unlink()
    outcome = paro("doctor")
    assert outcome.status == 0
    lines = [line for line in outcome.stdout.splitlines() if line.startswith("for TensorRT")]
    assert len(lines) == 2
    assert "make plugin (docs/tensorrt-plugin.md)" in lines[0]
    assert "pip install tensorrt" in lines[1]


def test_a_tool_is_shown_with_its_release_not_its_build(tmp_path, monkeypatch):
    lines = "Copyright", "tools, release 13.0, V13.0.88", "Build cuda_13.0.r13.0/compiler.1"
    tool = tmp_path / "nvcc"
    tool.write_text("#!/bin/sh\n" + "".join(f"echo '{line}'\n" for line in lines))
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    assert probes.tool("nvcc", "compiling", "").detail == "tools, release 13.0, V13.0.88"


def test_directories_that_are_one_are_named_once(tmp_path, monkeypatch):
    monkeypatch.delenv("PARO_LIBRARY_DIR", raising=False)
    monkeypatch.setattr(library_files, "__file__", str(tmp_path / "paro_trt" / "library_files.py"))
    monkeypatch.setattr(library_files.sysconfig, "get_path", lambda _: str(tmp_path))
    with pytest.raises(BackendUnavailableError) as refused:
        library_path("attention")
    assert str(refused.value).count(str(tmp_path)) == 1
