"""The steps of the tool as one function each: `paro_trt.calibrate`, `export`, `verify`, `generate`.

`paro_trt.build` and `paro_trt.apply` need no preparation and are the functions of their packages.
"""

from .calibration import calibrate
from .exporting import check_external_data, export
from .generation import generate
from .verification import verify

__all__ = ["calibrate", "check_external_data", "export", "generate", "verify"]
