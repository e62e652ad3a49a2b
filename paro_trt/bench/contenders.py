"""What a contender of the attention benchmark is, and the library's own contenders."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ..op.c_abi import WORKSPACE_ALIGNMENT, attention_call, launch_on
from ..op.native import NativeLibrary
from ..op.spec import AttentionConfig, AttentionInputs
from .problem import Problem

TensorRun = Callable[[int], Tensor]

WITHOUT_WGMMA = 100
"""sm of GPUs that have the mma.sync kernels only; newer and older GPUs run them too."""

SMOOTHED_BITS = 4
"""Bits of query x key that are measured with smoothing, as `calibrate` has them by default."""

LARGEST_ERROR = {"f32": 1e-4, "bf16": 0.02, "int8": 0.05, "int4": 0.25}
"""Relative L2 on noise whose outputs average out: gross errors only, before anything is timed.
8-bit codes leave about 2 % there, smoothed 4-bit ones of Q and K 17; a block too many or too few
leaves tens. The kernel tests hold to the tolerance policy."""

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
        precision: "f32", "bf16", "int8" or "int4": query x key of 4 bits, smoothed, every head
            rotated, and P x value of 8.
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
        """Of query x key."""
        return {"int8": 8, "int4": 4}.get(self.precision, 16)

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
        bits: of both products; 4 of query x key alone, smoothed, with 8 of P x value.
        density: of the mask.
        threads: of a CPU backend.
    """
    smoothing = bits == SMOOTHED_BITS
    config = replace(
        problem.case.config, qk_bits=bits, pv_bits=8 if smoothing else bits, smoothing=smoothing
    )
    inputs = problem.inputs(problem.mask(density), config, problem.fine_mask(density))
    check = checked(problem, density, reordered=True)
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
    def inputs(listed: bool) -> list[AttentionInputs]:
        mask = torch.full_like(problem.ranks, listed, dtype=torch.bool)
        return problem.inputs(mask, config)

    unlisted = inputs(False)
    empty = [each._replace(key_length=torch.zeros_like(each.key_length)) for each in inputs(True)]
    return Stage1Calls(
        *(library_call(library, each, config, 0, threads) for each in (unlisted, empty))
    )


def checked(
    problem: Problem, density: float | None, *, reordered: bool = False
) -> Callable[[Tensor], float]:
    """Relative L2 error of an output, on the sampled rows; NaN where anything is."""
    expected = problem.expected(density, reordered=reordered)

    def error(output: Tensor) -> float:
        actual = problem.sample(output, reordered=reordered)
        return float((actual.double() - expected).norm() / expected.norm())

    return error
