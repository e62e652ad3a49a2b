"""What the rest of the package may know about a model: the interface of a family."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from ..errors import ModelError

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from ..plan import Grid, TextLayout


@dataclass(frozen=True)
class AttentionSite:
    """One attention layer whose tokens are the visual grid.

    Args:
        name: the module's path in the model, as in `model.get_submodule(name)`.
        heads: query heads.
        kv_heads: key/value heads; divides `heads`.
        head_dim: channels of a head.
    """

    name: str
    heads: int
    kv_heads: int
    head_dim: int


@dataclass(frozen=True)
class ConditioningInput:
    """One tensor that a model takes beside latents and timestep.

    Args:
        name: the keyword of the model's forward.
        shape: sizes, or symbols for those that are free: "B" batch, "L" text tokens.
        dtype: None for the model's own floating-point type.
    """

    name: str
    shape: tuple[int | str, ...]
    dtype: torch.dtype | None = None


class ModelFamily(Protocol):
    """A diffusers model class, or several alike, as this package sees it. Stateless."""

    @property
    def name(self) -> str:
        """Short name for messages, such as "wan"."""

    @property
    def class_names(self) -> tuple[str, ...]:
        """diffusers classes that the family covers, as in config.json's `_class_name`."""

    def check_config(self, config: Mapping[str, Any]) -> None:
        """Raise ModelError if the config is out of bounds or of an unsupported variant."""

    def sites(self, model: torch.nn.Module) -> tuple[AttentionSite, ...]:
        """The visual self-attention layers, in the order of execution."""

    def grid(self, config: Mapping[str, Any], latent_size: tuple[int, int, int]) -> Grid:
        """Token grid of latents of (frames, height, width); ModelError if patches do not fit."""

    def latent_shape(self, config: Mapping[str, Any], grid: Grid) -> tuple[int, int, int, int]:
        """(channels, frames, height, width) of the latents that a grid stands for."""

    def text_layout(self, config: Mapping[str, Any]) -> TextLayout:
        """Where text tokens sit among the visual ones in the attention sites."""

    def conditioning_spec(self, config: Mapping[str, Any]) -> tuple[ConditioningInput, ...]:
        """Inputs beside latents and timestep, in the order ONNX files and modules take them."""

    def forward(
        self,
        model: torch.nn.Module,
        latents: Tensor,
        timestep: Tensor,
        conditioning: Mapping[str, Tensor],
    ) -> Tensor:
        """Velocity [B, C, F, H, W] of latents [B, C, F, H, W] at timesteps [B] (0..1000)."""


def require_integer(config: Mapping[str, Any], key: str, largest: int) -> int:
    """config[key] as an integer in 1..largest; ModelError otherwise."""
    value = config.get(key)
    if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= largest:
        raise ModelError(
            f"config.json: {key}", expected=f"an integer in 1..{largest}", actual=repr(value)[:80]
        )
    return value
