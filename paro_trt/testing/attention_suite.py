"""The attention benchmark: the native CPU backend against dense and block-sparse baselines.

All contenders of a shape run in one process, verified first, then timed in turns.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ..errors import ArgumentError, ParoError
from ..native import NativeLibrary, library_path, load_library
from ..op.mask import pack_block_mask, tile_order, unpack_block_mask
from ..op.spec import AttentionConfig, AttentionInputs, block_count
from .bench import Contender, speedup, time_interleaved
from .cases import OpCase, random_inputs

BASELINE = "torch SDPA f32"
BLOCK_Q, BLOCK_K = 128, 64
FLOAT_LARGEST_ERROR = 1e-4
INT8_LARGEST_ERROR = 0.05
"""Gross errors only, before timing: 8 bits leave 2 % on noise whose outputs average out. The
tests hold every implementation to the tolerance policy."""


@dataclass(frozen=True)
class Workload:
    """One line of the suite: a shape, a number of threads, the densities to run."""

    tokens: int
    head_dim: int
    heads: int = 4
    threads: int = 2
    densities: tuple[float, ...] = (1.0, 0.5, 0.3, 0.25, 0.2, 0.1)


@dataclass(frozen=True)
class Measurement:
    """One contender at one density.

    speedup: of the median round, against the baseline of the same round. gflops: of the blocks
    executed, 4 * D * block_q * block_k each. peak_share: gflops over the FP32 multiply-add rate of
    the same threads, measured after the rounds.
    """

    tokens: int
    head_dim: int
    heads: int
    threads: int
    contender: str
    density: float
    milliseconds: float
    spread: float
    speedup: float
    gflops: float
    peak_share: float


@dataclass(frozen=True)
class _Entry:
    name: str
    density: float
    run: Callable[[], Tensor]
    verify: Callable[[Tensor], None]


def measure(
    workload: Workload,
    *,
    rounds: int = 7,
    flex: bool = True,
    onnxruntime: bool = True,
    on_step: Callable[[str], None] = lambda _: None,
) -> list[Measurement]:
    """Verify and time everything of one workload.

    Args:
        flex: include torch's FlexAttention, compiled, with the same block masks.
        onnxruntime: include ONNX Runtime's MultiHeadAttention.
        on_step: told what is being done.

    Raises:
        ParoError: a contender's output is wrong; nothing is timed then.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(workload.threads)
    try:
        entries = _entries(workload, flex=flex, onnxruntime=onnxruntime)
        for entry in entries:
            on_step(f"verifying {entry.name} at density {entry.density:g}")
            entry.verify(entry.run())
        on_step("timing")
        contenders = [Contender(_key(entry), entry.run) for entry in entries]
        timings = time_interleaved(contenders, rounds=rounds)
    finally:
        torch.set_num_threads(before)
    library = load_library(library_path("cpu"))
    peak_gflops = library.measure_peak(workload.threads) / 1e9
    dense_flops = 4 * workload.tokens**2 * workload.head_dim * workload.heads
    measurements = []
    for entry in entries:
        timing = timings[_key(entry)]
        gflops = entry.density * dense_flops / timing.median / 1e9
        measurements.append(
            Measurement(
                workload.tokens,
                workload.head_dim,
                workload.heads,
                workload.threads,
                entry.name,
                entry.density,
                timing.median * 1e3,
                timing.spread,
                speedup(timings[_key(entries[0])], timing),
                gflops,
                gflops / peak_gflops,
            )
        )
    return measurements


def exact_density_mask(
    heads: int, query_blocks: int, key_blocks: int, density: float, seed: int
) -> np.ndarray:
    """bool [1, heads, NQ, NK]: the diagonal and random blocks, equally many in each row."""
    if not 0 < density <= 1:
        raise ArgumentError("density", expected="a share in (0, 1]", actual=str(density))
    rng = np.random.default_rng(seed)
    rank = rng.random((1, heads, query_blocks, key_blocks))
    diagonal = np.arange(query_blocks) * key_blocks // query_blocks
    rank[:, :, np.arange(query_blocks), diagonal] = -1.0
    kept = max(1, round(density * key_blocks))
    return np.asarray(rank.argsort(axis=-1).argsort(axis=-1) < kept)


def _key(entry: _Entry) -> str:
    return f"{entry.name} @ {entry.density}"


