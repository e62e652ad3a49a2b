"""The small records of a plan: no arrays, checked when made, spelled in JSON field by field."""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import Enum

from ..errors import PlanError
from . import checks
from .limits import MAX_BINS, MAX_TOKENS

# Masses are sums of FP32 probabilities and may pass 1 by their rounding.
_MASS_SLACK = 1e-3


class TextPosition(str, Enum):
    """Where a model puts its text tokens in the joint sequence."""

    FIRST = "first"
    LAST = "last"
    NONE = "none"


@dataclass(frozen=True)
class Grid:
    """Visual tokens (not pixels) of a sample along time, height and width."""

    frames: int
    height: int
    width: int

    def __post_init__(self) -> None:
        for name in ("frames", "height", "width"):
            value = checks.integer(f"grid.{name}", getattr(self, name), 1, MAX_TOKENS)
            object.__setattr__(self, name, value)
        if self.tokens > MAX_TOKENS:
            raise PlanError(
                "grid", expected=f"at most {MAX_TOKENS} tokens", actual=f"{self.tokens}"
            )

    @property
    def tokens(self) -> int:
        """frames * height * width."""
        return self.frames * self.height * self.width


@dataclass(frozen=True)
class TextLayout:
    """Text tokens in the joint sequence.

    Args:
        count: text tokens; 0 where text does not join the sequence.
        position: their place; NONE exactly when `count` is 0.
        padded: prompts fill only part of `count`. Such text must be LAST: the op's `key_length`
            can leave out only the end of a sequence.
    """

    count: int = 0
    position: TextPosition = TextPosition.NONE
    padded: bool = False

    def __post_init__(self) -> None:
        count = checks.integer("text.count", self.count, 0, MAX_TOKENS)
        padded = checks.flag("text.padded", self.padded)
        try:
            position = TextPosition(self.position)
        except ValueError:
            raise PlanError(
                "text.position",
                expected="first, last or none",
                actual=checks.shown(self.position),
            ) from None
        if (position is TextPosition.NONE) != (count == 0):
            raise PlanError(
                "text.position",
                expected="none" if count == 0 else f"first or last, as there are {count} tokens",
                actual=position.value,
            )
        if padded and position is not TextPosition.LAST:
            raise PlanError(
                "text.padded",
                expected=f"false where the text's position is {position.value}",
                actual="true",
                remedy="put padded text last: key_length can cut only the sequence's end",
            )
        object.__setattr__(self, "count", count)
        object.__setattr__(self, "position", position)
        object.__setattr__(self, "padded", padded)


@dataclass(frozen=True)
class ModelIdentity:
    """The model a plan was made for; see `paro_trt.plan.identity.model_identity`.

    Args:
        class_name: the diffusers class.
        config_hash: SHA-256, lower-case hex, of its canonical configuration.
    """

    class_name: str
    config_hash: str

    def __post_init__(self) -> None:
        checks.label("model.class_name", self.class_name)
        if not isinstance(self.config_hash, str) or not is_sha256(self.config_hash):
            raise PlanError(
                "model.config_hash",
                expected="64 lower-case hexadecimal digits",
                actual=checks.shown(self.config_hash),
            )


def is_sha256(value: object) -> bool:
    """Whether `value` is a SHA-256 in lower-case hex."""
    return isinstance(value, str) and re.fullmatch("[0-9a-f]{64}", value) is not None


@dataclass(frozen=True)
class HeadRecord:
    """What was chosen and predicted for one head. Each tuple has one figure for each bin.

    Args:
        order: name of the head's token order.
        density: attended blocks / all blocks, in [0, 1]; agrees with the mask.
        mass: attention over attended blocks / over all, in [0, 1].
        predicted_error: relative L2 error of the head's output, >= 0.
    """

    order: str
    density: tuple[float, ...]
    mass: tuple[float, ...]
    predicted_error: tuple[float, ...]

    def __post_init__(self) -> None:
        checks.label("order", self.order)
        ranges = {"density": 1.0, "mass": 1.0 + _MASS_SLACK, "predicted_error": float("inf")}
        for name, high in ranges.items():
            values = checks.items(name, getattr(self, name))
            if not 0 < len(values) <= MAX_BINS or len(values) != len(self.density):
                raise PlanError(name, expected="one figure for each bin", actual=f"{len(values)}")
            floats = tuple(
                checks.number(f"{name}[{i}]", v, 0.0, high) for i, v in enumerate(values)
            )
            object.__setattr__(self, name, floats)


@dataclass(frozen=True)
class CalibrationRecord:
    """How a plan came about.

    Args:
        prompts: the texts calibrated on.
        steps: denoising steps of the run, >= 1.
        captured_steps: which of them were captured, each in [0, steps).
        order_metric: what chose the orders.
        mask_metric: what chose the blocks.
        density: asked for, in [0, 1].
        seed: of the run's noise, in [0, 2**64).
        tool_version: version of this package.
        notes: free lines, such as warnings given at the time.
        measured: free finite figures, such as a held-out error.
    """

    prompts: tuple[str, ...]
    steps: int
    captured_steps: tuple[int, ...]
    order_metric: str
    mask_metric: str
    density: float
    seed: int
    tool_version: str
    notes: tuple[str, ...]
    measured: dict[str, float]

    def __post_init__(self) -> None:
        at = "calibration"
        steps = checks.integer(f"{at}.steps", self.steps, 1, 1 << 20)
        captured = checks.items(f"{at}.captured_steps", self.captured_steps)
        measured = self.measured
        if not isinstance(measured, dict):
            raise PlanError(f"{at}.measured", expected="a mapping", actual=checks.shown(measured))
        plain = {
            "steps": steps,
            "captured_steps": tuple(
                checks.integer(f"{at}.captured_steps", step, 0, steps - 1) for step in captured
            ),
            "density": checks.number(f"{at}.density", self.density, 0.0, 1.0),
            "seed": checks.integer(f"{at}.seed", self.seed, 0, (1 << 64) - 1),
            "measured": {
                checks.label(f"{at}.measured", key): checks.number(f"{at}.measured[{key!r}]", value)
                for key, value in measured.items()
            },
        }
        for name in ("order_metric", "mask_metric", "tool_version"):
            plain[name] = checks.label(f"{at}.{name}", getattr(self, name))
        for name in ("prompts", "notes"):
            lines = checks.items(f"{at}.{name}", getattr(self, name))
            plain[name] = tuple(checks.text(f"{at}.{name}", line) for line in lines)
        for name, value in plain.items():
            object.__setattr__(self, name, value)
