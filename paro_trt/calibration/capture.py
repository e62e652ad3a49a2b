"""Query, key and value of every attention site, from a recorded call of the dense model."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor

from ..families.base import AttentionSite, Geometry
from ..models.in_place import PaddedHandler, handled_attention
from ..models.load import LoadedModel
from .calls import RecordedCall
from .inputs import LayerInputs

Consumer: TypeAlias = Callable[[int, AttentionSite, Tensor, Tensor, Tensor, float], None]
"""(index of the site, site, query [S, H, D], key and value [S, Hk, D], scale); layer by layer,
nothing is kept beyond what the consumer keeps."""

Attend: TypeAlias = Callable[[int, LayerInputs], Tensor | None]
"""(index of the site, its inputs) -> attention [S, H, D] by token; None: dense."""


def capture_attention(
    loaded: LoadedModel,
    geometry: Geometry,
    call: RecordedCall,
    device: torch.device,
    consumer: Consumer,
) -> None:
    """Replay a call with dense attention and show `consumer` each site's attention inputs.

    Args:
        loaded: the model.
        geometry: of the call.
        call: of one sample.
        device: where the model computes.
        consumer: called once a site, in the order of execution.
    """

    def show(layer: int, inputs: LayerInputs) -> None:
        consumer(layer, inputs.site, inputs.query, inputs.key, inputs.value, inputs.scale)

    replay_attended(loaded, geometry, call, device, show)


def replay_attended(
    loaded: LoadedModel,
    geometry: Geometry,
    call: RecordedCall,
    device: torch.device,
    attend: Attend,
) -> Tensor:
    """The model's prediction on a recorded call where `attend` computes what it wants of the
    sites' attention; arguments as of `capture_attention`."""
    sites = loaded.family.sites(loaded.config)
    indices = {site.name: index for index, site in enumerate(sites)}

    def handle(
        padding: Tensor | None,
        site: AttentionSite,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        scale: float,
    ) -> Tensor:
        inputs = LayerInputs(site, query[0], key[0], value[0], scale, call.key_length)
        attended = attend(indices[site.name], inputs)
        if attended is None:
            return dense_attention(query, key, value, scale, padding)
        return attended.to(query.dtype)[None]

    return replay(loaded, geometry, call, device, handle)


@torch.no_grad()
def replay(
    loaded: LoadedModel,
    geometry: Geometry,
    call: RecordedCall,
    device: torch.device,
    handle: PaddedHandler,
) -> Tensor:
    """The model's prediction on a recorded call, the sites' attention computed by `handle`; of
    several outputs the first, the latents'."""
    with handled_attention(loaded.model, loaded.family, geometry, handle):
        prediction: Tensor = loaded.model(**call.to(device))[0]
    return prediction


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
