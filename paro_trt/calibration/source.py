"""Where a calibration's recorded calls come from: an interface, and the recording itself."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Sequence
from typing import Any, TypeAlias

import torch

from ..families.base import Geometry
from ..models.load import LoadedModel
from .calls import RecordedCall

OnStep: TypeAlias = Callable[[int], None]
"""Called with the number of steps that a dense run has finished."""


class CallSource(ABC):
    """Runs the dense model over its schedule, one prompt at a time.

    Args:
        loaded: the transformer that is planned.
        models: every transformer that a run calls.
        texts: of the prompts, for people.
        geometry: tokens of a sample, the same for every prompt.
        steps: denoising steps of a run.
        timesteps: of each step, in 0..1000, noisiest first.
        served: the steps that the transformer serves: all, or an expert's.
        forwards: calls of any transformer in each step: two where guidance calls it twice.
        guided: of each step, whether the negative prompt's call is recorded as well.
        device: where the transformer computes.
    """

    loaded: LoadedModel
    models: Sequence[torch.nn.Module]
    texts: tuple[str, ...]
    geometry: Geometry
    steps: int
    timesteps: tuple[float, ...]
    served: range
    forwards: tuple[int, ...]
    guided: tuple[bool, ...]
    device: torch.device

    @abstractmethod
    def record(
        self, prompt: int, seed: int, wanted: Collection[int], on_step: OnStep
    ) -> dict[int, RecordedCall]:
        """Run one prompt up to its call in the last wanted step.

        Args:
            prompt: index into `texts`.
            seed: of the run's noise.
            wanted: steps whose calls to record; of `served`.
            on_step: told of finished steps; an exception of it ends the run.

        Returns:
            The call for the prompt in each wanted step; in all but the last, where guidance makes
            two calls, with that of the negative prompt.

        Raises:
            ModelError: the calls do not fit the geometry, or hold NaN or infinity.
        """

    @abstractmethod
    def notes(self) -> tuple[str, ...]:
        """For people: what decides the schedule, and what is not as asked. Kept in the plan."""

    @abstractmethod
    def fingerprint(self) -> dict[str, Any]:
        """JSON-ready facts that decide what is recorded, besides the model and the seed."""


class AllRecordedError(Exception):
    """Ends a denoising run whose remaining steps are not needed."""
