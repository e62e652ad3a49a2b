"""The implementations that the attention benchmark times, on a CPU and on a GPU."""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from functools import cache, partial
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor

from ..op.c_abi import WORKSPACE_ALIGNMENT, attention_call, launch_on
from ..op.native import NativeLibrary
from ..op.spec import AttentionConfig, AttentionInputs
from .problem import Problem

if TYPE_CHECKING:
    from torch.nn.attention import SDPBackend
    from torch.nn.attention.flex_attention import BlockMask

Layout = list[tuple[Tensor, Tensor, Tensor]]
"""Query, key and value of each set, [1,H,S,D]."""

TensorRun = Callable[[int], Tensor]

WITHOUT_WGMMA = 100
"""sm of GPUs that have the mma.sync kernels only; newer and older GPUs run them too."""

LARGEST_ERROR = {"f32": 1e-4, "bf16": 0.02, "int8": 0.05}
"""Relative L2 on noise whose outputs average out: gross errors only, before anything is timed.
8-bit codes of P and V leave about 2 % there; a block too many or too few leaves tens. The kernel
tests hold to the tolerance policy."""

DTYPE_NAMES = {torch.float32: "f32", torch.bfloat16: "bf16", torch.float16: "f16"}


@dataclass(frozen=True)
class Stage1Calls:
    """Two calls that differ by stage 1 alone; both write zeros.

    nothing_listed: on a mask without any block. no_tokens: with a key length of 0.
    """

    nothing_listed: TensorRun
    no_tokens: TensorRun


@dataclass(frozen=True)
class Contender:
    """One implementation at one precision and density.

    Args:
        name: of the implementation.
        precision: "f32", "bf16" or "int8".
        density: asked for; 1 without a mask.
        run: queues the i-th call and returns its output [1,S,H,D].
        check: relative error of an output of call 0.
        kernel: which of the library's kernels; empty for others.
        is_baseline: whether speedups may be over it; they are over the fastest such contender.
        stage1: on a CPU, for the library's own; a GPU's profiler needs no such calls.
    """

    name: str
    precision: str
    density: float
    run: TensorRun
    check: Callable[[Tensor], float]
    kernel: str = ""
    is_baseline: bool = False
    stage1: Stage1Calls | None = None

    @property
    def key(self) -> str:
        """Unique within a group."""
        return f"{label(self.name, self.kernel, self.precision)} @ {self.density:g}"

    @property
    def bits(self) -> int:
        """Of both products."""
        return 8 if self.precision == "int8" else 16

    @property
    def is_ours(self) -> bool:
        """Whether the library computes it."""
        return bool(self.kernel)

    @property
    def largest_error(self) -> float:
        """What `check` may return."""
        return LARGEST_ERROR[self.precision]


def label(name: str, kernel: str, precision: str) -> str:
    """What tables call a contender."""
    return " ".join(filter(None, (name, kernel, precision)))


@dataclass(frozen=True)
class LeftOut:
    """A contender that this machine cannot run."""

    name: str
    reason: str


def ours(
    problem: Problem, library: NativeLibrary, bits: int, density: float, threads: int = 0
) -> Iterator[Contender]:
    """The library at one precision: the kernel it chooses and, on sm_90, also mma.sync.

    Args:
        problem: its type is that of the op's inputs.
        library: a backend for the problem's device.
        bits: of both products.
        density: of the mask.
        threads: of a CPU backend.
    """
    blocks = problem.case.config
    config = AttentionConfig(blocks.block_q, blocks.block_k, qk_bits=bits, pv_bits=bits)
    inputs = problem.inputs(problem.mask(density))
    check = _checked(problem, density, reordered=True)
    precision = f"int{bits}" if bits < 16 else DTYPE_NAMES[problem.case.dtype]
    on_cpu = problem.device.type == "cpu"
    stage1 = _stage1_calls(problem, library, config, threads) if on_cpu else None
    seen = set()
    for sm in (0,) if on_cpu else (0, WITHOUT_WGMMA):
        described = library.describe(inputs[0], config, sm=sm)
        kernel = described.split(" for ")[0].split(" on ")[0].removesuffix(" kernels")
        if kernel not in seen:
            seen.add(kernel)
            run = library_call(library, inputs, config, sm, threads)
            yield Contender("PARO", precision, density, run, check, kernel, stage1=stage1)


