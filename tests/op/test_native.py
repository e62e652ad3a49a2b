"""The native CPU backend against the reference, on every instruction set of this processor."""

from __future__ import annotations

import math
import platform
import re
import shutil
import subprocess
import sys
import threading
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from paro_trt.errors import BackendUnavailableError
from paro_trt.op import native
from paro_trt.op.api import paro_attention
from paro_trt.op.reference import paro_attention_reference
from paro_trt.op.spec import AttentionConfig, AttentionInputs
from tests.plugins.cpu_instruction_sets import (
    ALL,
    assert_each_isa_is_right,
    forward_on_each_isa,
    instruction_set,
)
from tests.support.cases import BIT_PAIRS, CASES, OpCase, random_inputs
from tests.support.numerics import compare

CASE = OpCase("native", 300, batch=2, heads=4, kv_heads=2, bins=2).with_bits(8, 8, True)


@pytest.fixture(scope="module")
def library() -> native.NativeLibrary:
    return native.load_library(native.library_path("cpu"))


@pytest.mark.parametrize("case", CASES, ids=lambda c: c.name)
@pytest.mark.parametrize("bits", [(16, 16), (8, 8), (4, 4)], ids=lambda b: f"qk{b[0]}-pv{b[1]}")
@pytest.mark.parametrize("pool", [False, True], ids=["dropped", "pooled"])
def test_every_case_equals_the_reference(case, bits, pool, library, fresh_seed):
    case = case.with_bits(*bits, pool)
    inputs = random_inputs(case, fresh_seed)
    assert_each_isa_is_right(library, inputs, case.config)


@pytest.mark.parametrize("bits", BIT_PAIRS, ids=lambda b: f"qk{b[0]}-pv{b[1]}")
def test_every_pair_of_bits_equals_the_reference(bits, library, fresh_seed):
    case = replace(CASE, key_length=(300, 171)).with_bits(*bits, True)
    inputs = random_inputs(case, fresh_seed)
    assert_each_isa_is_right(library, inputs, case.config)


@pytest.mark.parametrize("head_dim", [64, 128])
@pytest.mark.parametrize("block_k", [64, 128])
def test_extreme_codes_neither_saturate_nor_wrap(head_dim, block_k, library, fresh_seed):
    """Sums of products of the largest codes, with equal and with opposite signs."""
    config = AttentionConfig(64, block_k, qk_bits=8, pv_bits=8, scale=1e-3)
    case = OpCase("extreme", 256, head_dim=head_dim, density=1.0, config=config)
    inputs = random_inputs(case, fresh_seed)
    identity = torch.tensor([0.0, 1.0, 0.0, 1.0])[:, None, None].expand_as(inputs.channel_affine)
    query, key, value = (torch.ones_like(x) for x in inputs[:3])
    # Half of the queries meet -127 * 127 * D, and keys differ from one another by single codes.
    query[:, ::2] = -1.0
    key[:, ::3, :, 0] = 126 / 127
    value[:, :, :, ::2] = -1.0
    inputs = inputs._replace(
        query=query, key=key, value=value, channel_affine=identity.contiguous()
    )
    for isa, output in forward_on_each_isa(library, inputs, config):
        assert compare(output, inputs, config).ok, isa
        # V's codes are all 127: the sum over P's, divided by their own, gives them back.
        torch.testing.assert_close(output, value, rtol=0, atol=2e-6, msg=isa)


@pytest.mark.parametrize("threads", [1, 3, 40])
def test_threads_do_not_change_a_bit(threads, library, fresh_seed):
    inputs = random_inputs(CASE, fresh_seed)
    expected = library.forward(inputs, CASE.config, 2)
    assert torch.equal(library.forward(inputs, CASE.config, threads), expected)


def test_public_call_and_torch_op_reach_it(library, fresh_seed):
    inputs = random_inputs(CASE, fresh_seed)
    c = CASE.config
    expected = library.forward(inputs, c)
    sizes = {"block_q": c.block_q, "block_k": c.block_k, "qk_bits": 8, "pv_bits": 8}
    public = paro_attention(*inputs, **sizes, pool_dropped=True, impl="cpu")
    op = torch.ops.paro.attention(*inputs, 0.0, c.block_q, c.block_k, 8, 8, 1, "cpu")
    assert torch.equal(public, expected)
    assert torch.equal(op, expected)


