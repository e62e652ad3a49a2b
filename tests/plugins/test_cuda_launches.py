"""Launches on a CUDA runtime without a GPU (cuda_device): threads, devices, errors left behind."""

from __future__ import annotations

import os
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.native_builds import PLUGINS, require

from .emulator_builds import run

RUNTIME = Path(__file__).with_name("cuda_device")
MUTATED = ("ptx/launch.cuh", "kernels/sparse_attention/launch.cpp")
OTHERS = ("kernels/backend.cpp", "kernels/choice.cpp", "kernels/stages.cpp",
          "kernels/instructions.cpp", "kernels/device_cuda.cpp",
          "kernels/sparse_attention/launch_correction.cpp",
          "common/check.cpp", "common/error.cpp", "common/describe_call.cpp",
          "tensorrt/plugin.cpp", "tensorrt/attributes.cpp", "tensorrt/tensors.cpp",
          "tensorrt/log.cpp", "tensorrt/build_id.cpp", RUNTIME / "launches.cpp")  # fmt: skip
CHECKS = ("in_two_threads", "prepared_elsewhere", "once_for_each_device",
          "as_many_blocks_as_processors", "absent_kernel",
          "failed_launch", "error_of_others", "too_many_tokens", "refused_by_the_builder",
          "bits_left_out", "no_device", "built_without_a_gpu")  # fmt: skip
COMPILER = ["g++", "-std=c++20", "-Wall", "-Wextra", "-Werror", "-Wno-undef",
            '-DPARO_CUDA_TARGETS="80,86,89,90a,100,120"', '-DPARO_CUDA_PTX="120"',
            '-DPARO_CUDA_BITS="8-8,16-16"', '-DPARO_VERSION="0"', f"-I{RUNTIME}",
            "-DPARO_TRT_ABI_SHIM", f"-I{PLUGINS / 'include'}",
            f"-I{PLUGINS / 'tensorrt'}"]  # fmt: skip


@dataclass(frozen=True)
class Mutant:
    """`text`, which is once in one of the two files, becomes `becomes`; `check` finds it."""

    name: str
    text: str
    becomes: str
    check: str


_SET = (
    "(void)cudaFuncSetAttribute(reinterpret_cast<const void*>(kernel.function),"
    " cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>({}));\n  "
)
_PREPARE, _LAUNCH = "return allow_all_shared_bytes(", "return paro::launch("
_RESULT = "return detail::status_of(cudaLaunchKernel("

MUTANTS = [
    Mutant("limit of each call", _LAUNCH, _SET.format("shared_bytes") + _LAUNCH, "in_two_threads"),
    Mutant(
        "limit for one token",
        _PREPARE,
        _SET.format("kernel.shared_bytes + 4") + _PREPARE,
        "prepared_elsewhere",
    ),
    Mutant("limit set each time", "allowed.contains(device)", "false", "once_for_each_device"),
    Mutant("devices confused", "allowed.contains(device)", "allowed.contains(3)",
           "once_for_each_device"),
    Mutant("limit without the opt-in", "most - static", "(48 << 10) - static", "in_two_threads"),
    Mutant("a failure remembered as done", "if (error == cudaSuccess) allowed", "allowed",
           "absent_kernel"),
    Mutant("error left behind", "  (void)cudaGetLastError();\n", "", "absent_kernel"),
    Mutant("result from the last error", _RESULT,
           "return detail::status_of(([](auto&&...) { return cudaGetLastError(); })"
           "(cudaLaunchKernel(", "error_of_others"),
]  # fmt: skip


@pytest.fixture(scope="module")
def objects(tmp_path_factory) -> list[Path]:
    """Compiled sources, of which mutants change at most functions that launch.cpp has too."""
    require("g++")
    folder = tmp_path_factory.mktemp("launches")
    sources = [PLUGINS / name for name in OTHERS]
    subprocess.run(
        [*COMPILER, f"-I{PLUGINS}", "-c", *map(str, sources)], cwd=folder, check=True, timeout=300
    )
    return sorted(folder.glob("*.o"))


def build(folder: Path, objects: list[Path], mutant: Mutant | None = None) -> Path:
    """The program of launches.cpp."""
    found = 0
    for name in MUTATED:
        text = (PLUGINS / name).read_text()
        if mutant is not None and text.count(mutant.text) == 1:
            found += 1
            text = text.replace(mutant.text, mutant.becomes)
            if mutant.text == _RESULT:
                text = text.replace("shape.stream));", "shape.stream)));")
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    assert mutant is None or found == 1, f"{mutant.name}: expected its text once, found {found}"
    # launch.cpp is first: its copies of functions that others have too are those that are linked.
    program, includes = folder / "launches", [f"-I{folder}", f"-I{PLUGINS}"]
    run([*COMPILER, *includes, folder / MUTATED[1], *objects, "-lpthread", "-ldl", "-o", program])
    return program


def said(program: Path, check: str, sm: int) -> str:
    return run([program, check], {**os.environ, "FAKE_SM": str(sm)})


@pytest.fixture(scope="module")
def program(objects, tmp_path_factory) -> Path:
    return build(tmp_path_factory.mktemp("program"), objects)


@pytest.mark.parametrize("check", CHECKS)
def test_launches(check, program):
    """On a GPU with 163 KB for a thread block and on one with 99 KB."""
    assert (said(program, check, 80), said(program, check, 89)) == ("", "")


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda m: m.name.replace(" ", "-"))
def test_every_fault_is_found(mutant, objects, tmp_path):
    assert said(build(tmp_path, objects, mutant), mutant.check, 80) != ""
