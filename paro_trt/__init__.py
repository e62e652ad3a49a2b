"""paro_trt: PAROAttention from a diffusers model to ONNX and TensorRT.

The names below are loaded on first use, so that `import paro_trt` needs neither torch nor onnx nor
TensorRT. docs/api.md has an example of each.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

from .errors import ParoError

if TYPE_CHECKING:
    from .api import calibrate, export, generate, verify
    from .engine.build import build_engine as build
    from .models.in_place import apply, remove
    from .op.api import paro_attention
    from .plan import ParoPlan, load_plan
    from .runtime.engine import Engine
    from .runtime.transformer import EngineTransformer

__version__ = "0.1.0"

__all__ = [
    "Engine",
    "EngineTransformer",
    "ParoError",
    "ParoPlan",
    "apply",
    "build",
    "calibrate",
    "export",
    "generate",
    "load_plan",
    "paro_attention",
    "remove",
    "verify",
]

_HOMES = {
    "Engine": (".runtime.engine", "Engine"),
    "EngineTransformer": (".runtime.transformer", "EngineTransformer"),
    "ParoPlan": (".plan", "ParoPlan"),
    "apply": (".models.in_place", "apply"),
    "build": (".engine.build", "build_engine"),
    "calibrate": (".api", "calibrate"),
    "export": (".api", "export"),
    "generate": (".api", "generate"),
    "load_plan": (".plan", "load_plan"),
    "paro_attention": (".op.api", "paro_attention"),
    "remove": (".models.in_place", "remove"),
    "verify": (".api", "verify"),
}
"""Public name -> the module that has it, and its name there."""


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module, own_name = _HOMES[name]
    value = getattr(importlib.import_module(module, __name__), own_name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
