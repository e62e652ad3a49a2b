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
    assert (status, chosen) == (0, "")
    assert f"nvcc: {old} is of CUDA 12.4, older than 12.8: not used" in said
    new = nvcc(tmp_path / "new", "13.1")
    assert choose(old, new, **fake_driver(*NEW_DRIVER))[:2] == (0, str(new))


def test_of_two_the_one_that_the_driver_runs_is_taken(tmp_path: Path) -> None:
    new, fitting = nvcc(tmp_path / "new", "13.0"), nvcc(tmp_path / "fitting", "12.9")
    assert choose(new, fitting, **fake_driver(*OLD_DRIVER))[:2] == (0, str(fitting))
    assert choose(new, fitting, **fake_driver(*NEW_DRIVER))[:2] == (0, str(new))


def test_a_library_that_would_not_run_here_is_refused_first(tmp_path: Path) -> None:
    new = nvcc(tmp_path / "new", "13.0")
    status, chosen, said = choose(new, **fake_driver(*OLD_DRIVER))
    assert (status, chosen) == (2, "")
    assert f"make: {new}: expected a driver of CUDA 13, 580.65.06 or later, got 570.86.15" in said
    assert "CUDACXX" in said
    # Nor is the one from PyPI downloaded for it.
    status, chosen, said = choose(**fake_driver(*OLD_DRIVER))
    assert (status, "nvcc 13.0 from PyPI: expected a driver" in said) == (2, True)


def test_for_another_machine_the_driver_does_not_matter(tmp_path: Path) -> None:
    new = nvcc(tmp_path / "new", "13.0")
    status, chosen, said = choose(new, **fake_driver(*OLD_DRIVER), PARO_DRIVER_CHECK="0")
    assert (status, chosen) == (0, str(new))
    assert "will need one of CUDA 13, 580.65.06 or later" in said


@pytest.fixture
def tools(tmp_path: Path) -> Path:
    """A PATH on which cmake writes down what it would do."""
    folder = tmp_path / "tools"
    folder.mkdir()
    (folder / "cmake").write_text('#!/bin/sh\necho "$CUDACXX" "$@"\n')
    (folder / "cmake").chmod(0o755)
    return folder


def build(tools: Path, *candidates: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """build_preset.sh of the preset plugin, with these nvcc on the PATH and in CUDACXX."""
    path = os.pathsep.join([str(tools), *(str(file.parent) for file in candidates)])
    env = {
        **os.environ, **environment, "PATH": f"{path}{os.pathsep}/usr/bin:/bin",
        "CUDA_HOME": str(tools / "none"),
    }  # fmt: skip
    env.pop("CUDACXX", None)
    words = ["plugins/cmake/build_preset.sh", "plugin", "build/no-venv", sys.executable]
    return subprocess.run(words, capture_output=True, text=True, cwd=ROOT, env=env, check=False)


def test_the_build_starts_with_the_chosen_nvcc(tmp_path: Path, tools: Path) -> None:
    old, new = nvcc(tmp_path / "old" / "nvcc", "12.0"), nvcc(tmp_path / "new" / "nvcc", "12.9")
    done = build(tools, new, old, **fake_driver(*OLD_DRIVER))
    assert done.returncode == 0, done.stderr
    first = done.stdout.splitlines()[0]
    assert first == f"{new} --preset plugin"


def test_the_build_refuses_before_it_compiles(tmp_path: Path, tools: Path) -> None:
    new = nvcc(tmp_path / "new" / "nvcc", "13.0")
    done = build(tools, new, **fake_driver(*OLD_DRIVER))
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith(f"make: {new}: expected a driver of CUDA 13")
