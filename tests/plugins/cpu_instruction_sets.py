"""Instruction sets of the CPU backend, by the names PARO_CPU_ISA takes."""

from __future__ import annotations

import os
import platform
from collections.abc import Iterator
from contextlib import contextmanager

from paro_trt.errors import BackendUnavailableError
from paro_trt.op import native
from tests.support.cases import OpCase, random_inputs

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
