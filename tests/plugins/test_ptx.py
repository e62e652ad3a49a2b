"""The PTX wrappers: nvcc accepts every one for every target, and inline PTX is nowhere else."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.native_builds import PLUGINS, require

from .emulator_builds import run

PTX = PLUGINS / "ptx"
ALL_WRAPPERS = PTX / "tests" / "all_wrappers.cu"
TARGETS = ["80", "86", "89", "90a", "100", "120"]
SOURCES = {".h", ".cuh", ".cpp", ".cu"}


def test_every_wrapper_is_instantiated() -> None:
    wrappers: set[str] = set()
    for header in PTX.glob("*.cuh"):
        wrappers |= set(re.findall(r"^PTX_FN [\w ]+?\b(\w+)\(", header.read_text(), re.MULTILINE))
    assert len(wrappers) > 40
    used = set(re.findall(r"ptx::(\w+)", ALL_WRAPPERS.read_text()))
    assert sorted(wrappers - used) == []


def test_inline_ptx_is_in_the_wrappers_only() -> None:
    inline = re.compile(r"\basm\s*(volatile)?\s*\(")
    allowed = {PLUGINS / "emulator" / "fiber.cpp"}  # the x86-64 context switch
    for path in sorted(PLUGINS.rglob("*")):
        if path.suffix not in SOURCES or path.parent == PTX or path in allowed:
            continue
        assert not inline.search(path.read_text()), f"{path} has inline assembly"


@pytest.mark.parametrize("target", TARGETS)
def test_nvcc_accepts_every_wrapper(tmp_path: Path, target: str) -> None:
    require("nvcc", "g++")
    command: list[str | Path] = ["nvcc", "-std=c++20", f"-I{PLUGINS}", "-Werror", "all-warnings"]
    command += ["-Xcompiler=-Wall,-Wextra", "-gencode", f"arch=compute_{target},code=sm_{target}"]
    run([*command, "-c", ALL_WRAPPERS, "-o", tmp_path / "all_wrappers.o"])


@pytest.mark.parametrize("target", ["80", "90"])
def test_an_unavailable_wrapper_does_not_compile(tmp_path: Path, target: str) -> None:
    """wgmma exists for sm_90a alone; its use elsewhere is refused by the compiler."""
    require("nvcc", "g++")
    source = tmp_path / "refused.cu"
    source.write_text(
        '#include "ptx/wgmma.cuh"\n__global__ void kernel() { paro::ptx::wgmma_fence(); }\n'
    )
    command: list[str | Path] = ["nvcc", "-std=c++20", f"-I{PLUGINS}"]
    command += ["-gencode", f"arch=compute_{target},code=sm_{target}", "-c", source]
    with pytest.raises(pytest.fail.Exception, match="wgmma_fence"):
        run([*command, "-o", tmp_path / "refused.o"])
