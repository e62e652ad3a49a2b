"""What callers may pass for a plan, prompts, adapters and settings, as the steps take it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields
from os import PathLike
from pathlib import Path
from typing import Any, TypeAlias

from torch import Tensor

from ..errors import ArgumentError
from ..models.lora import LoraFile
from ..models.prompts import Prompts, load_prompts, prompts_of
from ..plan import ParoPlan, load_plan

PathOrStr: TypeAlias = "str | PathLike[str]"
PlanSource: TypeAlias = "PathOrStr | ParoPlan"
PromptSource: TypeAlias = "PathOrStr | Prompts | Mapping[str, Tensor]"
"""A prompt file, what `load_prompts` returned, or tensors [P, ...] named as in such a file."""


def plan_of(source: PlanSource) -> ParoPlan:
    """A plan as it is, or from its file."""
    return source if isinstance(source, ParoPlan) else load_plan(source)


def prompts_from(source: PromptSource) -> Prompts:
    """Embeddings as they are, of tensors by name, or from their file."""
    if isinstance(source, Prompts):
        return source
    if isinstance(source, Mapping):
        return prompts_of(source)
    return load_prompts(source)


def adapters(given: Sequence[PathOrStr | LoraFile]) -> tuple[LoraFile, ...]:
    """Adapter files with their scales, 1 where none is given."""
    return tuple(entry if isinstance(entry, LoraFile) else LoraFile(Path(entry)) for entry in given)


def settings_of(kind: type[Any], given: Mapping[str, Any]) -> Any:
    """A record of settings; ArgumentError if it has no such field."""
    known = [field.name for field in fields(kind)]
    unknown = sorted(set(given) - set(known))
    if unknown:
        raise ArgumentError(
            unknown[0],
            expected=f"an argument of this function or a field of {kind.__name__}",
            actual="an unknown name",
            remedy=f"the fields are {', '.join(known)}",
        )
    return kind(**given)


def taken(kind: type[Any], settings: dict[str, Any]) -> dict[str, Any]:
    """The settings that are fields of a class, taken out of `settings`."""
    names = {field.name for field in fields(kind)} - {"seed", "prompt"}
    return {name: settings.pop(name) for name in sorted(names & set(settings))}
