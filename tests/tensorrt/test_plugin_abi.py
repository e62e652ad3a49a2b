"""The project's own declarations of TensorRT: against what was measured, and the tool itself."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from paro_trt.engine.plugin_library import AUTOREG_LIBRARY, LIBRARY
from paro_trt.errors import BackendUnavailableError
from paro_trt.library_files import library_path
from tests.native_builds import ROOT

from .harness import SOURCES, host_build, run

ABI = SOURCES / "abi"
CHECK = ABI / "check.py"
DECLARATIONS = ABI / "nv_infer_runtime.h"

# What the declarations leave out, for a directory that passes for an SDK's.
REST_OF_AN_SDK = """
#define NV_TENSORRT_MAJOR 11
namespace nvinfer1 {
class IPluginRegistry {
 protected:
  virtual ~IPluginRegistry() noexcept = 0;

 public:
  virtual void slot_2() = 0;
  virtual void slot_3() = 0;
  virtual void slot_4() = 0;
  virtual void slot_5() = 0;
  virtual void slot_6() = 0;
  virtual void slot_7() = 0;
  virtual bool registerCreator(IPluginCreatorInterface&, const AsciiChar*) noexcept = 0;
  virtual IPluginCreatorInterface* const* getAllCreators(int32_t*) const noexcept = 0;
};
}  // namespace nvinfer1
"""

# Changes that a future TensorRT could make, and a word of the line that must report each.
CHANGES = {
    "a slot moved": (
        "virtual int32_t getNbOutputs() const noexcept = 0;",
        "virtual void added() noexcept = 0;\n  virtual int32_t getNbOutputs() const noexcept = 0;",
        "+ IPluginV3OneBuild::getNbOutputs: slot 9",
    ),
    "an argument changed": (
        "virtual int32_t setTactic(int32_t)",
        "virtual int32_t setTactic(int64_t)",
        "- IPluginV3OneRuntime::setTactic: slot 4, int",
    ),
    "an enumerator renumbered": ("kBF16 = 7,", "kBF16 = 17,", "+ DataType::kBF16 = 17"),
    "a version raised": (
        '{"PLUGIN_V3ONE_RUNTIME", 1, 0}',
        '{"PLUGIN_V3ONE_RUNTIME", 2, 0}',
        "+ IPluginV3OneRuntime: kind 'PLUGIN_V3ONE_RUNTIME' 2.0",
    ),
    "a member moved": (
        "  Dims dims;\n  DataType type;",
        "  DataType type;\n  Dims dims;",
        "- PluginTensorDesc::dims: offset 0",
    ),
    "the registry moved": (
        "virtual void slot_7() = 0;",
        "",
        "+ IPluginRegistry of TensorRT 11: registerCreator slot 7",
    ),
}


def check(*headers: Path) -> subprocess.CompletedProcess[str]:
    if shutil.which("g++") is None:
        pytest.skip("g++ is not on the PATH")
    command = [sys.executable, str(CHECK), *map(str, headers)]
    return subprocess.run(command, capture_output=True, text=True, timeout=120)


def sdk(folder: Path, old: str = "", new: str = "") -> Path:
    text = DECLARATIONS.read_text() + REST_OF_AN_SDK
    assert old in text
    (folder / "NvInferRuntime.h").write_text(_without_asserts(text.replace(old, new)))
    return folder


def _without_asserts(text: str) -> str:
    """They would stop the compiler before anything could be compared."""
    before, _, rest = text.partition("static_assert(")
    while rest:
        rest = rest.partition(");\n")[2]
        more, _, rest = rest.partition("static_assert(")
        before += more
    return before


def test_declarations_are_what_was_measured_on_releases() -> None:
    done = check()
    assert done.returncode == 0, done.stdout
    assert done.stdout == "measured_layout.txt: 130 facts, 0 lines differ\n"


def test_equal_headers_agree(tmp_path: Path) -> None:
    done = check(sdk(tmp_path))
    assert done.returncode == 0, done.stdout
    assert f"{tmp_path}: 129 facts, 0 lines differ" in done.stdout


@pytest.mark.parametrize("change", CHANGES, ids=str)
def test_other_headers_are_told_line_by_line(change: str, tmp_path: Path) -> None:
    old, new, line = CHANGES[change]
    done = check(sdk(tmp_path, old, new))
    assert done.returncode == 1
    assert line in done.stdout


INCLUDES_ANOTHER = '#include "NvInferImpl.h"\n'
VERSION_8 = (
    "#define NV_TENSORRT_MAJOR 8\n#define NV_TENSORRT_MINOR 6\n#define NV_TENSORRT_PATCH 1\n"
)
VERSION_11 = """
#define TRT_MAJOR_ENTERPRISE 11
#define NV_TENSORRT_MAJOR TRT_MAJOR_ENTERPRISE //!< TensorRT major version.
#define NV_TENSORRT_MINOR 1
#define NV_TENSORRT_PATCH 0
"""


@pytest.mark.parametrize(
    ("files", "said"),
    [
        (None, "found no such directory; name an include directory or an SDK"),
        ({}, "found none; name an include directory or an SDK"),
        ({"NvInferRuntime.h": "#error broken\n"}, "expected headers that compile, got"),
        ({"NvInferRuntime.h": INCLUDES_ANOTHER}, "NvInferImpl.h: No such file"),
        ({"NvInferRuntime.h": "class IPluginV3;\n"}, "more)"),
        (
            {"NvInferRuntime.h": "", "NvInferVersion.h": VERSION_8},
            "expected TensorRT 10 or later, got 8.6.1",
        ),
    ],
    ids=["no directory", "empty", "broken", "partial", "other", "too old"],
)
def test_what_is_no_header_is_refused_in_one_line(
    files: dict[str, str] | None, said: str, tmp_path: Path
) -> None:
    folder = tmp_path / "headers"
    if files is not None:
        folder.mkdir()
    for name, content in (files or {}).items():
        (folder / name).write_text(content)
    done = check(folder)
    assert done.returncode == 2
    assert done.stderr.startswith(f"abi-check: {folder}: expected ")
    assert done.stderr.count("\n") == 1
    assert said in done.stderr


def test_every_directory_is_looked_at(tmp_path: Path) -> None:
    """Also the include directory of an SDK, after one that cannot be used and one that differs."""
    kit, other = tmp_path / "kit" / "include", tmp_path / "other"
    for folder in (kit, other):
        folder.mkdir(parents=True)
    (sdk(kit) / "NvInferVersion.h").write_text(VERSION_11)
    old, new, line = CHANGES["an enumerator renumbered"]
    done = check(tmp_path / "none", sdk(other, old, new), kit.parent)
    assert done.returncode == 2
    assert line in done.stdout
    assert f"{kit.parent} (11.1.0): 129 facts, 0 lines differ" in done.stdout
    assert check(other, kit).returncode == 1


def test_without_a_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXX", "no-such-compiler -O1")
    done = check()
    assert done.returncode == 2
    assert "expected a C++ compiler, got no-such-compiler" in done.stderr
    assert done.stderr.count("\n") == 1


def test_make_runs_it(tmp_path: Path) -> None:
    done = subprocess.run(
        ["make", "-s", "-C", ROOT, "abi-check", f"HEADERS={sdk(tmp_path)}"],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    assert "129 facts, 0 lines differ" in done.stdout


def exported_names(library: Path) -> set[str]:
    lines = run("nm", "-D", "--defined-only", library).splitlines()
    return {line.split()[-1] for line in lines}


def test_libraries_export_their_entry_points_and_nothing_else() -> None:
    build = host_build()
    c_abi = {
        "paro_abi_version", "paro_describe", "paro_forward", "paro_last_error",
        "paro_library_name", "paro_measure_peak", "paro_prepare", "paro_workspace_bytes",
    }  # fmt: skip
    assert exported_names(build.library) == {"getCreators", "setLoggerFinder", *c_abi}
    assert exported_names(build.autoreg) == set()


def test_the_installed_pair_exports_the_same() -> None:
    """What `make plugin` installed, if it has been run."""
    try:
        core, autoreg = map(library_path, (LIBRARY, AUTOREG_LIBRARY))
    except BackendUnavailableError:
        pytest.skip("make plugin has not been run")
    names = exported_names(core)
    assert {"getCreators", "setLoggerFinder"} == {n for n in names if not n.startswith("paro_")}
    assert names == exported_names(host_build().library)
    assert exported_names(autoreg) == set()


def test_libraries_need_nothing_but_the_c_library_and_libgcc() -> None:
    """Both are in every Linux; libgcc is the system's, as a linked one asks for a newer glibc."""
    build = host_build()
    for library in (build.library, build.autoreg):
        dynamic = run("readelf", "-d", library)
        needed = {
            line.split("[")[1].rstrip("]") for line in dynamic.splitlines() if "NEEDED" in line
        }
        assert needed <= {"libc.so.6", "libm.so.6", "libgcc_s.so.1", "ld-linux-x86-64.so.2"}


def test_autoreg_without_tensorrt_says_so() -> None:
    if any(map(can_be_loaded, ("libnvinfer.so.10", "libnvinfer.so.11"))):
        pytest.skip("this machine has TensorRT on the loader's path")
    load = f"import ctypes; ctypes.CDLL({str(host_build().autoreg)!r})"
    said = run(sys.executable, "-c", load)
    assert "expected TensorRT in this process or on the loader's path, found none" in said
    assert "load it before this library, or add its folder to LD_LIBRARY_PATH" in said


def can_be_loaded(library: str) -> bool:
    load = [sys.executable, "-c", f"import ctypes; ctypes.CDLL({library!r})"]
    return subprocess.run(load, capture_output=True).returncode == 0
