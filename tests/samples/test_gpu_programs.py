"""The GPU suite's programs: compiled, read, and run where no GPU is needed; its shell scripts."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

from paro_trt.op.native import library_path
from tests.native_builds import require
from tests.plugins.emulator_builds import run

ROOT = Path(__file__).resolve().parents[2]
BENCHMARKS = ROOT / "samples" / "benchmarks"
SUITE = BENCHMARKS / "gpu"
STUB = Path(__file__).with_name("cuda_stub")


def test_sanitized_calls_are_calls_that_a_library_takes(tmp_path):
    """On the CPU backend: the same calls, with CUDA's runtime on the host's own memory."""
    require("g++")
    program = tmp_path / "calls"
    options = ["-std=c++20", "-Wall", "-Wextra", "-Wshadow", "-Werror", f"-I{STUB}"]
    options += [f"-I{ROOT / 'plugins' / 'include'}", "-x", "c++"]
    run(["g++", *options, SUITE / "sanitized_calls.cu", "-o", program, "-ldl"])
    assert run([program, library_path("cpu")]).startswith("32 calls, kernels: ")
    with pytest.raises(pytest.fail.Exception, match="ended with 2"):
        run([program, tmp_path / "no-such.so"])


@pytest.mark.long
@pytest.mark.parametrize("target", ["80", "90a", "120"])
@pytest.mark.parametrize("source", ["rates.cu", "sanitized_calls.cu"])
def test_programs_compile_without_a_remark(source, target, tmp_path):
    require("nvcc", "g++")
    command = ["nvcc", "-std=c++20", "-O3", f"-I{ROOT / 'plugins'}", "-Werror", "all-warnings"]
    command += [f"-I{ROOT / 'plugins' / 'include'}", "-Xcompiler=-Wall,-Wextra,-Wshadow,-Werror"]
    command += ["-gencode", f"arch=compute_{target},code=sm_{target}"]
    command += [str(SUITE / source), "-o", str(tmp_path / "program"), "-ldl"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=540)
    assert done.returncode == 0, done.stderr
    assert "ptxas" not in done.stderr, done.stderr


PIPES = {
    "WarpProductsILb1E": (8, r"IMMA\.16832\.S8\.S8"),
    "WarpProductsILb0E": (8, r"HMMA\.16816\.F32\.BF16"),
    "WarpgroupProductsILb0E": (4, r"IGMMA\.64x256x32\.S8\.S8"),
    "WarpgroupProductsILb1E": (4, r"IGMMA\.64x256x32\.U8\.S8"),
    "Exponentials": (8, r"MUFU\.EX2"),
    "MultiplyAdds": (8, r"FFMA"),
    "IntegersToFloats": (8, r"I2FP\.F32\.S32"),
    "Packing": (16, r"F2IP\.U8\.F32"),
    "SharedLoads": (8, r"LDSM\.16\.M88\.4"),
}
"""Body of rates.cu -> the instructions that its loop must hold, and how many."""


@pytest.mark.long
def test_every_rate_is_of_the_instruction_it_is_named_after(tmp_path):
    """The loop of each body, in the machine code of sm_90a: nothing dropped, nothing moved out."""
    require("nvcc", "nvdisasm")
    cubin = tmp_path / "rates.cubin"
    command = ["nvcc", "-std=c++20", "-O3", f"-I{ROOT / 'plugins'}", "-cubin", "-arch=sm_90a"]
    run([*command, SUITE / "rates.cu", "-o", cubin])
    kernels = run(["nvdisasm", "-c", cubin]).split(".section\t.text.")[1:]
    for body, (count, opcode) in PIPES.items():
        (listing,) = (text for text in kernels if body in text.splitlines()[0])
        found = [len(re.findall(rf"\b{opcode}", loop)) for loop in loops(listing)]
        assert max(found) == count, (body, found)
        assert not re.search(r"\b(LDL|STL)\b", listing), body


def loops(listing: str) -> list[str]:
    """The stretches between a label and a branch back to it."""
    labels: dict[str, int] = {}
    found = []
    lines = listing.splitlines()
    for number, line in enumerate(lines):
        if label := re.match(r"(\.L_x_\w+):", line):
            labels[label[1]] = number
        branch = re.search(r"\bBRA\b.*`\((\.L_x_\w+)\)", line)
        if branch and branch[1] in labels:
            found.append("\n".join(lines[labels[branch[1]] : number]))
    return found


def test_shell_scripts_have_no_remarks():
    require("shellcheck")
    run(["shellcheck", BENCHMARKS / "gpu_suite.sh", SUITE / "tolerate_warnings.sh"])