def _entries(workload: Workload, *, flex: bool, onnxruntime: bool) -> list[_Entry]:
    case = OpCase(
        "bench", workload.tokens, heads=workload.heads, kv_heads=workload.heads,
        head_dim=workload.head_dim, config=AttentionConfig(BLOCK_Q, BLOCK_K),
    )  # fmt: skip
    inputs = random_inputs(case, seed=0)
    query, key, value = (x.transpose(1, 2).contiguous() for x in inputs[:3])
    half_query, half_key, half_value = (x.bfloat16() for x in (query, key, value))
    dense = F.scaled_dot_product_attention(query, key, value)

    def close_to(expected: Tensor, largest: float, name: str) -> Callable[[Tensor], None]:
        return lambda output: _require_close(output, expected, largest, name)

    entries = [
        _Entry(
            BASELINE, 1.0, lambda: F.scaled_dot_product_attention(query, key, value),
            close_to(dense, FLOAT_LARGEST_ERROR, BASELINE),
        ),
        _Entry(
            "torch SDPA bf16", 1.0,
            lambda: F.scaled_dot_product_attention(half_query, half_key, half_value),
            close_to(dense, INT8_LARGEST_ERROR, "torch SDPA bf16"),
        ),
    ]  # fmt: skip
    if onnxruntime:
        name = "ONNX Runtime MHA f32"
        run = _onnxruntime_attention(query, key, value, workload.threads)
        entries.append(_Entry(name, 1.0, run, close_to(dense, FLOAT_LARGEST_ERROR, name)))
    library = load_library(library_path("cpu"))
    for density in workload.densities:
        entries += _sparse_entries(library, inputs, workload, density, flex=flex)
    return entries


def _sparse_entries(
    library: NativeLibrary,
    inputs: AttentionInputs,
    workload: Workload,
    density: float,
    *,
    flex: bool,
) -> list[_Entry]:
    """The native backend at 16 and 8 bits, and FlexAttention, on one mask."""
    query_blocks = block_count(workload.tokens, BLOCK_Q)
    key_blocks = block_count(workload.tokens, BLOCK_K)
    mask = exact_density_mask(workload.heads, query_blocks, key_blocks, density, seed=1)
    words = pack_block_mask(mask)
    # Baselines know no reorder: both sides get the tokens as they are.
    order = torch.arange(workload.tokens, dtype=torch.int32).repeat(len(inputs.token_order), 1)
    masked = inputs._replace(
        token_order=order,
        block_mask=torch.from_numpy(words),
        tile_order=torch.from_numpy(tile_order(words)),
    )
    reached = float(mask.mean())
    wide = AttentionConfig(BLOCK_Q, BLOCK_K)
    int8 = AttentionConfig(BLOCK_Q, BLOCK_K, qk_bits=8, pv_bits=8)
    expected = library.forward(masked, wide, 1)
    entries = []
    for name, config, largest in (
        ("PARO CPU f32", wide, FLOAT_LARGEST_ERROR),
        ("PARO CPU int8", int8, INT8_LARGEST_ERROR),
    ):
        run = partial(library.forward, masked, config, workload.threads)
        verify = partial(_require_close, expected=expected, largest=largest, name=name)
        entries.append(_Entry(name, reached, run, verify))
    if flex:
        name = "FlexAttention f32"
        verify = partial(_require_close, expected=expected, largest=FLOAT_LARGEST_ERROR, name=name)
        entries.append(_Entry(name, reached, _flex_attention(masked, key_blocks), verify))
    return entries


def _flex_attention(inputs: AttentionInputs, key_blocks: int) -> Callable[[], Tensor]:
    from torch.nn.attention.flex_attention import BlockMask, flex_attention

    mask = torch.from_numpy(unpack_block_mask(inputs.block_mask.numpy(), key_blocks))
    listed = mask.int().argsort(dim=-1, descending=True, stable=True).int()
    counts = mask.sum(dim=-1).int()
    tokens = inputs.query.shape[1]
    blocks = BlockMask.from_kv_blocks(
        torch.zeros_like(counts), torch.zeros_like(listed), counts, listed,
        BLOCK_SIZE=(BLOCK_Q, BLOCK_K), seq_lengths=(tokens, tokens),
    )  # fmt: skip
    query, key, value = (x.transpose(1, 2).contiguous() for x in inputs[:3])
    compiled = torch.compile(flex_attention)
    return lambda: compiled(query, key, value, block_mask=blocks).transpose(1, 2)


def _onnxruntime_attention(
    query: Tensor, key: Tensor, value: Tensor, threads: int
) -> Callable[[], Tensor]:
    import onnxruntime as ort
    from onnx import TensorProto, helper

    batch, heads, tokens, head_dim = query.shape
    feeds = {
        name: x.transpose(1, 2).reshape(batch, tokens, heads * head_dim).numpy()
        for name, x in (("q", query), ("k", key), ("v", value))
    }
    node = helper.make_node(
        "MultiHeadAttention", list(feeds), ["o"], domain="com.microsoft", num_heads=heads
    )
    shape = [batch, tokens, heads * head_dim]
    graph = helper.make_graph(
        [node], "attention",
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name in feeds],
        [helper.make_tensor_value_info("o", TensorProto.FLOAT, shape)],
    )  # fmt: skip
    opsets = [helper.make_opsetid("", 20), helper.make_opsetid("com.microsoft", 1)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=9)
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    session = ort.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )

    def run() -> Tensor:
        output = torch.from_numpy(session.run(None, feeds)[0])
        return output.view(batch, tokens, heads, head_dim).transpose(1, 2)

    return run


def _require_close(output: Tensor, expected: Tensor, largest: float, name: str) -> None:
    error = float((output.double() - expected.double()).norm() / expected.double().norm())
    if not error <= largest:
        raise ParoError(
            name,
            expected=f"relative L2 error at most {largest:g} against its reference",
            actual=f"{error:.2e}",
            remedy="nothing was timed",
        )
