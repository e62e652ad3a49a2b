"""The CPU backend's C ABI under sanitizers, built apart from the installed library."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.plugins.cpu_instruction_sets import of_this_processor

PLUGINS = Path(__file__).parents[2] / "plugins"

pytestmark = pytest.mark.skipif(
    shutil.which("cmake") is None or shutil.which("g++") is None, reason="needs cmake and g++"
)


def run(*words: object, **environment: str) -> str:
    done = subprocess.run(
        [str(word) for word in words],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=500,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.long
@pytest.mark.parametrize("sanitizers", ["address,undefined", "thread"])
def test_random_calls_and_misuse(sanitizers, tmp_path, fresh_seed):
    run(
        "cmake", "-S", PLUGINS, "-B", tmp_path, "-DCMAKE_BUILD_TYPE=RelWithDebInfo",
        "-DPARO_BUILD_TESTS=ON", "-DPARO_BUILD_EMULATOR=OFF", "-DPARO_BUILD_ONNXRUNTIME=OFF",
        "-DPARO_BUILD_TENSORRT=OFF",
        f"-DPARO_SANITIZE={sanitizers}",
    )  # fmt: skip
    run("cmake", "--build", tmp_path, "--target", "paro_cpu_c_abi_check")
    program = tmp_path / "cpu" / "paro_cpu_c_abi_check"
    for isa in of_this_processor():
        assert "0 failed" in run(program, fresh_seed, PARO_CPU_ISA=isa)
