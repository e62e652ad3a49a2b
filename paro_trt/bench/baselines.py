"""The named baselines of the attention benchmark, on a CPU and on a GPU."""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from functools import cache, partial
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor

from .contenders import DTYPE_NAMES, Contender, LeftOut, TensorRun, checked
from .problem import Problem

if TYPE_CHECKING:
    from torch.nn.attention import SDPBackend
    from torch.nn.attention.flex_attention import BlockMask

Layout = list[tuple[Tensor, Tensor, Tensor]]
"""Query, key and value of each set, [1,H,S,D]."""


def dense_baselines(problem: Problem, threads: int = 0) -> Iterator[Contender | LeftOut]:
    """torch's SDPA: on a GPU each backend by itself; on a CPU also in bfloat16, and ONNX Runtime.

    Args:
        problem: its type is that of the baseline.
        threads: of ONNX Runtime.
    """
    layout, check = _heads_first(problem), checked(problem, None, reordered=False)
    precision = DTYPE_NAMES[problem.case.dtype]
    if problem.device.type == "cuda":
        from torch.nn.attention import SDPBackend

        for name in ("CUDNN_ATTENTION", "FLASH_ATTENTION", "EFFICIENT_ATTENTION"):
            run = partial(_sdpa, layout, getattr(SDPBackend, name))
            named = f"torch SDPA {name.split('_')[0].lower()}"
            yield _tried(Contender(named, precision, 1.0, run, check, is_baseline=True))
        return
    run = partial(_sdpa, layout, None)
    yield Contender("torch SDPA", precision, 1.0, run, check, is_baseline=True)
    if problem.case.dtype == torch.float32:
        half = problem.as_dtype(torch.bfloat16)
        run, check_half = partial(_sdpa, _heads_first(half), None), checked(half, None)
        yield Contender("torch SDPA", "bf16", 1.0, run, check_half)
        runtime = _onnxruntime_attention(*layout[0], threads)
        yield Contender("ONNX Runtime MHA", precision, 1.0, runtime, check)


def flex_attention(problem: Problem, density: float) -> Contender | LeftOut:
    """torch's FlexAttention with the same blocks; the first call compiles it."""
    check = checked(problem, density)
    run = partial(_flex, _heads_first(problem), _block_mask(problem, density))
    precision = DTYPE_NAMES[problem.case.dtype]
    return _tried(Contender("FlexAttention", precision, density, run, check))


def sage_attention(problem: Problem) -> Contender | LeftOut:
    """SageAttention (dense, 8 bits) where it is installed."""
    if importlib.util.find_spec("sageattention") is None:
        return LeftOut("SageAttention", "package sageattention is not installed")
    run = partial(_sage, _heads_first(problem))
    return _tried(Contender("SageAttention", "int8", 1.0, run, checked(problem, None)))


def _tried(contender: Contender) -> Contender | LeftOut:
    """The contender, if its first call works: baselines may lack a kernel for this device."""
    try:
        contender.run(0)
        if torch.cuda.is_available():
            torch.cuda.synchronize()
    except Exception as error:
        lines = f"{type(error).__name__}: {error}".splitlines()
        return LeftOut(contender.name, " ".join(lines)[:300])
    return contender


def _heads_first(problem: Problem) -> Layout:
    """[1,H,S,D], what the baselines are fastest with."""
    return [(_first(query), _first(key), _first(value)) for query, key, value in problem.sets]


def _first(tensor: Tensor) -> Tensor:
    return tensor.transpose(1, 2).contiguous()


def _sdpa(layout: Layout, backend: SDPBackend | None, index: int) -> Tensor:
    from torch.nn.attention import sdpa_kernel

    with nullcontext() if backend is None else sdpa_kernel(backend):
        return F.scaled_dot_product_attention(*layout[index % len(layout)]).transpose(1, 2)


def _sage(layout: Layout, index: int) -> Tensor:
    module = importlib.import_module("sageattention")
    output: Tensor = module.sageattn(*layout[index % len(layout)], tensor_layout="HND")
    return output.transpose(1, 2)


def _flex(layout: Layout, blocks: BlockMask, index: int) -> Tensor:
    output: Tensor = _compiled_flex_attention()(*layout[index % len(layout)], block_mask=blocks)
    return output.transpose(1, 2)


@cache
def _compiled_flex_attention() -> Callable[..., Tensor]:
    from torch.nn.attention.flex_attention import flex_attention

    return torch.compile(flex_attention, dynamic=False)


def _block_mask(problem: Problem, density: float) -> BlockMask:
    from torch.nn.attention.flex_attention import BlockMask

    mask = problem.mask(density)[None]
    listed = mask.int().argsort(dim=-1, descending=True, stable=True).int()
    counts = mask.sum(dim=-1).int()
    tokens, config = problem.case.tokens, problem.case.config
    return BlockMask.from_kv_blocks(
        torch.zeros_like(counts), torch.zeros_like(listed), counts, listed,
        BLOCK_SIZE=(config.block_q, config.block_k), seq_lengths=(tokens, tokens),
    )  # fmt: skip


def _onnxruntime_attention(query: Tensor, key: Tensor, value: Tensor, threads: int) -> TensorRun:
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
    # Otherwise its threads spin into the next contender's time.
    options.add_session_config_entry("session.force_spinning_stop", "1")
    session = ort.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )

    def run(_: int) -> Tensor:
        output = torch.from_numpy(session.run(None, feeds)[0])
        return output.view(batch, tokens, heads, head_dim)

    return run
