"""Videos of the included pipeline with the attention of every layer computed by a function."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from paro_trt.calibration.capture import dense_attention
from paro_trt.calibration.pipeline_source import PipelineSource
from paro_trt.families.base import AttentionSite
from paro_trt.models.in_place import handled_attention
from paro_trt.models.live import open_model
from samples.tiny_wan.scenes import HELDOUT_SCENES

from .included import call_arguments, half_of
from .sources import LayerCall

STEPS = 8
"""Of a video; captures are of longer runs."""


def rendered(
    pipe: Any,
    video: int,
    seed: int,
    steps: int = STEPS,
    attend: Callable[[LayerCall], Tensor] | None = None,
) -> Tensor:
    """One video, [1, 3, F, H, W] in [0, 1].

    Args:
        pipe: the included pipeline.
        video: index; the held-out prompts come in turn.
        seed: of the noise.
        steps: of the schedule.
        attend: output [S, H, D] of a layer's call; None: dense attention.
    """
    with _attention_by(pipe, steps, attend) as next_step:
        frames = pipe(
            HELDOUT_SCENES[video % len(HELDOUT_SCENES)].prompt,
            generator=torch.Generator().manual_seed(seed),
            output_type="pt",
            callback_on_step_end=next_step,
            **call_arguments(steps),
        ).frames
    return torch.as_tensor(frames).float().transpose(1, 2)


@contextmanager
def _attention_by(
    pipe: Any, steps: int, attend: Callable[[LayerCall], Tensor] | None
) -> Iterator[Callable[..., dict[str, Any]]]:
    """The pipeline's attention by `attend`; gives what to call at the end of each step."""
    loaded = open_model(pipe)
    sites = loaded.family.sites(loaded.config)
    layers = {site.name: index for index, site in enumerate(sites)}
    geometry = PipelineSource(pipe, loaded, ["a"], call_arguments(steps)).geometry
    step = 0

    def next_step(_pipe: Any, _step: int, _timestep: Any, values: dict[str, Any]) -> dict[str, Any]:
        nonlocal step
        step += 1
        return values

    def handle(
        _: Tensor | None, site: AttentionSite, query: Tensor, key: Tensor, value: Tensor,
        scale: float,
    ) -> Tensor:  # fmt: skip
        if attend is None:
            return dense_attention(query, key, value, scale)
        outputs = [
            attend(LayerCall(layers[site.name], half_of(step, steps), 0, *inputs, scale))
            for inputs in zip(query, key, value, strict=True)
        ]
        return torch.stack(outputs)

    with handled_attention(loaded.model, loaded.family, geometry, handle):
        yield next_step
