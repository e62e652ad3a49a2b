"""Offline calibration: token orders, block masks and quantization learned from a model's runs."""

from .calibrator import calibrate
from .progress import Progress, SilentProgress
from .select_mask import Allocation, MaskMetric
from .select_order import OrderMetric
from .settings import CalibrationSettings
from .time_model import Target

__all__ = [
    "Allocation",
    "CalibrationSettings",
    "MaskMetric",
    "OrderMetric",
    "Progress",
    "SilentProgress",
    "Target",
    "calibrate",
]
