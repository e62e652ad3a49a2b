"""What `make plugin` compiles with, and what it refuses before it compiles."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.fake_driver import fake_driver

ROOT = Path(__file__).resolve().parents[2]
OLD_DRIVER, NEW_DRIVER = ((12, 8), "570.86.15"), ((13, 0), "580.65.06")


def nvcc(path: Path, release: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\necho 'Cuda compilation tools, release {release}, V{release}.1'\n")
    path.chmod(0o755)
    return path


def choose(*candidates: Path, **environment: str) -> tuple[int, str, str]:
    """Exit status, choice and messages of `make plugin`'s question."""
    done = subprocess.run(
        [sys.executable, "-S", "-m", "paro_trt.nvidia.choose_nvcc", "", *candidates],
        capture_output=True, text=True, cwd=ROOT, env={**os.environ, **environment}, check=False,
    )  # fmt: skip
    assert "Traceback" not in done.stderr
    return done.returncode, done.stdout.strip(), done.stderr


def test_an_nvcc_that_is_too_old_gives_way_to_the_wheels(tmp_path: Path) -> None:
    old, broken = nvcc(tmp_path / "old", "12.4"), tmp_path / "missing"
    status, chosen, said = choose(old, broken, **fake_driver(*NEW_DRIVER))
    assert (status, chosen) == (0, "install")
    assert f"nvcc: {old} is of CUDA 12.4, older than 12.8: not used" in said
    new = nvcc(tmp_path / "new", "13.1")
    assert choose(old, new, **fake_driver(*NEW_DRIVER))[:2] == (0, f"use {new}")


def test_of_two_the_one_that_the_driver_runs_is_taken(tmp_path: Path) -> None:
    new, fitting = nvcc(tmp_path / "new", "13.0"), nvcc(tmp_path / "fitting", "12.9")
    assert choose(new, fitting, **fake_driver(*OLD_DRIVER))[:2] == (0, f"use {fitting}")
    assert choose(new, fitting, **fake_driver(*NEW_DRIVER))[:2] == (0, f"use {new}")


def test_for_an_older_driver_a_toolkit_is_made(tmp_path: Path) -> None:
    """Around nvcc 13.0 alone, which was tried; another release has PyPI's next to it."""
    new, newer = nvcc(tmp_path / "new", "13.0"), nvcc(tmp_path / "newer", "13.1")
    assert choose(newer, new, **fake_driver(*OLD_DRIVER))[:2] == (0, f"assemble {new}")
    assert choose(newer, **fake_driver(*OLD_DRIVER))[:2] == (0, "install")
    assert choose(**fake_driver(*OLD_DRIVER))[:2] == (0, "install")


def test_the_cuda_to_compile_for_can_be_chosen(tmp_path: Path) -> None:
    new, old = nvcc(tmp_path / "new", "13.0"), nvcc(tmp_path / "old", "12.8")
    driver = fake_driver(*NEW_DRIVER)
    assert choose(new, **driver, CUDA_MAJOR="12")[:2] == (0, f"assemble {new}")
    assert choose(new, old, **driver, CUDA_MAJOR="12")[:2] == (0, f"use {old}")
    assert choose(old, new, **driver, CUDA_MAJOR="13")[:2] == (0, f"use {new}")
    assert choose(old, **driver, CUDA_MAJOR="13")[:2] == (0, "install")
    status, chosen, said = choose(new, PARO_DRIVER_CHECK="0", CUDA_MAJOR="12")
    assert (status, chosen) == (0, f"assemble {new}")
    assert "will need one of CUDA 12, 525.60.13 or later" in said


@pytest.mark.parametrize("major", ["11", "14", "12.9", "new"])
def test_another_cuda_is_refused(major: str) -> None:
    status, chosen, said = choose(PARO_DRIVER_CHECK="0", CUDA_MAJOR=major)
    assert (status, chosen) == (2, "")
    assert "make: CUDA_MAJOR: expected 12 or 13, got" in said
    assert "; fix: leave it out" in said


def test_a_library_that_would_not_run_here_is_refused_first(tmp_path: Path) -> None:
    """Nothing is downloaded for it."""
    new = nvcc(tmp_path / "new", "13.0")
    status, chosen, said = choose(new, **fake_driver(*OLD_DRIVER), CUDA_MAJOR="13")
    assert (status, chosen) == (2, "")
    assert "make: a plugin of CUDA 13: expected a driver of CUDA 13, 580.65.06 or later" in said
    assert "got 570.86.15, CUDA 12.8; fix: update the driver, or build for another" in said
    status, chosen, said = choose(new, **fake_driver((11, 8), "520.61.05"))
    assert (status, chosen) == (2, "")
    assert "expected a driver of CUDA 12, 525.60.13 or later" in said


def test_for_another_machine_the_driver_does_not_matter(tmp_path: Path) -> None:
    new = nvcc(tmp_path / "new", "13.0")
    status, chosen, said = choose(new, **fake_driver(*OLD_DRIVER), PARO_DRIVER_CHECK="0")
    assert (status, chosen) == (0, f"use {new}")
    assert "will need one of CUDA 13, 580.65.06 or later" in said


@pytest.fixture
def tools(tmp_path: Path) -> Path:
    """A PATH on which cmake writes down what it would do."""
    folder = tmp_path / "tools"
    folder.mkdir()
    (folder / "cmake").write_text('#!/bin/sh\necho "$CUDACXX" "$@"\n')
    (folder / "cmake").chmod(0o755)
    return folder


