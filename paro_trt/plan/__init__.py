"""The plan: the result of a calibration, in memory and as a file."""

from .bins import mask_bins
from .document import (
    EFFECT,
    TIME_SHARE,
    CalibrationRecord,
    Grid,
    HeadRecord,
    ModelIdentity,
    TextLayout,
    TextPosition,
    figure_name,
    model_identity,
)
from .format import load_plan, save_plan
from .layer import LayerPlan
from .mix import BlockCounts, KeyCost, KeysMet, PlanMix, plan_mix, sum_keys
from .plan import ParoPlan

__all__ = [
    "EFFECT",
    "TIME_SHARE",
    "BlockCounts",
    "CalibrationRecord",
    "Grid",
    "HeadRecord",
    "KeyCost",
    "KeysMet",
    "LayerPlan",
    "ModelIdentity",
    "ParoPlan",
    "PlanMix",
    "TextLayout",
    "TextPosition",
    "figure_name",
    "load_plan",
    "mask_bins",
    "model_identity",
    "plan_mix",
    "save_plan",
    "sum_keys",
]
