"""The JSON half of a plan: strict text to values, values to records, and back."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, fields
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar

from ..errors import PlanError
from . import checks
from .limits import MAX_HEADS, MAX_LAYERS
from .records import CalibrationRecord, Grid, HeadRecord, ModelIdentity, TextLayout, is_sha256

if TYPE_CHECKING:
    from .plan import ParoPlan

FORMAT_VERSION = 1

_Record = TypeVar("_Record")


@dataclass(frozen=True)
class LayerDocument:
    """What JSON says of a layer; its arrays are tensors."""

    name: str
    qk_bits: int
    pv_bits: int
    bits_reason: str
    heads: tuple[HeadRecord, ...]


@dataclass(frozen=True)
class PlanDocument:
    """What JSON says of a plan, its records checked and the rest as it came."""

    content_hash: str
    model: ModelIdentity
    grid: Grid
    text: TextLayout
    block_q: int
    block_k: int
    pool_dropped: bool
    bin_boundaries: tuple[float, ...]
    order_names: tuple[str, ...]
    layers: tuple[LayerDocument, ...]
    calibration: CalibrationRecord


def describe(plan: ParoPlan) -> dict[str, Any]:
    """Everything of a plan but its arrays and hash, as JSON values."""
    return {
        "format_version": FORMAT_VERSION,
        "model": asdict(plan.model),
        "grid": asdict(plan.grid),
        "text": {**asdict(plan.text), "position": plan.text.position.value},
        "block_q": plan.block_q,
        "block_k": plan.block_k,
        "pool_dropped": plan.pool_dropped,
        "bin_boundaries": list(plan.bin_boundaries),
        "order_names": list(plan.order_names),
        "layers": [
            {
                "name": layer.name,
                "qk_bits": layer.qk_bits,
                "pv_bits": layer.pv_bits,
                "bits_reason": layer.bits_reason,
                "heads": [asdict(head) for head in layer.heads],
            }
            for layer in plan.layers
        ],
        "calibration": asdict(plan.calibration),
    }


def strict_json(subject: str, data: str | bytes) -> Any:
    """Parse JSON, refusing what parsers disagree on: duplicate keys, NaN, Infinity, bad UTF-8."""

    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        result: dict[str, Any] = {}
        for name, value in pairs:
            if name in result:
                raise PlanError(
                    subject, expected="unique keys", actual=f"key {checks.shown(name)} twice"
                )
            result[name] = value
        return result

    def constant(name: str) -> NoReturn:
        raise PlanError(subject, expected="finite numbers", actual=name)

    try:
        text = data.decode("utf-8") if isinstance(data, bytes) else data
        return json.loads(text, object_pairs_hook=once, parse_constant=constant)
    except PlanError:
        raise
    except RecursionError:
        raise PlanError(subject, expected="JSON", actual="JSON nested too deeply") from None
    except ValueError as error:  # bad UTF-8, bad JSON, an integer of thousands of digits
        raise PlanError(subject, expected="JSON", actual=_reason(error)) from None


def parse_document(text: str) -> PlanDocument:
    """Read the JSON of a plan.

    Raises:
        PlanError: it is not JSON, is of another version, or a field is missing, unknown or wrong.
    """
    raw = strict_json("document", text)
    _mapping("document", raw)
    _version(raw.pop("format_version", None))
    _keys("document", raw, PlanDocument)
    if not is_sha256(raw["content_hash"]):
        raise PlanError(
            "content_hash", expected="a SHA-256", actual=checks.shown(raw["content_hash"])
        )
    layers = checks.items("layers", raw["layers"])
    checks.integer("layers length", len(layers), 1, MAX_LAYERS)
    records = {
        "model": ModelIdentity,
        "grid": Grid,
        "text": TextLayout,
        "calibration": CalibrationRecord,
    }
    return PlanDocument(
        **{
            **raw,
            **{name: _record(name, raw[name], kind) for name, kind in records.items()},
            "layers": tuple(_layer(f"layers.{i}", layer) for i, layer in enumerate(layers)),
        }
    )


def _version(value: object) -> None:
    if isinstance(value, int) and not isinstance(value, bool) and value > FORMAT_VERSION:
        raise PlanError(
            "format_version",
            expected=f"{FORMAT_VERSION}, the newest this release reads",
            actual=checks.shown(value),
            remedy="upgrade paro-trt, or calibrate again with this release",
        )
    checks.integer("format_version", value, FORMAT_VERSION, FORMAT_VERSION)


def _layer(where: str, value: object) -> LayerDocument:
    raw = _keys(where, value, LayerDocument)
    with checks.within(where):
        heads = checks.items("heads", raw["heads"])
        checks.integer("heads length", len(heads), 1, MAX_HEADS)
        records = []
        for i, head in enumerate(heads):
            _keys(f"heads[{i}]", head, HeadRecord)
            with checks.within(f"heads[{i}]"):
                records.append(HeadRecord(**head))
        return LayerDocument(**{**raw, "heads": tuple(records)})


def _record(where: str, value: object, kind: type[_Record]) -> _Record:
    return kind(**_keys(where, value, kind))


def _mapping(where: str, value: object) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise PlanError(where, expected="a JSON object", actual=checks.shown(value))
    return value


def _keys(where: str, value: object, kind: type) -> dict[str, Any]:
    """The JSON object `value`, which must have exactly the fields of dataclass `kind`."""
    raw = _mapping(where, value)
    wanted = {field.name for field in fields(kind)}
    if missing := wanted - raw.keys():
        raise PlanError(where, expected=f"a field {min(missing)!r}", actual="none")
    if unknown := raw.keys() - wanted:
        raise PlanError(
            where, expected="only known fields", actual=f"field {checks.shown(min(unknown))}"
        )
    return raw


def _reason(error: ValueError) -> str:
    if isinstance(error, json.JSONDecodeError):
        return f"text that is not JSON at character {error.pos} ({error.msg})"
    return f"text that cannot be read ({type(error).__name__})"
