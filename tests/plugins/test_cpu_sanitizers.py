"""The CPU backend's C ABI under sanitizers, built apart from the installed library."""

from __future__ import annotations

import shutil

import pytest

from tests.plugins.cpu_builds import build, run
from tests.plugins.cpu_instruction_sets import of_this_processor

pytestmark = pytest.mark.skipif(
    shutil.which("cmake") is None or shutil.which("g++") is None, reason="needs cmake and g++"
)


@pytest.mark.long
@pytest.mark.parametrize("sanitizers", ["address,undefined", "thread"])
def test_random_calls_and_misuse(sanitizers, tmp_path, fresh_seed):
    programs = build(
        tmp_path, "c_abi_check", CMAKE_BUILD_TYPE="RelWithDebInfo", PARO_SANITIZE=sanitizers
    )
    for isa in of_this_processor():
        output = run(programs / "paro_cpu_c_abi_check", fresh_seed, PARO_CPU_ISA=isa)
        assert f"{isa} kernels" in output
        assert "0 failed" in output
