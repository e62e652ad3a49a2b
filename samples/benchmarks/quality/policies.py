"""The policies that are compared, by name."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol, TypeAlias

from .blocks import Choice
from .calibrated import AS_PLANNED, DRIFTS, ONE_BIN, Calibrated
from .clusters import CHOICE_COST, SvgEar
from .peers import SlidingWindows, SolAttn, SolAttnCorrected, SpargeAttn, SpatialTemporal
from .sources import LayerCall
from .static import CalibratedPolicy, PaperPolicy, Recipe, RunTimePolicy

COSTS = (0.30, 0.20, 0.15, 0.10, 0.07)
"""Keys that a query meets, as shares of S: those of blocks and summaries, and what correction and
the choice at run time take (`KeyCost`)."""

VERSION_1 = "version 1"
STATIC_2 = "64 rows + mix + correction"
VERSION_2 = "version 2"
ONE_BIN_2 = f"{VERSION_2}: {ONE_BIN}"

RECIPES = {
    VERSION_1: Recipe(),
    "64 rows": Recipe(64),
    "mix": Recipe(fine=True),
    "correction": Recipe(corrected=True),
    "64 rows + mix": Recipe(64, fine=True),
    "mix + correction": Recipe(fine=True, corrected=True),
    "64 rows + mix + run-time": Recipe(64, fine=True, routed=True),
    STATIC_2: Recipe(64, fine=True, corrected=True),
    f"{STATIC_2}, corrected errors": Recipe(64, fine=True, corrected=True, corrected_errors=True),
    VERSION_2: Recipe(64, fine=True, corrected=True, routed=True),
}
"""Version 1, version 2 by parts and whole; what the names leave out is as in version 1."""

RUN_TIME = "run-time only"
COUNTED_SVG_EAR = "SVG-EAR, choice counted"


class Policy(Protocol):
    """Chooses blocks for a call."""

    calibrated: Calibrated

    def choose(self, call: LayerCall) -> list[Choice] | None:
        """The choice of each head; None: the policy has none at this cost."""


MakePolicy: TypeAlias = "Callable[[Calibrated, float], Policy | SvgEar]"

OTHERS: dict[str, MakePolicy] = {
    RUN_TIME: RunTimePolicy,
    "Sol-Attn": SolAttn,
    "Sol-Attn + correction": SolAttnCorrected,
    "SVG-EAR": SvgEar,
    COUNTED_SVG_EAR: lambda calibrated, cost: SvgEar(calibrated, cost - CHOICE_COST),
    "SpargeAttn": SpargeAttn,
    "Sparse VideoGen": SpatialTemporal,
    "sliding windows": SlidingWindows,
    "PARO, paper": PaperPolicy,
}


def make_policy(name: str, cost: float, calibrated: Calibrated) -> Policy | SvgEar:
    """The named policy at a cost; "NAME: DRIFT" has masks of other captures (`DRIFTS`)."""
    recipe, _, drift = name.partition(": ")
    if recipe in RECIPES:
        learned = DRIFTS[drift] if drift else AS_PLANNED
        return CalibratedPolicy(calibrated, RECIPES[recipe], cost, learned)
    return OTHERS[name](calibrated, cost)


POLICIES = (*RECIPES, *OTHERS)
