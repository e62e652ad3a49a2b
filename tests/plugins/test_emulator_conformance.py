"""The conformance program: the emulator's side runs, the GPU's side compiles, dumps compare."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.native_builds import PLUGINS, require

from .emulator_builds import MODES, require_build, run

COMPARE = PLUGINS / "emulator" / "conformance" / "compare.py"
KERNELS = [
    *COMPARE.parent.glob("*.cuh"),
    *(PLUGINS / "emulator" / "tests").glob("*_attention.cuh"),
]


def emulator_dump(path: Path, mode: str) -> Path:
    program = require_build("plain") / "emulator" / "conformance" / "conformance_emulator"
    run([program, path], {**os.environ, **MODES[mode]})
    return path


def compare(one: Path, other: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(COMPARE), str(one), str(other)]
    return subprocess.run(command, capture_output=True, text=True, timeout=60)


@pytest.mark.parametrize("mode", ["late", "seeded", "late-seeded"])
def test_modes_agree(tmp_path: Path, mode: str) -> None:
    one, other = emulator_dump(tmp_path / "early", "early"), emulator_dump(tmp_path / mode, mode)
    result = compare(one, other)
    assert result.returncode == 0, result.stdout
    for name in ("mma_integer_0", "cp_async_ldmatrix", "wgmma_n256_k64_shared", "bulk_load"):
        assert name in result.stdout


def test_one_wrong_word_is_found(tmp_path: Path) -> None:
    one = emulator_dump(tmp_path / "one", "early")
    content = bytearray(one.read_bytes())
    content[content.index(b"\n", content.index(b"wgmma_n128_k128_shared")) + 5] ^= 1
    other = tmp_path / "other"
    other.write_bytes(content)
    result = compare(one, other)
    assert result.returncode == 1
    assert "first at 1:" in result.stdout
    assert "DIFFERENT" in result.stdout


def test_a_truncated_dump_is_refused(tmp_path: Path) -> None:
    one = emulator_dump(tmp_path / "one", "early")
    other = tmp_path / "other"
    other.write_bytes(one.read_bytes()[:-8])
    result = compare(one, other)
    assert result.returncode == 2
    assert "truncated" in result.stdout


def test_every_wrapper_takes_part() -> None:
    """The emulation of an instruction is checked only where both sides compute it."""
    wrappers: set[str] = set()
    for header in (PLUGINS / "ptx").glob("*.cuh"):
        wrappers |= set(re.findall(r"^PTX_FN [\w ]+?\b(\w+)\(", header.read_text(), re.MULTILINE))
    assert len(wrappers) > 40
    used = {name for path in KERNELS for name in re.findall(r"ptx::(\w+)", path.read_text())}
    assert sorted(wrappers - used) == []


@pytest.mark.parametrize(
    "target", [pytest.param(of, marks=pytest.mark.long) for of in ("80", "90a")]
)
def test_gpu_side_compiles(tmp_path: Path, target: str) -> None:
    """Without a remark of ptxas, such as those about wgmma or setmaxnreg."""
    require("nvcc", "g++")
    command = ["nvcc", "-std=c++20", f"-I{PLUGINS}", "-Werror", "all-warnings"]
    command += ["-gencode", f"arch=compute_{target},code=sm_{target}"]
    command += [str(COMPARE.with_name("conformance.cu")), "-o", str(tmp_path / "conformance_gpu")]
    result = subprocess.run(command, capture_output=True, text=True, timeout=540)
    assert result.returncode == 0, result.stderr
    assert "ptxas" not in result.stderr, result.stderr