def library_call(
    library: NativeLibrary,
    inputs: list[AttentionInputs],
    config: AttentionConfig,
    sm: int,
    threads: int,
) -> TensorRun:
    """The op on each set of inputs in turn, without an allocation in the call."""
    device = inputs[0].query.device
    output = torch.empty_like(inputs[0].query)
    launch = launch_on(device, threads=threads, sm=sm)
    calls = [attention_call(each, config, output) for each in inputs]
    size = library.workspace_bytes_of(calls[0], launch)
    memory = torch.empty(size + WORKSPACE_ALIGNMENT, dtype=torch.uint8, device=device)
    workspace = memory.data_ptr() + -memory.data_ptr() % WORKSPACE_ALIGNMENT
    owners = (inputs, memory)  # The calls hold addresses only.

    def run(index: int, _owners: object = owners) -> Tensor:
        library.forward_raw(calls[index % len(calls)], launch, workspace, size)
        return output

    return run


def _stage1_calls(
    problem: Problem, library: NativeLibrary, config: AttentionConfig, threads: int
) -> Stage1Calls:
    unlisted = problem.inputs(torch.zeros_like(problem.ranks, dtype=torch.bool))
    empty = [
        each._replace(key_length=torch.zeros_like(each.key_length))
        for each in problem.inputs(torch.ones_like(problem.ranks, dtype=torch.bool))
    ]
    return Stage1Calls(
        *(library_call(library, each, config, 0, threads) for each in (unlisted, empty))
    )


def dense_baselines(problem: Problem, threads: int = 0) -> Iterator[Contender | LeftOut]:
    """torch's SDPA: on a GPU each backend by itself; on a CPU also in bfloat16, and ONNX Runtime.

    Args:
        problem: its type is that of the baseline.
        threads: of ONNX Runtime.
    """
    layout, check = _heads_first(problem), _checked(problem, None, reordered=False)
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
        run, check_half = partial(_sdpa, _heads_first(half), None), _checked(half, None)
        yield Contender("torch SDPA", "bf16", 1.0, run, check_half)
        runtime = _onnxruntime_attention(*layout[0], threads)
        yield Contender("ONNX Runtime MHA", precision, 1.0, runtime, check)


def flex_attention(problem: Problem, density: float) -> Contender | LeftOut:
    """torch's FlexAttention with the same blocks; the first call compiles it."""
    check = _checked(problem, density)
    run = partial(_flex, _heads_first(problem), _block_mask(problem, density))
    precision = DTYPE_NAMES[problem.case.dtype]
    return _tried(Contender("FlexAttention", precision, density, run, check))


def sage_attention(problem: Problem) -> Contender | LeftOut:
    """SageAttention (dense, 8 bits) where it is installed."""
    if importlib.util.find_spec("sageattention") is None:
        return LeftOut("SageAttention", "package sageattention is not installed")
    run = partial(_sage, _heads_first(problem))
    return _tried(Contender("SageAttention", "int8", 1.0, run, _checked(problem, None)))


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


def _checked(
    problem: Problem, density: float | None, *, reordered: bool = False
) -> Callable[[Tensor], float]:
    """Relative L2 error of an output, on the sampled rows; NaN where anything is."""
    expected = problem.expected(density, reordered=reordered)

    def error(output: Tensor) -> float:
        actual = problem.sample(output, reordered=reordered)
        return float((actual.double() - expected).norm() / expected.norm())

    return error


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
