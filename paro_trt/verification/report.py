"""What a verification found, for people and for programs."""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass
from typing import Any

from .metrics import OutputErrors
from .videos import VideoQuality


@dataclass(frozen=True)
class VelocityCheck:
    """One evaluation of the exported model.

    Args:
        timesteps: of each sample of the batch.
        bins: the mask bin of each sample.
        dense: distances from the model with dense attention.
        eager: distances from the plan applied in PyTorch; None where no plan was given.
    """

    timesteps: tuple[float, ...]
    bins: tuple[int, ...]
    dense: OutputErrors
    eager: OutputErrors | None


@dataclass(frozen=True)
class SampleCheck:
    """One prompt sampled from the same noise by the dense and by the exported model.

    Args:
        prompt: its text.
        psnr: dB; infinite where both are equal.
        ssim: structural similarity; None where frames are smaller than its window.
        errors: distances between the two.
    """

    prompt: str
    psnr: float
    ssim: float | None
    errors: OutputErrors


@dataclass(frozen=True)
class PictureCheck:
    """One prompt through the whole pipeline, decoded, by the exported and by the dense model.

    Args:
        prompt: its text.
        quality: of the exported model's video or image against the dense one's.
    """

    prompt: str
    quality: VideoQuality


@dataclass(frozen=True)
class VerifyReport:
    """Outcome of a verification; empty `failures` means that every check passed.

    Args:
        file: what was verified.
        model_class: diffusers class of the model.
        plan_hash: of the plan in the file; None for a dense export.
        min_cosine: cosine with the dense model that every velocity had to reach; None where none
            was compared.
        eager_bound: relative L2 from the plan in PyTorch that rounding can explain; None where no
            plan was given.
        velocities: single evaluations over the schedule; empty where only pictures were compared.
        samples: whole sampling runs, of latents.
        pictures: what a whole pipeline made; empty where there was none.
        failures: one line each.
    """

    file: str
    model_class: str
    plan_hash: str | None
    min_cosine: float | None = None
    eager_bound: float | None = None
    velocities: tuple[VelocityCheck, ...] = ()
    samples: tuple[SampleCheck, ...] = ()
    pictures: tuple[PictureCheck, ...] = ()
    failures: tuple[str, ...] = ()

    @property
    def ok(self) -> bool:
        """Whether every check passed."""
        return not self.failures

    @property
    def lowest_cosine(self) -> float | None:
        """Lowest cosine of a velocity with the dense model's; NaN if any is, None without any."""
        cosines = [check.dense.cosine for check in self.velocities]
        return math.nan if any(map(math.isnan, cosines)) else min(cosines, default=None)

    @property
    def remedy(self) -> str | None:
        """What to do where velocities of a plan's file are too far from the dense model's.

        None where they are not, and where the file also differs from its plan in PyTorch: another
        plan does not help there.
        """
        cosine = self.lowest_cosine
        if self.plan_hash is None or self.min_cosine is None or cosine is None:
            return None
        if not cosine < self.min_cosine:
            return None
        if self.eager_bound is None:
            return "compare with the plan too (--plan), which tells its error from the file's"
        if any(c.eager is None or c.eager.relative_l2 > self.eager_bound for c in self.velocities):
            return None
        return (
            "the file computes what the plan does in PyTorch, so this is the plan's own error: "
            "calibrate with more prompts and steps, a higher density or cost, or 8 bits; or accept "
            f"it with --min-cosine {math.floor(cosine * 1000) / 1000:g}"
        )

    def to_json(self) -> str:
        """All fields, `ok` and `lowest_cosine`; NaN and infinity as strings: JSON has none."""
        fields = {"ok": self.ok, "lowest_cosine": self.lowest_cosine, **asdict(self)}
        return json.dumps(plain_json(fields), indent=2, allow_nan=False)


def plain_json(value: Any) -> Any:
    """`value` with tuples as lists, and NaN and infinity as strings, which JSON does not have."""
    if isinstance(value, dict):
        return {key: plain_json(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain_json(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return value
