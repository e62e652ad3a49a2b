"""Models of two transformers that share a schedule: one for the noisy part, one for the rest."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..errors import ArgumentError, ModelError
from ..families.base import TIMESTEPS
from ..plan import ModelIdentity, model_identity
from ..plan.document import model_identity_of_all_keys
from .contents import read_json_object
from .denoise import Velocity

PIPELINE_INDEX = "model_index.json"
BOUNDARY_KEY = "boundary_ratio"


class ExpertRole(str, Enum):
    """Which part of the schedule an expert serves; the value is its directory's name."""

    HIGH_NOISE = "transformer"
    LOW_NOISE = "transformer_2"


@dataclass(frozen=True)
class Expert:
    """One of two experts.

    Args:
        role: which.
        boundary: timestep at and above which the high-noise expert serves.
    """

    role: ExpertRole
    boundary: float

    def serves(self, timestep: float) -> bool:
        """Whether a timestep is this expert's."""
        return (timestep >= self.boundary) is (self.role is ExpertRole.HIGH_NOISE)

    @property
    def span(self) -> tuple[float, float]:
        """The timesteps it serves: from the first, the noisier, down to the second."""
        if self.role is ExpertRole.HIGH_NOISE:
            return float(TIMESTEPS), self.boundary
        return self.boundary, 0.0

    def identity(self, class_name: str, config: Mapping[str, Any]) -> ModelIdentity:
        """What plans and files record: experts of one configuration differ by their role."""
        return model_identity(class_name, config, self.role.value)


def is_of_model(
    recorded: ModelIdentity, identity: ModelIdentity, config: Mapping[str, Any]
) -> bool:
    """Whether what a plan or file records is this model, in the present form or the first one.

    Args:
        recorded: what the plan or the file has.
        identity: of the model, or of the expert that it is.
        config: the model's.
    """
    name = identity.class_name
    return recorded == identity or any(
        recorded == model_identity_of_all_keys(name, config, role)
        for role in (None, *(entry.value for entry in ExpertRole))
        if identity == model_identity(name, config, role)
    )


def described_identity(identity: ModelIdentity, config: Mapping[str, Any]) -> str:
    """An identity for messages; says of which expert it is where `config` is of its model."""
    text = f"{identity.class_name} {identity.config_hash[:12]}"
    for role in ExpertRole:
        own = model_identity(identity.class_name, config, role.value)
        if is_of_model(identity, own, config):
            return f"{text}, the expert {role.value}"
    return text


def transformers_of(given: object) -> dict[str, torch.nn.Module]:
    """The transformers of a diffusers pipeline by attribute; a module counts as `transformer`.

    Empty if `given` is neither a module nor a pipeline with a transformer.
    """
    if isinstance(given, torch.nn.Module):
        return {ExpertRole.HIGH_NOISE.value: given}
    found = {role.value: getattr(given, role.value, None) for role in ExpertRole}
    return {role: model for role, model in found.items() if isinstance(model, torch.nn.Module)}


def expert_at(directory: Path) -> Expert | None:
    """The expert that a transformer directory of a pipeline holds; None if it is alone.

    A pipeline of two experts has `boundary_ratio` in its model_index.json, next to the directories
    `transformer` and `transformer_2`. Links are followed only where the path as given names no
    pipeline: in a cache of links the role is in the link's name.

    Raises:
        ModelError: the ratio is no number in [0, 1], or leaves a part of the schedule to an expert
            that the pipeline does not have.
    """
    named = _in_pipeline(directory)
    if named is None:
        return None
    index = named.parent / PIPELINE_INDEX
    content, role = read_json_object(index), ExpertRole(named.name)
    ratio = content.get(BOUNDARY_KEY)
    if ratio is None:
        return None
    if isinstance(ratio, bool) or not isinstance(ratio, (int, float)) or not 0 <= ratio <= 1:
        raise ModelError(
            f"{index}: {BOUNDARY_KEY}", expected="a number in [0, 1]", actual=repr(ratio)[:80]
        )
    other = next(entry for entry in ExpertRole if entry is not role)
    # What diffusers writes for a part that a pipeline does not have.
    if content.get(other.value, ...) in (None, [None, None]):
        check_serves_alone(role, float(ratio), str(index))
        return None
    return Expert(role, float(ratio) * TIMESTEPS)


def check_serves_alone(role: ExpertRole, ratio: float, place: str) -> None:
    """Raise ModelError where the only one of two transformers does not serve the whole schedule.

    Args:
        role: of the transformer that is there.
        ratio: the pipeline's boundary_ratio.
        place: what says so, for the message.
    """
    whole = 0.0 if role is ExpertRole.HIGH_NOISE else 1.0
    if ratio != whole:
        raise ModelError(
            f"{place}: {BOUNDARY_KEY}",
            expected=f"{whole:g} in a pipeline of {role.value} alone",
            actual=f"{ratio:g}",
            remedy="load the pipeline with both of its transformers",
        )


def in_pipeline(path: Path, role: str) -> Path:
    """The directory of one of a pipeline's two transformers.

    Args:
        path: of the pipeline, or of one of its transformers.
        role: "transformer" or "transformer_2".

    Raises:
        ArgumentError: there is no such transformer.
    """
    named = _in_pipeline(path)
    directory = (path if named is None else named.parent) / role
    if role not in {entry.value for entry in ExpertRole} or not directory.is_dir():
        raise ArgumentError(
            "transformer (--transformer)",
            expected=f"transformer or transformer_2, a directory in {directory.parent}",
            actual=repr(role)[:80],
        )
    return directory


def pipeline_class(directory: Path) -> str | None:
    """What model_index.json says of the pipeline that a transformer's directory is in."""
    named = _in_pipeline(directory)
    if named is None:
        return None
    return str(read_json_object(named.parent / PIPELINE_INDEX).get("_class_name"))


def partner_directory(directory: Path, role: ExpertRole) -> Path:
    """Where the other expert is, of the pipeline in which `directory` has the role `role`."""
    other = next(entry for entry in ExpertRole if entry is not role)
    return (_in_pipeline(directory) or directory).parent / other.value


def _in_pipeline(directory: Path) -> Path | None:
    """The directory by the name that its pipeline has for it; None outside a pipeline."""
    roles = {role.value for role in ExpertRole}
    for path in (Path(os.path.abspath(directory)), directory.resolve()):
        if path.name in roles and (path.parent / PIPELINE_INDEX).is_file():
            return path
    return None


def joint_velocity(own: Velocity, expert: Expert, other: Velocity) -> Velocity:
    """Each timestep by the expert that serves it; a batch must not cross the boundary."""

    def velocity(latents: Tensor, timestep: Tensor, conditioning: Mapping[str, Tensor]) -> Tensor:
        served = torch.tensor([expert.serves(float(value)) for value in timestep])
        if bool(served.any()) is not bool(served.all()):
            raise ModelError(
                "timesteps of a batch",
                expected=f"all on one side of the experts' boundary {expert.boundary:g}",
                actual=str(timestep.tolist()),
            )
        return (own if bool(served.all()) else other)(latents, timestep, conditioning)

    return velocity
