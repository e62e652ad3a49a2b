"""The budget file: what kernels may cost, and which may spill."""

from __future__ import annotations

import json
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path

from . import stage1
from .kernels import Measured

FILE = Path(__file__).with_name("budget.json")
TOLERANCE = 0.03
UPDATE = "python -m plugins.kernels.sass.check --update"

Measurements = dict[str, dict[str, Measured]]
"""By target and name of the kernel."""


@dataclass(frozen=True)
class Budget:
    """What the file holds.

    nvcc: version that the numbers are of; another one's code differs.
    spills: reasons, by pattern of "sm_<target> <kernel>"; other kernels have no local memory.
    """

    nvcc: str
    spills: dict[str, str]
    kernels: Measurements

    def reason_to_spill(self, target: str, name: str) -> str:
        """Empty where there is none."""
        matching = (
            reason
            for pattern, reason in self.spills.items()
            if fnmatch(f"sm_{target} {name}", pattern)
        )
        return next(matching, "")


def load() -> Budget:
    """The recorded budget."""
    document = json.loads(FILE.read_text())
    kernels = {
        target: {name: Measured(**entry) for name, entry in entries.items()}
        for target, entries in document["kernels"].items()
    }
    return Budget(document["nvcc"], document["spills"], kernels)


def merged(recorded: Budget, nvcc: str, measured: Measurements) -> Budget:
    """A budget in which what was measured replaces what was recorded of the same kernels."""
    kernels = {target: dict(entries) for target, entries in recorded.kernels.items()}
    for target, entries in measured.items():
        kernels.setdefault(target, {}).update(entries)
    return Budget(nvcc, recorded.spills, kernels)


def save(budget: Budget) -> None:
    """One kernel a line, in order."""
    targets = []
    for target, entries in budget.kernels.items():
        lines = [
            f"      {json.dumps(name)}: {json.dumps(_entry(entries[name]))}"
            for name in sorted(entries)
        ]
        targets.append(f'    "{target}": {{\n' + ",\n".join(lines) + "\n    }")
    spills = json.dumps(budget.spills, indent=2).replace("\n", "\n  ")
    FILE.write_text(
        f'{{\n  "nvcc": "{budget.nvcc}",\n  "spills": {spills},\n  "kernels": {{\n'
        + ",\n".join(targets)
        + "\n  }\n}\n"
    )


def _entry(measured: Measured) -> dict[str, object]:
    """What the file holds of a kernel: costs that it does not have are left out."""
    always = ("registers", "local")
    return {name: value for name, value in vars(measured).items() if value or name in always}


def regressions(budget: Budget, nvcc: str, measured: Measurements) -> list[str]:
    """What is worse than recorded, or not recorded; numbers count for the same nvcc only."""
    found = []
    for target, entries in measured.items():
        for name, now in entries.items():
            where = f"sm_{target} {name}"
            if target == stage1.TARGET and now.per_byte > stage1.MOST_PER_BYTE:
                found.append(
                    f"{where}: {now.per_byte} instructions a byte, {stage1.MOST_PER_BYTE:.3f} leave"
                    " memory the limit"
                )
            if now.local and not budget.reason_to_spill(target, name):
                found.append(f"{where}: {now.local} accesses to local memory, none has a reason")
            then = budget.kernels.get(target, {}).get(name)
            if then is None:
                found.append(f"{where}: not recorded; {UPDATE}")
            elif nvcc == budget.nvcc:
                found += [f"{where}: {line}" for line in _differences(then, now, worse=True)]
    return found


def improvements(budget: Budget, nvcc: str, measured: Measurements) -> list[str]:
    """What is better than recorded, and should be recorded."""
    found = []
    for target, entries in measured.items() if nvcc == budget.nvcc else ():
        for name, now in entries.items():
            then = budget.kernels.get(target, {}).get(name)
            if then is not None:
                lines = _differences(then, now, worse=False)
                found += [f"sm_{target} {name}: {line}" for line in lines]
    return found


def _differences(then: Measured, now: Measured, *, worse: bool) -> list[str]:
    lines = []
    before, after = then.figures(), now.figures()
    # Costs of the hot loop that were not recorded when the rest was have nothing to compare with.
    names = before | after if then.clocks else ("registers", "local", "per_score", "per_byte")
    for name in names:
        old, new = before.get(name, 0), after.get(name, 0)
        low, high = (old, new) if worse else (new, old)
        if high > low * (1 + TOLERANCE):
            lines.append(f"{name} was {old}, is {new}")
    return lines
