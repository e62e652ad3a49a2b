"""Who takes part in the attention benchmark: the native CPU backend and its named baselines."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ..errors import ArgumentError, ParoError
from ..native import library_path, load_library
from ..op.mask import pack_block_mask, tile_order, unpack_block_mask
from ..op.spec import AttentionConfig, AttentionInputs, block_count
from .problem import OpCase, random_inputs

BASELINE = "torch SDPA f32"
BLOCK_Q, BLOCK_K = 128, 64
SAMPLED_BLOCKS = 5
"""Query blocks that sparse contenders are verified on, from the first to the last."""

FLOAT_LARGEST_ERROR = 1e-4
LOW_PRECISION_LARGEST_ERROR = 0.05
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
class Stage1Calls:
    """Two calls that differ by stage 1 alone; both write zeros.

    nothing_listed: on a mask without any block. no_tokens: with a key length of 0.
    """

    nothing_listed: Callable[[], Tensor]
    no_tokens: Callable[[], Tensor]


@dataclass(frozen=True)
class Entry:
    """A contender at one density: its call, and the check of what that returns.

    stage1: of PARO's alone.
    """

    name: str
    density: float
    run: Callable[[], Tensor]
    verify: Callable[[Tensor], None]
    stage1: Stage1Calls | None = None

    @property
    def key(self) -> str:
        """Names it within its workload."""
        return f"{self.name} @ {self.density}"


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


def make_entries(workload: Workload, *, flex: bool, onnxruntime: bool) -> list[Entry]:
    """All contenders of a workload, the baseline first."""
    case = OpCase(
        "bench", workload.tokens, heads=workload.heads, kv_heads=workload.heads,
        head_dim=workload.head_dim, config=AttentionConfig(BLOCK_Q, BLOCK_K),
    )  # fmt: skip
    inputs = random_inputs(case, seed=0)
    entries = _dense_entries(inputs, workload.threads, onnxruntime=onnxruntime)
    for density in workload.densities:
        entries += _sparse_entries(inputs, workload, density, flex=flex)
    return entries


def _dense_entries(inputs: AttentionInputs, threads: int, *, onnxruntime: bool) -> list[Entry]:
    query, key, value = (x.transpose(1, 2).contiguous() for x in inputs[:3])
    half_query, half_key, half_value = (x.bfloat16() for x in (query, key, value))
    dense = F.scaled_dot_product_attention(query, key, value)

    def entry(name: str, run: Callable[[], Tensor], largest: float) -> Entry:
        verify = partial(_require_close, expected=dense, largest=largest, name=name)
        return Entry(name, 1.0, run, verify)

    entries = [
        entry(
            BASELINE,
            lambda: F.scaled_dot_product_attention(query, key, value),
            FLOAT_LARGEST_ERROR,
        ),
        entry(
            "torch SDPA bf16",
            lambda: F.scaled_dot_product_attention(half_query, half_key, half_value),
            LOW_PRECISION_LARGEST_ERROR,
        ),
    ]
    if onnxruntime:
        run = _onnxruntime_attention(query, key, value, threads)
        entries.append(entry("ONNX Runtime MHA f32", run, FLOAT_LARGEST_ERROR))
    return entries


def _sparse_entries(
    inputs: AttentionInputs, workload: Workload, density: float, *, flex: bool
) -> list[Entry]:
    """The native backend at each of its precisions, and FlexAttention, on one mask."""
    query_blocks = block_count(workload.tokens, BLOCK_Q)
    key_blocks = block_count(workload.tokens, BLOCK_K)
    mask = exact_density_mask(workload.heads, query_blocks, key_blocks, density, seed=1)
    # Baselines know no reorder: both sides get the tokens as they are.
    order = torch.arange(workload.tokens, dtype=torch.int32).repeat(len(inputs.token_order), 1)
    masked = _with_mask(inputs._replace(token_order=order), mask)
    halves = masked._replace(
        query=masked.query.bfloat16(), key=masked.key.bfloat16(), value=masked.value.bfloat16()
    )
    rows, expected = _sampled_rows(masked, mask)
    reached = float(mask.mean())

    def verify(name: str, largest: float) -> Callable[[Tensor], None]:
        return lambda output: _require_close(output[:, rows], expected, largest, name)

    library = load_library(library_path("cpu"))
    entries = []
    for name, tensors, bits, largest in (
        ("PARO CPU f32", masked, 16, FLOAT_LARGEST_ERROR),
        ("PARO CPU bf16", halves, 16, LOW_PRECISION_LARGEST_ERROR),
        ("PARO CPU int8", masked, 8, LOW_PRECISION_LARGEST_ERROR),
    ):
        config = AttentionConfig(BLOCK_Q, BLOCK_K, qk_bits=bits, pv_bits=bits)
        run = partial(library.forward, tensors, config, workload.threads)
        unlisted = _with_mask(tensors, np.zeros_like(mask))
        empty = tensors._replace(key_length=torch.zeros_like(tensors.key_length))
        stage1 = Stage1Calls(
            *(partial(library.forward, x, config, workload.threads) for x in (unlisted, empty))
        )
        entries.append(Entry(name, reached, run, verify(name, largest), stage1))
    if flex:
        name = "FlexAttention f32"
        compiled = _flex_attention(masked, key_blocks)
        entries.append(Entry(name, reached, compiled, verify(name, FLOAT_LARGEST_ERROR)))
    return entries


def _with_mask(inputs: AttentionInputs, mask: np.ndarray) -> AttentionInputs:
    words = pack_block_mask(mask)
    order = torch.from_numpy(tile_order(words))
    return inputs._replace(block_mask=torch.from_numpy(words), tile_order=order)


def _sampled_rows(inputs: AttentionInputs, mask: np.ndarray) -> tuple[Tensor, Tensor]:
    """Some query blocks' rows, and block-sparse attention there in float64 [1, rows, H, D]."""
    query, key, value = (x[0].double() for x in inputs[:3])
    tokens, heads, head_dim = query.shape
    chosen = np.linspace(0, mask.shape[2] - 1, SAMPLED_BLOCKS).round().astype(int)
    blocks = [torch.arange(i * BLOCK_Q, min((i + 1) * BLOCK_Q, tokens)) for i in chosen]
    outputs = []
    for block, rows in zip(chosen, blocks, strict=True):
        listed = torch.from_numpy(mask[0, :, block]).repeat_interleave(BLOCK_K, 1)[:, :tokens]
        heads_out = [
            torch.softmax(query[rows, h] @ key[listed[h], h].T / math.sqrt(head_dim), dim=1)
            @ value[listed[h], h]
            for h in range(heads)
        ]
        outputs.append(torch.stack(heads_out, dim=1))
    return torch.cat(blocks), torch.cat(outputs)[None]


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
    # Else its threads spin into the next contender's time.
    options.add_session_config_entry("session.force_spinning_stop", "1")
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