@pytest.mark.parametrize("bits", [(16, 16), (8, 8), (4, 4)], ids=lambda b: f"qk{b[0]}-pv{b[1]}")
@pytest.mark.parametrize("pool", [False, True], ids=["dropped", "pooled"])
@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("where", ["query", "key", "value"])
def test_non_finite_values_stay_where_the_reference_has_them(
    where, bad, pool, bits, library, fresh_seed
):
    case = OpCase("poison", 200, config=AttentionConfig(64, 64)).with_bits(*bits, pool)
    inputs = random_inputs(case, fresh_seed)
    tensor = getattr(inputs, where).clone()
    tensor[0, 77, 1, 9] = bad
    inputs = inputs._replace(**{where: tensor})
    reference = paro_attention_reference(inputs, case.config)
    for isa, output in forward_on_each_isa(library, inputs, case.config):
        assert torch.equal(output.isfinite(), reference.isfinite()), isa


@pytest.mark.parametrize("size", [1e4, 1e-30, 1e-40, 0.0])
def test_huge_and_tiny_inputs(size, library, fresh_seed):
    inputs = random_inputs(CASE, fresh_seed)
    identity = torch.tensor([0.0, 1.0, 0.0, 1.0])[:, None, None].expand_as(inputs.channel_affine)
    scaled = AttentionInputs(*(x * size for x in inputs[:3]), *inputs[3:])
    scaled = scaled._replace(channel_affine=identity.contiguous())
    assert_each_isa_is_right(library, scaled, CASE.config)


@pytest.mark.parametrize("bits", [(8, 16), (8, 8), (4, 4)], ids=lambda b: f"qk{b[0]}-pv{b[1]}")
@pytest.mark.parametrize("corrected", [False, True], ids=["plain", "corrected"])
@pytest.mark.parametrize("name", ["query", "key"])
def test_zeros_with_a_block_that_is_cut_short(name, corrected, bits, library, fresh_seed):
    """Absent keys have logits of -inf, and zeros a scale of 0."""
    config = AttentionConfig(64, 64, *bits, mean_correction=corrected)
    inputs = random_inputs(OpCase("zeros", 75, density=1.0, config=config), fresh_seed)
    affine = inputs.channel_affine.clone()
    affine[0] = 0.0
    zeros = torch.zeros_like(getattr(inputs, name))
    inputs = inputs._replace(**{name: zeros}, channel_affine=affine)
    assert_each_isa_is_right(library, inputs, config)


def at_odd_address(tensor: torch.Tensor) -> torch.Tensor:
    """A copy that is aligned to its elements and to nothing more."""
    room = torch.empty(tensor.numel() + 1, dtype=tensor.dtype)
    assert room.data_ptr() % 16 == 0
    return room[1:].view_as(tensor).copy_(tensor)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_unaligned_tensors(dtype, library, fresh_seed):
    case = replace(CASE, dtype=dtype)
    inputs = random_inputs(case, fresh_seed)
    moved = inputs.converted(at_odd_address)
    expected = dict(forward_on_each_isa(library, inputs, case.config))
    for isa, output in forward_on_each_isa(library, moved, case.config):
        assert torch.equal(output, expected[isa]), isa


def test_strided_tensors(library, fresh_seed):
    inputs = random_inputs(CASE, fresh_seed)
    expected = library.forward(inputs, CASE.config)
    strided = inputs.key.transpose(1, 2).contiguous().transpose(1, 2)
    assert torch.equal(library.forward(inputs._replace(key=strided), CASE.config), expected)


