"""The calibration artifact: what it holds and how it is read and written."""

from .format import load_plan, save_plan
from .plan import LayerPlan, ParoPlan
from .records import (
    CalibrationRecord,
    Grid,
    HeadRecord,
    ModelIdentity,
    TextLayout,
    TextPosition,
)

__all__ = [
    "CalibrationRecord",
    "Grid",
    "HeadRecord",
    "LayerPlan",
    "ModelIdentity",
    "ParoPlan",
    "TextLayout",
    "TextPosition",
    "load_plan",
    "save_plan",
]
