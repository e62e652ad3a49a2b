"""How a transformer alone is sampled: by the scheduler that its pipeline's directory names."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import ArgumentError
from ..families.base import TIMESTEPS, ModelFamily, Sampling
from ..families.presets import PRESETS
from .contents import read_json_object
from .denoise import Guidance, family_scheduler

DEFAULT_STEPS = 20

_CONFIG = Path("scheduler", "scheduler_config.json")
_SHIFT_KEYS = {
    "FlowMatchEulerDiscreteScheduler": "shift",
    "UniPCMultistepScheduler": "flow_shift",
    "DPMSolverMultistepScheduler": "flow_shift",
    "CogVideoXDDIMScheduler": None,
}
"""Schedulers whose steps need nothing but the prediction -> the key of their shift."""

_SAME_NOISE = {
    "CogVideoXDPMScheduler": "CogVideoXDDIMScheduler",
    "FlowMatchLCMScheduler": "FlowMatchEulerDiscreteScheduler",
    "FlowMatchHeunDiscreteScheduler": "FlowMatchEulerDiscreteScheduler",
}
"""Schedulers of other steps at the same noise levels."""

_DECIDING = (
    "prediction_type", "shift", "flow_shift", "use_dynamic_shifting", "shift_terminal",
    "snr_shift_scale", "rescale_betas_zero_snr", "timestep_spacing",
)  # fmt: skip
_SWITCHES = ("use_karras_sigmas", "use_exponential_sigmas", "use_beta_sigmas", "invert_sigmas")


@dataclass(frozen=True)
class Schedule:
    """How embeddings are sampled. None is the model's own: of its pipeline's scheduler_config.json,
    else of its family.

    Args:
        steps: denoising steps; None: 20, or the number of `timesteps`.
        shift: of a flow's noise levels, as in FlowMatchEulerDiscreteScheduler.
        guidance_scale: 1 evaluates no negative prompt.
        guidance_scale_2: of the second of two transformers; None: as the first.
        timesteps: of each step as the transformer is given them, in (0, 1000], noisiest first: of
            step-distilled models.

    Raises:
        ArgumentError: a value is out of range, or timesteps do not go with steps or shift.
    """

    steps: int | None = None
    shift: float | None = None
    guidance_scale: float = 1.0
    guidance_scale_2: float | None = None
    timesteps: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        if self.steps is not None and self.steps < 1:
            raise ArgumentError("steps", expected="at least 1", actual=str(self.steps))
        if self.shift is not None and not (self.shift > 0 and math.isfinite(self.shift)):
            raise ArgumentError("shift", expected="a positive number", actual=str(self.shift))
        if self.timesteps:
            self._check_timesteps()

    @property
    def count(self) -> int:
        """Steps of a run."""
        return len(self.timesteps) or self.steps or DEFAULT_STEPS

    def guidance(self, boundary: float | None) -> Guidance:
        """The guidance scale at each timestep.

        Args:
            boundary: timestep below which the second of two transformers serves; None: there is no
                second.

        Raises:
            ArgumentError: a scale for a second transformer where there is none.
        """
        first, second = self.guidance_scale, self.guidance_scale_2
        if second is None:
            return lambda _timestep: first
        if boundary is None:
            raise ArgumentError(
                "guidance_scale_2",
                expected="none: the model has one transformer",
                actual=str(second),
            )
        return lambda timestep: first if timestep >= boundary else second

    def _check_timesteps(self) -> None:
        given = list(self.timesteps)
        falls = all(later < earlier for earlier, later in pairwise(given))
        if not falls or not 0 < given[-1] <= given[0] <= TIMESTEPS:
            raise ArgumentError(
                "timesteps",
                expected=f"falling numbers in (0, {TIMESTEPS}], {TIMESTEPS} being pure noise",
                actual=", ".join(f"{value:g}" for value in given)[:80],
            )
        if self.shift is not None or self.steps not in (None, len(given)):
            raise ArgumentError(
                "timesteps",
                expected="no steps and no shift, which they replace",
                actual=f"steps {self.steps}, shift {self.shift}",
            )


@dataclass(frozen=True)
class Sampler:
    """A scheduler and how its timesteps are set.

    Args:
        class_name: of diffusers.
        config: its arguments.
        set_timesteps: arguments of its `set_timesteps`.
        notes: for people: what decided, and what differs from the pipeline's own.
    """

    class_name: str
    config: Mapping[str, Any]
    set_timesteps: Mapping[str, Any]
    notes: tuple[str, ...]

    def scheduler(self) -> Any:
        """A new one, ready for a run: schedulers keep what they did."""
        import diffusers

        scheduler = getattr(diffusers, self.class_name).from_config(dict(self.config))
        scheduler.set_timesteps(**self.set_timesteps)
        return scheduler

    def timesteps(self) -> tuple[float, ...]:
        """Of each step, noisiest first."""
        return tuple(float(timestep) for timestep in self.scheduler().timesteps)

    def described(self) -> dict[str, Any]:
        """JSON-ready: what decides the steps."""
        given = json.loads(json.dumps(dict(self.set_timesteps), default=list))
        return {"class": self.class_name, "config": dict(self.config), "timesteps": given}


def scheduler_config(transformer: Path) -> dict[str, Any] | None:
    """The scheduler_config.json of the pipeline that a transformer's directory is in; None outside.

    Raises:
        ModelError: the file is no JSON object.
    """
    path = transformer.parent / _CONFIG
    if not path.is_file():
        path = transformer.resolve().parent / _CONFIG
    return read_json_object(path) if path.is_file() else None


def sampler_for(
    family: ModelFamily, schedule: Schedule, config: Mapping[str, Any] | None, tokens: int
) -> Sampler:
    """What samples a family's model.

    Args:
        family: the model's.
        schedule: what the caller asks for.
        config: of the pipeline's scheduler; None where there is none.
        tokens: of the grid, for a shift that grows with them.

    Raises:
        ArgumentError: timesteps for a family whose steps depend on the ones before.
    """
    if schedule.timesteps:
        return _of_timesteps(family, schedule)
    class_name = str((config or {}).get("_class_name"))
    served = _SAME_NOISE.get(class_name, class_name)
    reason = "" if config is None else _unused(served, config, family)
    if config is None or reason:
        shift = schedule.shift or PRESETS[family.name].shift
        scheduler = family_scheduler(shift, family.sampling)
        spoken = f", shift {shift:g}" if family.sampling is Sampling.FLOW else ""
        without = f"; the pipeline's {class_name} is not used: {reason}" if reason else ""
        note = f"sampled as the family {family.name} is by default{spoken}{without}"
        own = public_config(scheduler.config)
        return Sampler(type(scheduler).__name__, own, {"num_inference_steps": schedule.count},
                       (note,))  # fmt: skip
    return _of_config(schedule, config, served, tokens)


def describe_scheduler(class_name: str, config: Mapping[str, Any]) -> str:
    """In one line, with the keys that decide which noise levels a run visits."""
    known = {key: config[key] for key in _DECIDING if config.get(key) not in (None, False)}
    return f"{class_name} ({', '.join(f'{key} {value}' for key, value in known.items())})"


def public_config(config: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments of a config; diffusers' own notes among them are in another order in every
    process."""
    return {key: value for key, value in config.items() if not key.startswith("_")}


