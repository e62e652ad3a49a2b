"""The two TensorRT products: the Python packages that build and run engines.

TensorRT 11 renumbered its flags and removed some, so this package looks up each flag by name.
"""

from __future__ import annotations

import importlib
import re
from dataclasses import dataclass
from enum import Enum
from typing import Any

from ..errors import BackendUnavailableError
from .rtx_libraries import open_rtx_libraries

OLDEST, NEWEST = 10, 11
"""Majors of TensorRT whose Python interface the builder and the runtime support."""


class Flavour(str, Enum):
    """A TensorRT product. Both run PAROAttention by the plugin.

    TENSORRT builds for the GPU in the machine; TENSORRT_RTX for GPUs that need not be here.
    """

    TENSORRT = "tensorrt"
    TENSORRT_RTX = "tensorrt_rtx"

    @property
    def label(self) -> str:
        """The product's name."""
        return "TensorRT" if self is Flavour.TENSORRT else "TensorRT for RTX"


_REMEDY = {
    Flavour.TENSORRT: "pip install tensorrt (10.x or 11.x); or build with --tensorrt tensorrt_rtx,"
    " for GeForce and RTX GPUs",
    Flavour.TENSORRT_RTX: "pip install tensorrt-rtx",
}


@dataclass(frozen=True)
class TensorRt:
    """A loaded TensorRT.

    Args:
        flavour: which product.
        version: such as "10.16.1.11".
        module: its Python module.
    """

    flavour: Flavour
    version: str
    module: Any

    @property
    def major(self) -> int:
        """First number of the version."""
        return int(self.version.partition(".")[0])


def load_tensorrt(flavour: Flavour) -> TensorRt:
    """Import a TensorRT.

    Raises:
        BackendUnavailableError: it is not installed, does not load, or is of an unknown major.
    """
    if flavour is Flavour.TENSORRT_RTX:
        open_rtx_libraries()
    try:
        module = importlib.import_module(flavour.value)
    except Exception as error:  # a missing libnvinfer or driver raises what the loader raises
        missing = isinstance(error, ModuleNotFoundError) and error.name == flavour.value
        raise BackendUnavailableError(
            flavour.label,
            expected=f"the Python package {flavour.value}",
            actual="not installed" if missing else " ".join(str(error).split())[:200],
            remedy=_REMEDY[flavour],
        ) from error
    version = str(getattr(module, "__version__", ""))
    if not re.match(r"\d+\.\d", version):
        raise BackendUnavailableError(
            flavour.label,
            expected=f"the Python package {flavour.value}",
            actual=f"a package of that name without a version ({version[:40]!r})",
            remedy=_REMEDY[flavour],
        )
    found = TensorRt(flavour, version, module)
    if flavour is Flavour.TENSORRT and not OLDEST <= found.major <= NEWEST:
        raise BackendUnavailableError(
            flavour.label,
            expected=f"version {OLDEST}.x to {NEWEST}.x",
            actual=version,
            remedy=f"pip install 'tensorrt>={OLDEST},<{NEWEST + 1}'",
        )
    return found


def same_release(one: str, other: str) -> bool:
    """Whether two versions are of one release. Engines are not portable between releases."""
    return one.split(".")[:3] == other.split(".")[:3]