def build(
    tools: Path, *candidates: Path, cwd: Path = ROOT, **environment: str
) -> subprocess.CompletedProcess[str]:
    """build_preset.sh of the preset plugin, with these nvcc on the PATH and in CUDACXX."""
    path = os.pathsep.join([str(tools), *(str(file.parent) for file in candidates)])
    env = {
        **os.environ, **environment, "PATH": f"{path}{os.pathsep}/usr/bin:/bin",
        "CUDA_HOME": str(tools / "none"),
    }  # fmt: skip
    env.pop("CUDACXX", None)
    words = ["plugins/cmake/build_preset.sh", "plugin", "build/no-venv", sys.executable]
    return subprocess.run(words, capture_output=True, text=True, cwd=cwd, env=env, check=False)


def test_the_build_starts_with_the_chosen_nvcc(tmp_path: Path, tools: Path) -> None:
    old, new = nvcc(tmp_path / "old" / "nvcc", "12.0"), nvcc(tmp_path / "new" / "nvcc", "12.9")
    done = build(tools, new, old, **fake_driver(*OLD_DRIVER))
    assert done.returncode == 0, done.stderr
    first = done.stdout.splitlines()[0]
    assert first == f"{new} --preset plugin"


def test_the_build_refuses_before_it_compiles(tmp_path: Path, tools: Path) -> None:
    new = nvcc(tmp_path / "new" / "nvcc", "13.0")
    done = build(tools, new, **fake_driver(*OLD_DRIVER), CUDA_MAJOR="13")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("make: a plugin of CUDA 13: expected a driver of CUDA 13")


@pytest.fixture
def toolkit_13(tmp_path: Path) -> Path:
    """Its files say what they are; nvcc answers for its version and for where it is."""
    root = tmp_path / "toolkit"
    for folder in ("bin", "include/crt", "include/cccl", "nvvm/bin", "nvvm/libdevice"):
        (root / folder).mkdir(parents=True)
    for name in ("cudafe++", "fatbinary", "bin2c", "nvlink", "nvcc.profile", "crt"):
        (root / "bin" / name).write_text("13")
    (root / "include" / "fatbinary_section.h").write_text("13")
    (root / "bin" / "nvcc").write_text(f"#!/bin/sh\necho '#$ TOP={root}/bin/..' >&2\n")
    (root / "nvvm" / "bin" / "cicc").write_text(
        "#!/bin/sh\nprintf '.version 9.0\\n.target sm_80\\n' > \"$3\"\n"
    )
    for program in (root / "bin" / "nvcc", root / "nvvm" / "bin" / "cicc"):
        program.chmod(0o755)
    return root


@pytest.fixture
def wheels_12(tmp_path: Path) -> Path:
    """What cuda12-wheels.txt installs."""
    nvidia = tmp_path / "wheels" / "nvidia"
    for name in (
        "cuda_nvcc/bin/ptxas",
        "cuda_nvcc/include/crt/host_runtime.h",
        "cuda_runtime/include/cuda_runtime.h",
        "cuda_runtime/lib/libcudart_static.a",
    ):
        (nvidia / name).parent.mkdir(parents=True, exist_ok=True)
        (nvidia / name).write_text("12")  # fmt: skip
    return nvidia.parent


def test_a_toolkit_for_cuda_12_compiles_by_13_and_assembles_by_12(
    tmp_path: Path, toolkit_13: Path, wheels_12: Path
) -> None:
    folder = tmp_path / "cuda12"
    words = ["plugins/cmake/assemble_cuda12.sh", folder, toolkit_13 / "bin" / "nvcc", wheels_12]
    for _ in range(2):  # a folder that is there is made anew
        subprocess.run(words, cwd=ROOT, check=True)
    of_12 = ("bin/ptxas", "include/cuda_runtime.h", "lib64/libcudart_static.a")
    assert [(folder / name).read_text() for name in of_12] == ["12"] * 3
    assert os.access(folder / "bin" / "ptxas", os.X_OK)
    assert (folder / "bin" / "cudafe++").read_text() == "13"
    assert not (folder / "include" / "crt" / "host_runtime.h").exists()  # 13's, with cudafe++
    assert not (folder / "bin" / "nvcc").is_symlink()
    ptx = tmp_path / "kernel.ptx"
    subprocess.run([folder / "nvvm" / "bin" / "cicc", "in.ii", "-o", ptx], check=True)
    assert ptx.read_text() == ".version 8.8\n.target sm_80\n"


def test_another_nvcc_starts_a_build_folder_anew(tmp_path: Path, tools: Path) -> None:
    """CMake would go on with the compiler of the first."""
    checkout = tmp_path / "checkout"
    (checkout / "plugins").mkdir(parents=True)
    for name in ("plugins/cmake", "paro_trt"):
        (checkout / name).symlink_to(ROOT / name)
    cache = checkout / "build" / "plugin" / "CMakeCache.txt"
    first, second = (nvcc(tmp_path / name / "nvcc", "13.0") for name in ("first", "second"))
    for chosen, is_kept in ((first, True), (second, False)):
        cache.parent.mkdir(parents=True, exist_ok=True)
        cache.write_text(f"CMAKE_CUDA_COMPILER:FILEPATH={first}\n")
        done = build(tools, chosen, cwd=checkout, **fake_driver(*NEW_DRIVER))
        assert done.returncode == 0, done.stderr
        assert cache.exists() == is_kept
