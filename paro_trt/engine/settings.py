"""How to build an engine."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

from ..errors import ArgumentError
from .tensorrt_api import Flavour

MEBIBYTE = 1 << 20

BATCH = "B"
"""The free size that is the batch in every exported file."""

MAX_SIZE = 1 << 20
MAX_PROFILES = 16
"""More would be a mistake: each is built and kept in the engine by itself."""

BUILDER_LEVELS = range(6)
RTX_TARGETS = (75, 80, 86, 89, 120, 121)
"""GPUs that TensorRT for RTX can target from any machine (1.7)."""

OLDEST_PLUGIN_TARGET = 80
"""What the plugin's oldest kernels run on."""


@dataclass(frozen=True)
class SizeRange:
    """What a free size may be at run time, and what the engine is tuned for.

    Raises:
        ArgumentError: not 1 <= min <= opt <= max.
    """

    min: int
    opt: int
    max: int

    def __post_init__(self) -> None:
        ordered = 1 <= self.min <= self.opt <= self.max <= MAX_SIZE
        if not ordered or any(type(size) is not int for size in (self.min, self.opt, self.max)):
            raise ArgumentError(
                "size range",
                expected=f"1 <= min <= opt <= max <= {MAX_SIZE}",
                actual=f"{self.min}, {self.opt}, {self.max}",
            )

    def __str__(self) -> str:
        return f"{self.min},{self.opt},{self.max}"


DEFAULT_BATCH = SizeRange(1, 1, 1)
"""Pipelines that guide evaluate the prompt and its negative one after the other."""

DEFAULT_SIZE = SizeRange(1, 512, 512)
"""Text tokens. Wan's pipeline pads to 512."""


@dataclass(frozen=True)
class BuildSettings:
    """The options of a build. None leaves the choice to TensorRT.

    Args:
        flavour: which TensorRT.
        sizes: range of each free size of the file by its name; "B" is the batch. Those not
            named take DEFAULT_BATCH and DEFAULT_SIZE. The batch may have several ranges that do
            not overlap: the engine gets an optimization profile for each, tuned for its `opt`.
        builder_level: 0 (fast build) to 5 (fast engine).
        workspace: bytes of device memory that layers may use in addition to their tensors.
        shared_memory: bytes of shared memory a block that layers may use.
        max_aux_streams: streams that an engine may use in addition to the main one.
        weight_streaming: weights may stay in host memory; the runtime sets the budget.
        profiling: layers keep full names and details, for profilers.
        refit: weights of linear layers can be replaced in the built engine: `refit_engine`.
        function_body: PAROAttention is computed by the dense function in the file, not by the
            plugin: the whole attention matrix, without quantized arithmetic's speed.
        max_workspace: bytes of workspace that a PAROAttention layer may take: it then computes its
            heads in groups. A multiple of 1 MiB.
        target: for TensorRT for RTX, the GPU as 10 * major + minor of its compute capability; for
            TensorRT the GPU in the machine, and None.

    Raises:
        ArgumentError: a value is out of range.
    """

    flavour: Flavour = Flavour.TENSORRT
    sizes: Mapping[str, SizeRange | tuple[SizeRange, ...]] = field(
        default_factory=lambda: MappingProxyType({})
    )
    builder_level: int | None = None
    workspace: int | None = None
    shared_memory: int | None = None
    max_aux_streams: int | None = None
    weight_streaming: bool = False
    profiling: bool = False
    refit: bool = False
    target: int | None = None
    function_body: bool = False
    max_workspace: int | None = None

    def __post_init__(self) -> None:
        if self.builder_level is not None and self.builder_level not in BUILDER_LEVELS:
            raise ArgumentError("builder_level", expected="0 to 5", actual=str(self.builder_level))
        for name in ("workspace", "shared_memory"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ArgumentError(name, expected="a positive number", actual=str(value))
        if self.max_aux_streams is not None and self.max_aux_streams < 0:
            raise ArgumentError(
                "max_aux_streams", expected="0 or more", actual=str(self.max_aux_streams)
            )
        limit = self.max_workspace
        if limit is not None and (limit < MEBIBYTE or limit % MEBIBYTE or limit > 1 << 40):
            raise ArgumentError(
                "max_workspace", expected="1 to 1048576 MiB, whole ones", actual=f"{limit} bytes"
            )
        self._check_batches()
        self._check_target()
        self._check_function_body()

    def _check_batches(self) -> None:
        several = [name for name, of in self.sizes.items() if isinstance(of, tuple)]
        if any(name != BATCH for name in several):
            raise ArgumentError(
                f"size {several[0]}", expected="one range: only the batch may have several",
                actual=str(len(self.sizes[several[0]])),  # type: ignore[arg-type]
            )  # fmt: skip
        if not 1 <= len(self.batches) <= MAX_PROFILES:
            raise ArgumentError(
                "batch",
                expected=f"1 to {MAX_PROFILES} ranges, an optimization profile each",
                actual=str(len(self.batches)),
            )
        ordered = sorted(self.batches, key=lambda batch: batch.min)
        for lower, upper in itertools.pairwise(ordered):
            if upper.min <= lower.max:
                raise ArgumentError(
                    f"batch {upper}",
                    expected="batches of no other range, so that each belongs to one profile",
                    actual=f"{upper.min} to {min(lower.max, upper.max)} again, of {lower}",
                    remedy=f"pass ranges that do not overlap, such as {lower} and one from "
                    f"{lower.max + 1} on",
                )

    def _check_target(self) -> None:
        if self.flavour is Flavour.TENSORRT and self.target is not None:
            raise ArgumentError(
                "target",
                expected="none: TensorRT builds for the GPU in this machine",
                actual=str(self.target),
                remedy="build on a machine with that GPU",
            )
        if self.flavour is Flavour.TENSORRT_RTX and self.target not in RTX_TARGETS:
            raise ArgumentError(
                "target",
                expected=f"one of {', '.join(map(str, RTX_TARGETS))} (10 * compute capability)",
                actual="none" if self.target is None else str(self.target),
                remedy="pass --sm",
            )

    def _check_function_body(self) -> None:
        if self.function_body and self.flavour is Flavour.TENSORRT:
            raise ArgumentError(
                "function_body",
                expected="the plugin: TensorRT's engines are made for speed",
                actual="the function in the file",
                remedy="build it by TensorRT for RTX, or export a baseline with --dense",
            )
        if self.function_body and self.max_workspace is not None:
            raise ArgumentError(
                "max_workspace",
                expected="none: it is the plugin's",
                actual="one, for a build by the function in the file",
            )

    @property
    def uses_plugin(self) -> bool:
        """Whether the plugin computes PAROAttention, where the model has any."""
        return not self.function_body

    @property
    def batches(self) -> tuple[SizeRange, ...]:
        """Ranges of the batch, one for each optimization profile."""
        given = self.sizes.get(BATCH, DEFAULT_BATCH)
        return given if isinstance(given, tuple) else (given,)

    def range_of(self, symbol: str) -> SizeRange:
        """Range of a free size; of a batch of several ranges from the smallest to the largest."""
        given = self.sizes.get(symbol, DEFAULT_BATCH if symbol == BATCH else DEFAULT_SIZE)
        if isinstance(given, SizeRange):
            return given
        return SizeRange(
            min(part.min for part in given), given[0].opt, max(part.max for part in given)
        )
