"""The JSON document of a plan, declared once. FORMAT.md in this folder is normative.

The Structs below are both the records that Python code makes and the JSON objects of a file.
A record is checked when it is made, by a decoder or by Python code. `LayerPlan` and `ParoPlan`
check the rest: the arrays, bits, blocks and names of orders.
"""

from __future__ import annotations

import hashlib
import inspect
import sys
from collections.abc import Mapping
from enum import Enum
from functools import cache
from typing import Annotated, Any, get_type_hints

import msgspec
import numpy as np
from msgspec import Meta

from ..documents import Finite, Sha256, canonical_json, convert_document, shown, strict_json
from ..errors import ArgumentError, PlanError
from . import checks
from .limits import MAX_BINS, MAX_HEADS, MAX_LABEL, MAX_LAYERS, MAX_TOKENS

FORMAT_VERSION = 2
"""The newest that is read. A plan is written in the first version that has what it uses."""

VERSION_2_FIELDS = {
    "fine_summaries": "fine_mask",
    "mean_correction": "corrected_heads",
    "routing": "dynamic_blocks",
    "smoothing": "rotation",
}
"""Fields of a layer that version 2 adds, and the tensor that each says the file has."""

EFFECT, TIME_SHARE = "effect", "time_share"
"""Figures of layers where effects were measured: the relative L2 error of the model's prediction
that the layer's blocks and bits add, and its share of the plan's counted time."""

_MAX_STEPS = 1 << 20
_LARGEST = sys.float_info.max

# Masses are sums of FP32 probabilities and may exceed 1 by their rounding.
_MASS_SLACK = 1e-3

Name = Annotated[str, Meta(min_length=1, max_length=MAX_LABEL)]
_Figures = Meta(min_length=1, max_length=MAX_BINS)


