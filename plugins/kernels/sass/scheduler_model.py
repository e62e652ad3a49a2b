"""A model of the time of a hot loop: a partition's scheduler that follows the control codes.

Warps of one partition run the loop of a compiled kernel again and again. In each clock the
scheduler issues one instruction of one warp: one whose stall has passed, whose barriers are open
and whose pipe has room. There is no memory: copies have always arrived.

Not modelled: register banks and their caches, the dispatch of one pipe by two partitions, clocks
that fall under load.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from . import pipes
from .listing import BARRIERS, Control, Function, Loop
from .pipes import RATES, Pipe, Use, use

_QUEUE_CLOCKS = {Pipe.TRANSCENDENTAL: 48, Pipe.SHARED: 96}
"""Work that a pipe takes ahead of time; the others take an instruction when they are free."""

_READ_CLOCKS = 12
"""Until the operands of an instruction of variable latency are read."""

_BARRIER_CLOCKS = 25
_WGMMA_START = 8

_LOOPS, _WARM_LOOPS = 16, 4
_PHASES = (0, 300, 600, 900)
"""Clocks by which warps start apart, as those of different thread blocks do. The mean over them is
taken: two warps settle into one of a few rhythms."""


@dataclass(frozen=True)
class _Step:
    operands: str
    control: Control
    use: Use
    is_wgmma: bool
    synchronizes: bool
    arrives: bool
    groups_left: int | None
    """Of products in flight, once a wait for them is over."""


@dataclass
class _Warp:
    """place: of its next instruction. opens: of each barrier, the clock. groups: of its wgmma
    products, when each ends."""

    ready: float
    place: int = 0
    opens: list[float] = field(default_factory=lambda: [0.0] * BARRIERS)
    open_group: float = 0.0
    groups: list[float] = field(default_factory=list)


class _Partition:
    """The pipes of one partition and the warps on it. starts: clocks in which one of them began the
    loop anew."""

    def __init__(
        self, steps: Sequence[_Step], warps: int, target: str, phase: int, *, has_turns: bool
    ) -> None:
        self._steps = steps
        self._fp32_clocks = RATES[target].fp32
        self._has_turns = has_turns
        self._free = dict.fromkeys(Pipe, 0.0)
        self._multiplier_free = 0.0
        self._preferred = 0
        # The first warp has the first turn to issue products.
        self._turns = [1] + [0] * (warps - 1)
        self.starts: list[float] = []
        self.warps = [_Warp(ready=index * phase) for index in range(warps)]

    def issue(self, now: float) -> bool:
        """One instruction of one warp, if any can go."""
        count = len(self.warps)
        for offset in range(count):
            index = (self._preferred + offset) % count
            if self._can_issue(index, now):
                self._issue(index, now)
                stays = self._steps[self.warps[index].place - 1].control.stays
                self._preferred = index if stays else (index + 1) % count
                return True
        return False

    def _can_issue(self, index: int, now: float) -> bool:
        warp = self.warps[index]
        if warp.ready > now:
            return False
        step = self._steps[warp.place % len(self._steps)]
        if any(warp.opens[barrier] > now for barrier in step.control.waits):
            return False
        if step.synchronizes and self._has_turns and not self._turns[index]:
            return False
        left = step.groups_left
        if left is not None:
            return len(warp.groups) <= left or warp.groups[-1 - left] <= now
        if step.use.multiplies and self._multiplier_free > now:
            return False
        if step.is_wgmma or step.use.pipe is Pipe.NONE:
            return True
        return self._free[step.use.pipe] <= now + _QUEUE_CLOCKS.get(step.use.pipe, 0)

    def _issue(self, index: int, now: float) -> None:
        warp = self.warps[index]
        warp.place %= len(self._steps)
        if warp.place == 0:
            self.starts.append(now)
        step = self._steps[warp.place]
        warp.place += 1
        end = self._execute(step, warp, now)
        control = step.control
        if control.writes is not None:
            warp.opens[control.writes] = max(warp.opens[control.writes], end, now + 1)
        if control.reads is not None:
            read = end - 10 if step.use.pipe is Pipe.SHARED else now + _READ_CLOCKS
            warp.opens[control.reads] = max(warp.opens[control.reads], read)
        warp.ready = now + max(1, control.stall)
        if step.synchronizes:
            warp.ready += _BARRIER_CLOCKS
            self._turns[index] -= self._has_turns
        elif step.arrives and self._has_turns:
            self._turns[(index + 1) % len(self.warps)] += 1

    def _execute(self, step: _Step, warp: _Warp, now: float) -> float:
        """Holds the pipe; the clock in which the result is there."""
        pipe = step.use.pipe
        if step.is_wgmma:
            start = max(self._free[pipe], now + _WGMMA_START)
            self._free[pipe] = start + step.use.clocks
            warp.open_group = self._free[pipe] + step.use.latency
            if "gsb0" in step.operands:
                warp.groups.append(warp.open_group)
            return now
        start = max(self._free[pipe], now)
        held = step.use.clocks
        if step.use.multiplies:
            self._multiplier_free = now + held
            held = self._fp32_clocks
        if pipe is not Pipe.NONE:
            self._free[pipe] = start + held
        return start + step.use.latency + (held / 4 if pipe is Pipe.SHARED else 0)

    def next_chance(self, now: float) -> float:
        """The next clock in which a warp may be ready."""
        return max(now + 1, min(warp.ready for warp in self.warps))


def clocks_of_loop(
    function: Function, loop: Loop, target: str, warps: int, *, has_turns: bool = False
) -> float:
    """Clocks between two rounds of a warp, of `warps` that run the loop on one partition.

    Args:
        function: as disassembled, for sm_<target>.
        loop: in it.
        has_turns: the first named barrier of the loop gives the warps turns, as those of two
            warpgroups on a Hopper; else barriers have no one to wait for.
    """
    steps = list(_steps(function, loop, target))
    periods = [
        _period(_Partition(steps, warps, target, phase, has_turns=has_turns)) for phase in _PHASES
    ]
    return sum(periods) / len(periods)


def _period(partition: _Partition) -> float:
    """By what all warps did: a scheduler may prefer one for long."""
    warps, now = len(partition.warps), 0.0
    while len(partition.starts) <= _LOOPS * warps:
        now = now + 1 if partition.issue(now) else partition.next_chance(now)
    first, last = partition.starts[_WARM_LOOPS * warps], partition.starts[_LOOPS * warps]
    return (last - first) / (_LOOPS - _WARM_LOOPS)


def _steps(function: Function, loop: Loop, target: str) -> Iterator[_Step]:
    """What a warp executes; a branch over arithmetic alone is taken. It moves a reference, as a
    walk does once or twice."""
    skipped = pipes.skipped_arithmetic(function, loop, target)
    for place in range(loop.first, loop.last + 1):
        if place not in skipped:
            opcode, operands = function.opcodes[place], function.operands[place]
            waits = opcode.startswith("WARPGROUP.DEPBAR")
            yield _Step(
                operands,
                function.controls[place],
                use(opcode, target),
                is_wgmma=re.match(r"[IHQ]GMMA", opcode) is not None,
                synchronizes=opcode.startswith("BAR.SYNC"),
                arrives=opcode.startswith("BAR.ARV"),
                groups_left=int(re.findall(r"0x([0-9a-f]+)", operands)[-1], 16) if waits else None,
            )
