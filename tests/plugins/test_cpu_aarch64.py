"""The CPU backend on aarch64: cross-compiled, run by QEMU, held against the float64 oracle."""

from __future__ import annotations

import math
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from paro_trt.op.c_abi import attention_call
from paro_trt.op.reference import paro_attention_reference
from paro_trt.op.spec import AttentionConfig, AttentionInputs
from tests.plugins.cpu_builds import build, run
from tests.support.cases import (
    BIT_PAIRS,
    CASES,
    SMOOTHED_CASES,
    VERSION_2_CASES,
    OpCase,
    at_bits,
    random_inputs,
)
from tests.support.numerics import compare

COMPILER = "aarch64-linux-gnu-g++"
EMULATOR = "qemu-aarch64"
LIBRARIES = "/usr/aarch64-linux-gnu"
PROCESSORS = {"generic": "cortex-a53", "neon_dot": "max"}
"""An instruction set, and a processor on which the library chooses it."""

pytestmark = [
    pytest.mark.long,
    pytest.mark.skipif(
        None in map(shutil.which, ("cmake", COMPILER, EMULATOR)),
        reason=f"needs cmake, {COMPILER} (g++-aarch64-linux-gnu) and {EMULATOR} (qemu-user)",
    ),
]

Call = tuple[AttentionInputs, AttentionConfig]


@pytest.fixture(scope="module")
def programs(tmp_path_factory) -> Path:
    return build(
        tmp_path_factory.mktemp("aarch64"),
        "c_abi_check",
        "replay",
        CMAKE_SYSTEM_NAME="Linux",
        CMAKE_SYSTEM_PROCESSOR="aarch64",
        CMAKE_CXX_COMPILER=COMPILER,
    )


def emulate(processor: str, *words: object) -> str:
    return run(EMULATOR, "-cpu", processor, "-L", LIBRARIES, *words)


def replay(programs: Path, processor: str, calls: list[Call], folder: Path) -> list[Tensor]:
    """Outputs of calls as that processor computes them."""
    source, target = folder / "calls", folder / "outputs"
    with source.open("wb") as file:
        for inputs, config in calls:
            file.write(bytes(attention_call(inputs, config)))
            for tensor in inputs.named_tensors().values():
                file.write(tensor.contiguous().view(torch.uint8).numpy().tobytes())
    assert emulate(processor, programs / "paro_cpu_replay", source, target, 2) == (
        f"{len(calls)} calls\n"
    )
    data = torch.frombuffer(bytearray(target.read_bytes()), dtype=torch.uint8)
    parts = data.split([x.query.numel() * x.query.element_size() for x, _ in calls])
    return [
        part.clone().view(x.query.dtype).view(x.query.shape)
        for part, (x, _) in zip(parts, calls, strict=True)
    ]


@pytest.mark.parametrize("isa", PROCESSORS)
def test_every_case_and_pair_of_bits_equals_the_reference(isa, programs, tmp_path, fresh_seed):
    cases = [
        case.with_bits(*bits, pool)
        for case in CASES
        for bits in ((16, 16), (8, 8), (4, 4))
        for pool in (False, True)
    ]
    everything = OpCase("everything", 300, batch=2, heads=4, kv_heads=2, bins=2)
    cases += [replace(everything, key_length=(300, 171)).with_bits(*b, True) for b in BIT_PAIRS]
    cases += [at_bits(case, *b) for case in VERSION_2_CASES for b in ((16, 16), (8, 8), (8, 4))]
    cases += SMOOTHED_CASES
    calls = [(random_inputs(case, fresh_seed), case.config) for case in cases]
    outputs = replay(programs, PROCESSORS[isa], calls, tmp_path)
    for case, (inputs, config), output in zip(cases, calls, outputs, strict=True):
        outcome = compare(output, inputs, config)
        assert outcome.ok, (case.name, outcome)


@pytest.mark.parametrize("isa", PROCESSORS)
def test_non_finite_values_stay_where_the_reference_has_them(isa, programs, tmp_path, fresh_seed):
    calls: list[Call] = []
    for bits in ((16, 16), (8, 8), (4, 4)):
        for where in ("query", "key", "value"):
            for bad in (math.nan, math.inf, -math.inf):
                config = AttentionConfig(64, 64)
                case = OpCase("poison", 200, config=config).with_bits(*bits, True)
                inputs = random_inputs(case, fresh_seed)
                tensor = getattr(inputs, where).clone()
                tensor[0, 77, 1, 9] = bad
                calls.append((inputs._replace(**{where: tensor}), case.config))
    for (inputs, config), output in zip(
        calls, replay(programs, PROCESSORS[isa], calls, tmp_path), strict=True
    ):
        reference = paro_attention_reference(inputs, config)
        assert torch.equal(output.isfinite(), reference.isfinite()), config


@pytest.mark.parametrize("isa", PROCESSORS)
def test_its_kernels_are_chosen_and_refuse_misuse(isa, programs, fresh_seed):
    output = emulate(PROCESSORS[isa], programs / "paro_cpu_c_abi_check", fresh_seed)
    assert f"{isa} kernels" in output
    assert "0 failed" in output


def test_a_processor_without_dot_products_refuses_them(programs):
    program = programs / "paro_cpu_c_abi_check"
    with pytest.raises(AssertionError, match="PARO_CPU_ISA: expected one of generic, neon_dot"):
        run(EMULATOR, "-cpu", "cortex-a53", "-L", LIBRARIES, program, 1, PARO_CPU_ISA="neon_dot")
