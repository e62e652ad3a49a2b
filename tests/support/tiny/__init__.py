"""Random-weight models of the real diffusers classes, small enough for tests.

One module a family, named after it, whose VARIANTS are `TinyModel`s.
"""

from __future__ import annotations

import importlib

from paro_trt.families.registry import FAMILIES

from .model import TinyModel

__all__ = ["TinyModel", "all_variants", "variants_of"]


def variants_of(family_name: str) -> tuple[TinyModel, ...]:
    """The tiny models of a registered family."""
    module = importlib.import_module(f"{__name__}.{family_name}")
    variants: tuple[TinyModel, ...] = module.VARIANTS
    return variants


def all_variants() -> tuple[TinyModel, ...]:
    """Every tiny model of every registered family."""
    return tuple(tiny for family in FAMILIES for tiny in variants_of(family.name))
