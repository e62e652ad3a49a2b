"""Instruction sets of the CPU backend, by the names PARO_CPU_ISA takes."""

from __future__ import annotations

import os
import platform
from collections.abc import Iterator
from contextlib import contextmanager

from torch import Tensor

from paro_trt.errors import BackendUnavailableError
from paro_trt.op import native
from paro_trt.op.spec import AttentionConfig, AttentionInputs
from tests.support.cases import OpCase, random_inputs
from tests.support.numerics import compare_all

VARIABLE = "PARO_CPU_ISA"
ALL = {
    "x86_64": ("generic", "avx2", "avx2_vnni", "avx512", "avx512_vnni", "avx512_bf16"),
    "aarch64": ("generic", "neon_dot"),
}.get(platform.machine(), ("generic",))


@contextmanager
def instruction_set(name: str) -> Iterator[None]:
    """Makes the backend use this instruction set within the context."""
    # One variable alone: mock.patch.dict clears and refills the environment, under the feet of
    # native threads that read it.
    before = os.environ.get(VARIABLE)
    os.environ[VARIABLE] = name
    try:
        yield
    finally:
        if before is None:
            del os.environ[VARIABLE]
        else:
            os.environ[VARIABLE] = before


def of_this_processor() -> list[str]:
    """Those that the installed library runs here."""
    library = native.load_library(native.library_path("cpu"))
    case = OpCase("any", 64)
    inputs = random_inputs(case, 0)
    found = []
    for name in ALL:
        with instruction_set(name):
            try:
                library.describe(inputs, case.config)
            except BackendUnavailableError:
                continue
        found.append(name)
    return found


def forward_on_each_isa(
    library: native.NativeLibrary,
    inputs: AttentionInputs,
    config: AttentionConfig,
    threads: int = 2,
) -> Iterator[tuple[str, Tensor]]:
    """The output of a call on each instruction set of this processor."""
    names = of_this_processor()
    assert "generic" in names
    for name in names:
        with instruction_set(name):
            yield name, library.forward(inputs, config, threads)


def assert_each_isa_is_right(
    library: native.NativeLibrary, inputs: AttentionInputs, config: AttentionConfig
) -> None:
    """Hold the output of each instruction set against the float64 oracle."""
    outputs = dict(forward_on_each_isa(library, inputs, config))
    wrong = {isa: x for isa, x in compare_all(outputs, inputs, config).items() if not x.ok}
    assert not wrong, (config, wrong)
