"""Query, key and value of every attention site in captures of a real denoising run."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from contextlib import suppress
from typing import TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor

from ..families.base import AttentionSite, Geometry, ModelFamily
from ..models.denoise import Velocity, denoise, seeded_noise
from ..models.intercept import intercept_attention
from ..models.load import LoadedModel
from .settings import CalibrationSettings

Consumer: TypeAlias = Callable[[int, AttentionSite, Tensor, Tensor, Tensor, float], None]
"""(index of the site, site, query [S, H, D], key and value [S, Hk, D], scale); layer by layer,
nothing is kept beyond what the consumer keeps."""


def record_trajectory(
    loaded: LoadedModel,
    geometry: Geometry,
    conditioning: Mapping[str, Tensor],
    negative: Mapping[str, Tensor] | None,
    settings: CalibrationSettings,
    seed: int,
    wanted: Collection[int],
    velocity: Velocity,
) -> dict[int, Tensor]:
    """Latents f32 [1, ...] on the CPU that enter each wanted step of a dense run.

    Args:
        loaded: the model.
        geometry: of the latents.
        conditioning: of one prompt, batch 1.
        negative: of the negative prompt; needed where the settings ask for guidance.
        settings: steps, shift and guidance of the run.
        seed: of its noise.
        wanted: steps to record; the run ends with the last.
        velocity: computes the steps: the model, or all of a model's experts.
    """
    device = next(loaded.model.parameters()).device
    shape = loaded.family.latent_shape(loaded.config, geometry)
    noise = seeded_noise((1, *shape), seed).to(device)
    recorded = {0: noise.cpu()} if 0 in wanted else {}

    def record(step: int, _timestep: float, latents: Tensor) -> None:
        if step + 1 in wanted:
            recorded[step + 1] = latents.detach().float().cpu()
        if step + 1 >= max(wanted):
            raise _AllRecordedError

    with suppress(_AllRecordedError):
        denoise(
            velocity,
            noise,
            conditioning,
            steps=settings.steps,
            shift=settings.shift,
            guidance_scale=settings.guidance_scale,
            negative=negative,
            on_step=record,
            sampling=loaded.family.sampling,
        )
    return recorded


class _AllRecordedError(Exception):
    """Ends a denoising run whose remaining steps are not needed."""


def capture_attention(
    loaded: LoadedModel,
    geometry: Geometry,
    latents: Tensor,
    timestep: float,
    conditioning: Mapping[str, Tensor],
    consumer: Consumer,
) -> Tensor:
    """One dense forward that shows `consumer` each site's attention inputs; its velocity.

    Args:
        loaded: the model.
        geometry: of the latents.
        latents: f32 [1, ...].
        timestep: in 0..1000.
        conditioning: of one prompt, batch 1, complete.
        consumer: called once a site, in the order of execution.
    """
    device = next(loaded.model.parameters()).device
    family = loaded.family
    sites = family.sites(loaded.config)
    padding = existing_tokens(family, geometry, conditioning)
    indices = {site.name: index for index, site in enumerate(sites)}

    def handle(
        site: AttentionSite, query: Tensor, key: Tensor, value: Tensor, scale: float
    ) -> Tensor:
        consumer(indices[site.name], site, query[0], key[0], value[0], scale)
        return dense_attention(query, key, value, scale, padding)

    with (
        torch.no_grad(),
        family.adapted(loaded.model, geometry),
        intercept_attention(loaded.model, sites, handle, padding),
    ):
        return loaded.velocity(geometry)(
            latents.to(device), torch.tensor([timestep], device=device), conditioning
        )


def existing_tokens(
    family: ModelFamily, geometry: Geometry, conditioning: Mapping[str, Tensor]
) -> Tensor | None:
    """int64 [B]: tokens of each sample that exist; None where text is never padded."""
    if not geometry.text.padded:
        return None
    return family.text_length(conditioning).long() + geometry.grid.tokens


def dense_attention(
    query: Tensor, key: Tensor, value: Tensor, scale: float, key_length: Tensor | None = None
) -> Tensor:
    """Plain attention; [B, S, H, D] x [B, S, Hk, D] -> [B, S, H, D]; keys from `key_length` int
    [B] on do not exist."""
    mask = None
    if key_length is not None:
        tokens = torch.arange(key.shape[1], device=key.device)
        mask = (tokens < key_length[:, None].to(key.device))[:, None, None]
    query, key, value = (tensor.transpose(1, 2) for tensor in (query, key, value))
    grouped = query.shape[1] != key.shape[1]
    output = F.scaled_dot_product_attention(
        query, key, value, attn_mask=mask, scale=scale, enable_gqa=grouped
    )
    return output.transpose(1, 2)