class Record(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A record whose fields are checked against their declaration however it is made.

    msgspec checks a Struct when it decodes one; this class also checks what Python code passes.
    """

    def __post_init__(self) -> None:
        values = {name: _plain(getattr(self, name)) for name in self.__struct_fields__}
        checked = convert_document(values, _declaration(type(self)), error=PlanError)
        for name in self.__struct_fields__:
            msgspec.structs.force_setattr(self, name, getattr(checked, name))


@cache
def _declaration(record: type[Record]) -> type[msgspec.Struct]:
    """The fields of a record as a Struct without checks of its own."""
    return msgspec.defstruct(
        record.__name__, list(get_type_hints(record, include_extras=True).items())
    )


def _plain(value: object) -> object:
    """The JSON value of a Python or NumPy value."""
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, tuple | list):
        return [_plain(item) for item in value]
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    return value


class TextPosition(str, Enum):
    """Where a model puts its text tokens in the joint sequence."""

    FIRST = "first"
    LAST = "last"
    NONE = "none"


class Grid(Record, frozen=True):
    """Visual tokens (not pixels) of a sample along time, height and width."""

    frames: Annotated[int, Meta(ge=1, le=MAX_TOKENS)]
    height: Annotated[int, Meta(ge=1, le=MAX_TOKENS)]
    width: Annotated[int, Meta(ge=1, le=MAX_TOKENS)]

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.tokens > MAX_TOKENS:
            raise PlanError(
                "frames * height * width",
                expected=f"at most {MAX_TOKENS} tokens",
                actual=f"{self.tokens}",
            )

    @property
    def tokens(self) -> int:
        """frames * height * width."""
        return self.frames * self.height * self.width


class TextLayout(Record, frozen=True):
    """Text tokens in the joint sequence.

    Args:
        count: text tokens; 0 where text does not join the sequence.
        position: their place; NONE exactly when `count` is 0.
        padded: prompts fill only part of `count`. Such text must be LAST: the op's `key_length`
            can leave out only the end of a sequence.
    """

    count: Annotated[int, Meta(ge=0, le=MAX_TOKENS)] = 0
    position: TextPosition = TextPosition.NONE
    padded: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if (self.position is TextPosition.NONE) != (self.count == 0):
            wanted = "first or last, as there are {} tokens" if self.count else "none"
            raise PlanError(
                "position", expected=wanted.format(self.count), actual=self.position.value
            )
        if self.padded and self.position is not TextPosition.LAST:
            raise PlanError(
                "padded",
                expected=f"false where the text's position is {self.position.value}",
                actual="true",
                remedy="put padded text last: key_length can cut only the sequence's end",
            )


class ModelIdentity(Record, frozen=True):
    """The model a plan was made for; `model_identity` makes one.

    Args:
        class_name: the diffusers class.
        config_hash: SHA-256, lower-case hex, of its canonical configuration.
    """

    class_name: Name
    config_hash: Sha256

    def __post_init__(self) -> None:
        super().__post_init__()
        checks.label("class_name", self.class_name)


def model_identity(
    class_name: str, config: Mapping[str, Any], expert: str | None = None
) -> ModelIdentity:
    """Identify a model by its class and what its configuration changes of the class's defaults.

    An argument that equals its default does not count, nor one that the class does not take, so
    that a plan stays with its model where another release of diffusers adds an argument.

    Args:
        class_name: the diffusers class, such as "WanTransformer3DModel".
        config: its configuration; keys that start with "_" (library version, path) do not count.
            Where diffusers has no such class, every other key counts.
        expert: the role of one of two transformers of one configuration.

    Raises:
        ArgumentError: the configuration holds what JSON cannot.
    """
    kept = {key: value for key, value in config.items() if not key.startswith("_")}
    parameters = _constructor(class_name)
    if parameters:
        kept = {
            key: value
            for key, value in kept.items()
            if key in parameters and _plain(value) != _plain(parameters[key].default)
        }
    return _hashed(class_name, kept, expert)


def model_identity_of_all_keys(
    class_name: str, config: Mapping[str, Any], expert: str | None = None
) -> ModelIdentity:
    """As `model_identity`, with defaults counted: how plans made before 2026-11-30 have it."""
    kept = {key: value for key, value in config.items() if not key.startswith("_")}
    return _hashed(class_name, kept, expert)


def _hashed(class_name: str, kept: Mapping[str, Any], expert: str | None) -> ModelIdentity:
    role = {} if expert is None else {"paro_expert": expert}
    try:
        canonical = canonical_json({**kept, **role})
    except (TypeError, ValueError) as error:
        raise ArgumentError(
            "config", expected="values that JSON can hold", actual=shown(str(error))
        ) from error
    return ModelIdentity(class_name, hashlib.sha256(canonical).hexdigest())


def _constructor(class_name: str) -> Mapping[str, inspect.Parameter]:
    """Arguments of a diffusers class; none where diffusers or the class is not there."""
    try:
        import diffusers

        return inspect.signature(getattr(diffusers, class_name).__init__).parameters
    except (ImportError, AttributeError, RuntimeError):
        return {}


class HeadRecord(Record, frozen=True):
    """What was chosen and predicted for one head. Each tuple has one figure for each bin.

    Args:
        order: name of the head's token order.
        density: attended blocks / all blocks, in [0, 1]; agrees with the mask.
        mass: attention over attended blocks / over all, in [0, 1].
        predicted_error: relative L2 error of the head's output, >= 0.
    """

    order: Name
    density: Annotated[tuple[Annotated[float, Meta(ge=0, le=1)], ...], _Figures]
    mass: Annotated[tuple[Annotated[float, Meta(ge=0, le=1 + _MASS_SLACK)], ...], _Figures]
    predicted_error: Annotated[tuple[Annotated[float, Meta(ge=0, le=_LARGEST)], ...], _Figures]

    def __post_init__(self) -> None:
        super().__post_init__()
        checks.label("order", self.order)
        for name in ("mass", "predicted_error"):
            count = len(getattr(self, name))
            if count != len(self.density):
                raise PlanError(
                    name,
                    expected=f"one figure for each of {len(self.density)} bins",
                    actual=f"{count}",
                )


class CalibrationRecord(Record, frozen=True):
    """How a plan was made.

    Args:
        prompts: the texts calibrated on.
        steps: denoising steps of the run, >= 1.
        captured_steps: which of them were captured, each in [0, steps).
        order_metric: what chose the orders.
        mask_metric: what chose the blocks.
        density: the density asked for, in [0, 1].
        seed: of the run's noise, in [0, 2**64).
        tool_version: version of this package.
        notes: free lines, such as warnings given at the time.
        measured: free finite figures, such as a held-out error.
    """

    prompts: tuple[str, ...]
    steps: Annotated[int, Meta(ge=1, le=_MAX_STEPS)]
    captured_steps: tuple[Annotated[int, Meta(ge=0, le=_MAX_STEPS)], ...]
    order_metric: Name
    mask_metric: Name
    density: Annotated[float, Meta(ge=0, le=1)]
    seed: Annotated[int, Meta(ge=0)]
    tool_version: Name
    notes: tuple[str, ...]
    measured: dict[Name, Finite]

    def __post_init__(self) -> None:
        super().__post_init__()
        for i, step in enumerate(self.captured_steps):
            checks.integer(f"captured_steps[{i}]", step, 0, self.steps - 1)
        checks.integer("seed", self.seed, 0, (1 << 64) - 1)  # Meta cannot hold this bound
        for name in ("order_metric", "mask_metric", "tool_version"):
            checks.label(name, getattr(self, name))
        for name in ("prompts", "notes"):
            for i, line in enumerate(getattr(self, name)):
                checks.text(f"{name}[{i}]", line)
        for key in self.measured:
            checks.label("measured", key)

    def of_layer(self, figure: str, layer: str) -> float | None:
        """A measured figure of a layer, such as EFFECT; None where it was not measured."""
        return self.measured.get(figure_name(figure, layer))


def figure_name(figure: str, layer: str) -> str:
    """The name in `measured` of a layer's figure."""
    return f"{figure}.{layer}"


class LayerDocument(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """A layer without its arrays, which are tensors of the file. The last four fields are of
    version 2, named as the op's attributes, and written only where true."""

    name: str
    qk_bits: int
    pv_bits: int
    bits_reason: str
    heads: Annotated[tuple[HeadRecord, ...], Meta(min_length=1, max_length=MAX_HEADS)]
    fine_summaries: bool = False
    mean_correction: bool = False
    routing: bool = False
    smoothing: bool = False


class PlanDocument(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A plan without its arrays."""

    format_version: Annotated[int, Meta(ge=1, le=FORMAT_VERSION)]
    content_hash: Sha256
    model: ModelIdentity
    grid: Grid
    text: TextLayout
    block_q: int
    block_k: int
    pool_dropped: bool
    bin_boundaries: tuple[float, ...]
    order_names: tuple[str, ...]
    layers: Annotated[tuple[LayerDocument, ...], Meta(min_length=1, max_length=MAX_LAYERS)]
    calibration: CalibrationRecord


def parse_document(text: str) -> PlanDocument:
    """Read the JSON of a plan.

    Raises:
        PlanError: it is not JSON, is of another version, or a field is missing, unknown or wrong.
    """
    raw = strict_json(text, error=PlanError, name="document")
    version = raw.get("format_version") if isinstance(raw, dict) else None
    if isinstance(version, int) and not isinstance(version, bool) and version > FORMAT_VERSION:
        raise PlanError(
            "format_version",
            expected=f"{FORMAT_VERSION}, the newest this release reads",
            actual=shown(version),
            remedy="upgrade paro-trt, or calibrate again with this release",
        )
    document: PlanDocument = convert_document(raw, PlanDocument, error=PlanError)
    _check_version(document)
    return document


def _check_version(document: PlanDocument) -> None:
    """Refuse a version 1 with fields of version 2, and a version 2 without any."""
    used = [
        f"layers.{i}.{name}"
        for i, layer in enumerate(document.layers)
        for name in VERSION_2_FIELDS
        if getattr(layer, name)
    ]
    if used and document.format_version == 1:
        raise PlanError(
            used[0],
            expected="no field of format version 2 in a file of version 1",
            actual="true",
            remedy="calibrate again with this release",
        )
    if not used and document.format_version != 1:
        raise PlanError(
            "format_version",
            expected="1 where no layer uses what version 2 adds",
            actual=str(document.format_version),
        )
