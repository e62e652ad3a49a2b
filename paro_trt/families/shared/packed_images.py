"""What models of packed images share: 2 x 2 latent pixels a token, reference images behind.

A sequence of such a model is the output image's tokens, then those of each reference image. With
references of the output's size the images are the frames of a grid.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor

from ...errors import ModelError
from ...plan import Grid
from ..base import ConditioningInput, Config, Shape, patched_grid

REFERENCES = "image_latents"
"""Input [B, references * tokens of an image, channels]: what edit pipelines append."""

_PACKING = (1, 2, 2)


def packed_grid(latent_size: tuple[int, int, int], largest: int = 1 << 16) -> Grid:
    """Frames are the output and its references; ModelError where latents do not pack.

    Args:
        latent_size: (images, height, width).
        largest: tokens along an axis at most.
    """
    return patched_grid(latent_size, _PACKING, largest)


def packed_shape(channels: int, grid: Grid) -> Shape:
    """(tokens, channels) of the output image alone."""
    return (grid.height * grid.width, channels)


def reference_inputs(channels: int, grid: Grid) -> tuple[ConditioningInput, ...]:
    """The input of a grid's reference images, if it has any."""
    tokens = (grid.frames - 1) * grid.height * grid.width
    return (ConditioningInput(REFERENCES, ("B", tokens, channels)),) if tokens else ()


def with_references(latents: Tensor, inputs: Mapping[str, Tensor]) -> Tensor:
    """[B, tokens of all images, channels]."""
    return torch.cat([latents, inputs[REFERENCES]], dim=1) if REFERENCES in inputs else latents


def references_of(states: Tensor, tokens: int) -> tuple[Tensor, dict[str, Tensor]]:
    """What `with_references` joined: latents of `tokens`, and the input of references if any."""
    latents, references = states[:, :tokens], states[:, tokens:]
    return latents, {REFERENCES: references} if references.shape[1] else {}


def with_reference_outputs(output: Tensor, states: Tensor) -> Tensor:
    """The output image's prediction followed by zeros, as long as the states [B, tokens, C]."""
    return F.pad(output, (0, 0, 0, states.shape[1] - output.shape[1]))


def require_rotary_axes(config: Config, count: int) -> None:
    """ModelError unless axes_dims_rope splits a head's channels over `count` axes."""
    axes, head_dim = config.get("axes_dims_rope"), config["attention_head_dim"]
    sizes = axes if isinstance(axes, (list, tuple)) and len(axes) == count else ()
    even = all(type(size) is int and size > 0 and size % 2 == 0 for size in sizes)
    if not even or sum(sizes) != head_dim:
        raise ModelError(
            "config.json: axes_dims_rope",
            expected=f"{count} even numbers whose sum is attention_head_dim, {head_dim}",
            actual=repr(axes)[:80],
        )
