"""Sums of stage 1 that a compiler joined with a product, on small listings and in a real kernel."""

from __future__ import annotations

import subprocess

import pytest

from plugins.kernels.sass import toolchain
from plugins.kernels.sass.contraction import contracted
from plugins.kernels.sass.listing import Function, parse

from .sass_listings import listing

# Two rows of a thread: (x - mean) * factor each, their sum to shared memory; then a level of the
# tree, and the division by the number of tokens. R40 is a reciprocal, R41 a mean.
RECIPROCAL = [
    "MUFU.RCP R30, R2",
    "FFMA R0, R2, R30, -1",
    "FADD.FTZ R3, -R0, -RZ",
    "FFMA R40, R30, R3, R30",
]
ROWS = ["FADD R6, -R41, R6", "FADD R7, -R41, R7", "FMUL R8, R6, R40", "FMUL R9, R7, R40"]
SUM = [
    "FADD R10, R8, R9",
    "STS [R24], R10",
    "LDS R12, [R8]",
    "LDS R15, [R14]",
    "FADD R52, R12, R15",
]
DIVISION = [
    "MUFU.RCP R18, R19",
    "FFMA R17, -R19, R18, 1",
    "FFMA R17, R18, R17, R18",
    "FFMA R16, R52, R17, RZ",
    "FFMA R14, -R19, R16, R52",  # adds the numerator, a sum
    "FFMA R18, R17, R14, R16",
    "STG.E [R4.64], R18",
]
MEAN = [*RECIPROCAL, *ROWS, *SUM, *DIVISION]


def function_of(*lines: str) -> Function:
    (function,) = parse(listing("mean", *lines))
    return function


def test_reciprocals_and_divisions_are_no_contraction():
    assert contracted(function_of(*MEAN)) == []


@pytest.mark.parametrize(
    ("plain", "fused"),
    [
        ("FADD R10, R8, R9", "FFMA R10, R6, R40, R9"),  # adds the product of the other row
        ("FADD R10, R8, R9", "FFMA R10, R6, R40, -R9"),
        # A row's sum so far is fused; the next level takes it.
        ("FADD R52, R12, R15", "FFMA R12, R6, R40, R12\nFADD R52, R12, R15"),
    ],
)
def test_a_contracted_sum_is_found(plain, fused):
    lines = "\n".join(MEAN).replace(plain, fused).splitlines()
    assert len(contracted(function_of(*lines))) == 1


def test_a_register_is_what_was_written_last():
    reused = "\n".join(MEAN).replace("STS [R24], R10", "MOV R9, R1\nFFMA R11, R6, R40, R9")
    assert contracted(function_of(*reused.splitlines())) == []


def test_a_contracted_kernel_of_nvcc_is_found(tmp_path):
    """The same sum of two products with explicit rounding, and fused by nvcc's choice."""
    try:
        tools = toolchain.find_toolchain()
    except toolchain.ToolError as error:
        pytest.skip(str(error))
    found = {}
    for name, total in {"explicit": "__fadd_rn(a, b)", "fused": "__fmaf_rn(x[1], x[2], b)"}.items():
        source = tmp_path / f"{name}.cu"
        source.write_text(
            "__global__ void mean(float* x) {\n  const float a = x[1] * x[2], b = x[3] * x[4];\n"
            f"  x[0] = {total};\n}}\n"
        )
        cubin = tmp_path / f"{name}.cubin"
        subprocess.run([tools.nvcc, "-arch=sm_89", "-cubin", source, "-o", cubin], check=True)
        text = subprocess.run(
            [tools.nvdisasm, "-c", "-hex", cubin], capture_output=True, text=True, check=True
        ).stdout
        (function,) = parse(text)
        found[name] = contracted(function)
    assert found["explicit"] == []
    assert len(found["fused"]) == 1