def _of_timesteps(family: ModelFamily, schedule: Schedule) -> Sampler:
    if family.sampling is not Sampling.FLOW:
        raise ArgumentError(
            "timesteps",
            expected=f"none: steps of {family.name} are spaced by its scheduler",
            actual=f"{len(schedule.timesteps)}",
            remedy="calibrate the pipeline itself, with a scheduler that takes them",
        )
    sigmas = [timestep / TIMESTEPS for timestep in schedule.timesteps]
    note = f"sampled at given timesteps {', '.join(f'{t:g}' for t in schedule.timesteps)}"
    config = {"num_train_timesteps": TIMESTEPS, "shift": 1.0}
    return Sampler("FlowMatchEulerDiscreteScheduler", config, {"sigmas": sigmas}, (note,))


def _of_config(schedule: Schedule, config: Mapping[str, Any], served: str, tokens: int) -> Sampler:
    own = public_config(config)
    own.pop("stochastic_sampling", None)
    class_name = str(config["_class_name"])
    notes = [f"sampled by the pipeline's {describe_scheduler(class_name, config)}"]
    if served != class_name:
        notes.append(f"steps are those of {served}, at the same noise levels")
    key = _SHIFT_KEYS[served]
    if schedule.shift is not None and key is not None:
        dynamic = bool(own.get("use_dynamic_shifting"))
        before = "one that depends on the size" if dynamic else f"{own.get(key, 1.0):g}"
        if dynamic or own.get(key, 1.0) != schedule.shift:
            notes.append(f"shift {schedule.shift:g} was asked for; the pipeline's is {before}")
        own |= {key: schedule.shift, "use_dynamic_shifting": False}
    settings: dict[str, Any] = {"num_inference_steps": schedule.count}
    if own.get("use_dynamic_shifting"):
        # As the pipelines of these families do.
        sigmas = np.linspace(1.0, 1 / schedule.count, schedule.count).tolist()
        settings = {"sigmas": sigmas, "mu": _dynamic_shift(own, tokens)}
    return Sampler(served, own, settings, tuple(notes))


def _unused(served: str, config: Mapping[str, Any], family: ModelFamily) -> str:
    """Why a pipeline's scheduler cannot sample its transformer alone; empty where it can."""
    if served not in _SHIFT_KEYS:
        return "its steps need more than the transformer's prediction"
    of_flow = _SHIFT_KEYS[served] is not None
    if of_flow is not (family.sampling is Sampling.FLOW):
        return f"it is not made for {family.sampling.value}"
    if switches := _on(config, _SWITCHES):
        return f"the pipeline's own code sets its noise levels ({switches})"
    if config.get("use_dynamic_shifting") and not family.shift_grows_with_tokens:
        return "the pipeline's own code computes its shift"
    return ""


def _on(config: Mapping[str, Any], keys: Sequence[str]) -> str:
    return ", ".join(key for key in keys if config.get(key))


def _dynamic_shift(config: Mapping[str, Any], tokens: int) -> float:
    """mu of `set_timesteps`: a line through two numbers of tokens, as diffusers' pipelines draw."""
    fewest, most = config.get("base_image_seq_len", 256), config.get("max_image_seq_len", 4096)
    low, high = config.get("base_shift", 0.5), config.get("max_shift", 1.15)
    slope = (high - low) / (most - fewest)
    return float(low + slope * (tokens - fewest))
