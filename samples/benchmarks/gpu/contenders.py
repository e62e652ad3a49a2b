"""Who takes part in the attention benchmark on a GPU, and why one that does not is left out."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from functools import cache, partial
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor

from paro_trt.c_abi import WORKSPACE_ALIGNMENT, attention_call, launch_on
from paro_trt.native import NativeLibrary
from paro_trt.op.spec import AttentionConfig, AttentionInputs

from .problem import Problem
from .shapes import BLOCK_Q

if TYPE_CHECKING:
    from torch.nn.attention import SDPBackend
    from torch.nn.attention.flex_attention import BlockMask

Layout = list[tuple[Tensor, ...]]
"""Query, key and value of each set, [1,H,S,D]."""

WITHOUT_WGMMA = 100
"""sm of GPUs that have the mma.sync kernels alone; the current GPU runs them too."""

LARGEST_ERROR = {"16": 0.02, "8": 0.05}
"""Relative L2 on noise whose outputs average out, by bits: gross errors only, before anything is
timed. 8-bit codes of P and V leave about 2 % there; a block too many or too few leaves tens. The
kernel tests hold to the tolerance policy."""


@dataclass(frozen=True)
class Contender:
    """Something to time.

    Args:
        name: of the implementation.
        kernel: which of the library's kernels; empty for others.
        bits: of both products.
        density: asked for; 1 without a mask.
        run: queues the i-th call and returns its output [1,S,H,D].
        check: relative error of an output of call 0.
    """

    name: str
    kernel: str
    bits: int
    density: float
    run: Callable[[int], Tensor]
    check: Callable[[Tensor], float]

    @property
    def key(self) -> str:
        """Unique within a group."""
        return f"{self.name} {self.kernel} {self.bits} @ {self.density:g}"

    @property
    def is_ours(self) -> bool:
        """Whether the library computes it."""
        return bool(self.kernel)

    @property
    def largest_error(self) -> float:
        """What `check` may say."""
        return LARGEST_ERROR[str(self.bits)]


@dataclass(frozen=True)
class LeftOut:
    """A contender that this machine cannot run."""

    name: str
    reason: str


class LibraryCall:
    """The op on each set of a problem's inputs in turn, without an allocation in the call."""

    def __init__(
        self,
        library: NativeLibrary,
        inputs: list[AttentionInputs],
        config: AttentionConfig,
        sm: int,
        threads: int,
    ) -> None:
        device = inputs[0].query.device
        self._library = library
        self._inputs = inputs  # what the calls point to
        self._output = torch.empty_like(inputs[0].query)
        self._launch = launch_on(device, threads=threads, sm=sm)
        self._calls = [attention_call(each, config, self._output) for each in inputs]
        self._size = library.workspace_bytes_of(self._calls[0], self._launch)
        self._memory = torch.empty(
            self._size + WORKSPACE_ALIGNMENT, dtype=torch.uint8, device=device
        )
        address = self._memory.data_ptr()
        self._workspace = address + -address % WORKSPACE_ALIGNMENT

    def __call__(self, index: int) -> Tensor:
        """Queue the call with this number."""
        call = self._calls[index % len(self._calls)]
        self._library.forward_raw(call, self._launch, self._workspace, self._size)
        return self._output


def ours(
    problem: Problem, library: NativeLibrary, bits: int, density: float, threads: int = 0
) -> Iterator[Contender]:
    """The library's contenders at one precision: the kernel it chooses and, beside wgmma, mma.sync.

    Args:
        threads: of a CPU backend.
    """
    config = AttentionConfig(BLOCK_Q, problem.block_k, qk_bits=bits, pv_bits=bits)
    inputs = problem.inputs(density)
    expected = problem.expected(density, reordered=True)

    def check(result: Tensor) -> float:
        return _error(problem.sample(result, reordered=True), expected)

    seen = set()
    for sm in (0, WITHOUT_WGMMA) if problem.device.type == "cuda" else (0,):
        kernel = library.describe(inputs[0], config, sm=sm).split(" for ")[0].split(" on ")[0]
        if kernel not in seen:
            seen.add(kernel)
            run = LibraryCall(library, inputs, config, sm, threads)
            yield Contender("PARO", kernel, bits, density, run, check)


def dense_baselines(problem: Problem) -> Iterator[Contender | LeftOut]:
    """torch's SDPA in bfloat16, each backend by itself; on a CPU the default one."""
    layout = _heads_first(problem)
    check = partial(_check_as_they_are, problem, problem.expected(None, reordered=False))
    if problem.device.type != "cuda":
        yield Contender("SDPA", "", 16, 1.0, partial(_sdpa, layout, None), check)
        return
    from torch.nn.attention import SDPBackend

    for name in ("CUDNN_ATTENTION", "FLASH_ATTENTION", "EFFICIENT_ATTENTION"):
        run = partial(_sdpa, layout, getattr(SDPBackend, name))
        yield _tried(Contender(f"SDPA {name.split('_')[0].lower()}", "", 16, 1.0, run, check))


def peers(problem: Problem, density: float) -> Iterator[Contender | LeftOut]:
    """FlexAttention with the same blocks, and SageAttention (dense, 8 bits) where it is there."""
    layout = _heads_first(problem)
    check = partial(_check_as_they_are, problem, problem.expected(density, reordered=False))
    run = partial(_flex, layout, _block_mask(problem, density))
    yield _tried(Contender("FlexAttention", "", 16, density, run, check))
    if importlib.util.find_spec("sageattention") is None:
        yield LeftOut("SageAttention", "package sageattention is not installed")
        return
    check = partial(_check_as_they_are, problem, problem.expected(None, reordered=False))
    yield _tried(Contender("SageAttention", "", 8, 1.0, partial(_sage, layout), check))


def _tried(contender: Contender) -> Contender | LeftOut:
    """The contender, if its first call works: baselines may lack a kernel for this GPU."""
    try:
        contender.run(0)
        torch.cuda.synchronize()
    except Exception as error:
        lines = f"{type(error).__name__}: {error}".splitlines()
        return LeftOut(contender.name, " ".join(lines)[:300])
    return contender


def _heads_first(problem: Problem) -> Layout:
    """[1,H,S,D], what the baselines are fastest with."""
    return [tuple(x.transpose(1, 2).contiguous() for x in each) for each in problem.sets]


def _sdpa(layout: Layout, backend: SDPBackend | None, index: int) -> Tensor:
    from torch.nn.attention import sdpa_kernel

    with nullcontext() if backend is None else sdpa_kernel(backend):
        return F.scaled_dot_product_attention(*layout[index % len(layout)]).transpose(1, 2)


def _sage(layout: Layout, index: int) -> Tensor:
    from sageattention import sageattn

    return sageattn(*layout[index % len(layout)], tensor_layout="HND").transpose(1, 2)


def _flex(layout: Layout, blocks: BlockMask, index: int) -> Tensor:
    output = _compiled_flex_attention()(*layout[index % len(layout)], block_mask=blocks)
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
    tokens = problem.shape.tokens
    return BlockMask.from_kv_blocks(
        torch.zeros_like(counts), torch.zeros_like(listed), counts, listed,
        BLOCK_SIZE=(BLOCK_Q, problem.block_k), seq_lengths=(tokens, tokens),
    )  # fmt: skip


def _check_as_they_are(problem: Problem, expected: Tensor, output: Tensor) -> float:
    return _error(problem.sample(output, reordered=False), expected)


def _error(actual: Tensor, expected: Tensor) -> float:
    """Relative L2; NaN where anything is."""
    return float((actual.double() - expected).norm() / expected.norm())