def test_concurrent_calls(library, fresh_seed):
    inputs = [random_inputs(CASE, fresh_seed + i) for i in range(4)]
    expected = [library.forward(x, CASE.config, 1) for x in inputs]
    results: dict[int, torch.Tensor] = {}

    def work(index: int) -> None:
        results[index] = library.forward(inputs[index], CASE.config, 2)

    threads = [threading.Thread(target=work, args=(i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(torch.equal(results[i], expected[i]) for i in range(4))


def test_fork_after_use():
    """A forked child can call it again, while the threads of a pool would be gone."""
    script = """
import os
from paro_trt.op import native
from tests.support.cases import OpCase, random_inputs
case = OpCase("fork", 200)
library = native.load_library(native.library_path("cpu"))
inputs = random_inputs(case, 1)
library.forward(inputs, case.config, 2)
child = os.fork()
if child == 0:
    library.forward(inputs, case.config, 2)
    os._exit(0)
assert os.waitpid(child, 0)[1] == 0
"""
    subprocess.run([sys.executable, "-c", script], check=True, timeout=120)


def damaged(inputs: AttentionInputs, name: str, value: int) -> AttentionInputs:
    tensor = getattr(inputs, name).clone()
    tensor.view(-1)[0] = value
    return inputs._replace(**{name: tensor})


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("token_order", 300),
        ("token_order", -1),
        ("head_order", 3),
        ("key_length", 301),
        ("tile_order", 99),
        ("block_mask", 1 << 5),
        ("channel_affine", float("nan")),
    ],
)
def test_hostile_contents_are_refused_by_name(name, value, library, fresh_seed):
    inputs = damaged(random_inputs(CASE, fresh_seed), name, value)
    with pytest.raises(native.NativeError, match=name):
        library.forward(inputs, CASE.config)


def test_head_dim_without_a_kernel_is_refused(library, fresh_seed):
    case = OpCase("narrow", 100, head_dim=32)
    with pytest.raises(BackendUnavailableError, match="head_dim: expected 64 or 128, got 32"):
        library.forward(random_inputs(case, fresh_seed), case.config)


def test_unknown_instruction_set_is_refused(library, fresh_seed):
    with (
        instruction_set("sse9"),
        pytest.raises(BackendUnavailableError, match="PARO_CPU_ISA: expected one of generic"),
    ):
        library.forward(random_inputs(CASE, fresh_seed), CASE.config)


def test_missing_and_foreign_libraries_are_named(tmp_path, monkeypatch):
    monkeypatch.setenv(native.LIBRARY_DIRECTORY_VARIABLE, str(tmp_path))
    with pytest.raises(BackendUnavailableError, match=r"libparo_cpu\.so"):
        native.library_path("cpu")
    (tmp_path / "libparo_cpu.so").write_bytes(b"not a library")
    with pytest.raises(BackendUnavailableError, match="C ABI"):
        native.NativeLibrary(native.library_path("cpu"))


def test_exports_are_the_c_abi_only():
    path = native.library_path("cpu")
    listing = subprocess.run(
        ["nm", "-D", "--defined-only", str(path)], capture_output=True, text=True, check=True
    )
    names = [line.split()[-1] for line in listing.stdout.splitlines()]
    header = (Path(__file__).parents[2] / "plugins/include/paro/paro_c.h").read_text()
    assert names
    assert all(
        name.startswith("paro_") and f" {name}(" in header.replace("*", " ") for name in names
    )


@pytest.fixture(scope="module")
def listing() -> str:
    """The library's instructions."""
    if platform.machine() != "x86_64":
        pytest.skip("names instructions of x86-64")
    if shutil.which("objdump") is None:
        pytest.skip("needs objdump")
    path = native.library_path("cpu")
    return subprocess.run(
        ["objdump", "-d", "--no-show-raw-insn", str(path)],
        capture_output=True,
        text=True,
        check=True,
    ).stdout


def test_products_use_the_instructions_they_are_written_for(listing):
    """An option in the wrong order once compiled products without FMA, and no test failed."""
    for instruction, register in (
        ("vfmadd", "ymm"),
        ("vfmadd", "zmm"),
        ("vpmaddwd", "ymm"),
        ("vpdpbusd", "ymm"),
        ("vpdpbusd", "zmm"),
        ("vdpbf16ps", "zmm"),
    ):
        found = re.findall(rf"\b{instruction}\w*\s.*%{register}", listing)
        assert len(found) >= 16, (instruction, register)


@pytest.mark.parametrize(
    ("instruction", "places"),
    [
        # Into the first cache: rows of keys and values, before a block and within it, of queries,
        # of the output. Into the second: keys and values of the next run.
        ("prefetcht0", 6),
        ("prefetcht1", 2),
    ],
)
def test_memory_is_asked_for_ahead(instruction, places, listing):
    """g++ once dropped all prefetches of stage 1, whose function it took for one without effect."""
    found = re.findall(rf"\b{instruction}\b", listing)
    assert len(found) >= places * len(ALL)
