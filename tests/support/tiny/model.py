"""A tiny model: its configuration, its geometry, and what can be made of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from paro_trt.families.base import Geometry, ModelFamily, Shape
from paro_trt.families.registry import family_for
from paro_trt.families.shared.diffusers_range import OLDEST, installed_release
from paro_trt.models.apply import config_of
from paro_trt.models.conditioning import example_inputs
from paro_trt.models.load import LoadedModel
from paro_trt.models.prompts import Prompts
from paro_trt.plan import ParoPlan, model_identity

from ..plans import small_plan


# eq=False: identity is what the cached properties hang on.
@dataclass(frozen=True, eq=False)
class TinyModel:
    """A configuration small enough to build, run and export in seconds.

    Two layers of each kind, two heads of 64 channels and a few hundred tokens suffice; the second
    size should not divide by blocks of 64 tokens or by any tile.

    Args:
        name: for test reports.
        class_name: the diffusers class.
        config: its arguments.
        latent_size: (frames, height, width).
        odd_latent_size: another one, of odd extents in tokens.
        prompt: shape of each conditioning tensor of one prompt that decides the text layout.
        untrained: parameters that are zero until they are trained; here they are noise.
        oldest_diffusers: first release that has the class with all of these arguments.
    """

    name: str
    class_name: str
    config: Mapping[str, Any]
    latent_size: tuple[int, int, int]
    odd_latent_size: tuple[int, int, int]
    prompt: Mapping[str, Shape] = field(default_factory=dict)
    untrained: tuple[str, ...] = ()
    oldest_diffusers: tuple[int, int] = OLDEST

    @property
    def available(self) -> bool:
        """Whether the installed diffusers has it."""
        return installed_release() >= self.oldest_diffusers

    @property
    def family(self) -> ModelFamily:
        """The family that serves it."""
        return family_for(self.class_name)

    @cached_property
    def full_config(self) -> dict[str, Any]:
        """The configuration with the class's defaults."""
        return config_of(self.build())

    def build(self, seed: int = 0) -> torch.nn.Module:
        """A model of random weights in eval mode."""
        import diffusers

        with torch.random.fork_rng():
            torch.manual_seed(seed)
            model: torch.nn.Module = getattr(diffusers, self.class_name)(**self.config)
            model.requires_grad_(False)
            for name in self.untrained:
                model.get_parameter(name).normal_()
        return model.eval()

    def loaded(self, seed: int = 0, dtype: torch.dtype = torch.float32) -> LoadedModel:
        """The same as if it came from a directory."""
        model = self.build(seed)
        kept = getattr(model, "_keep_in_fp32_modules", None) or ()
        for name, parameter in model.named_parameters():
            if not any(part in name.split(".") for part in kept):
                parameter.data = parameter.data.to(dtype)
        identity = model_identity(self.class_name, config_of(model))
        path = Path(self.name)
        return LoadedModel(model, self.family, config_of(model), path, identity, dtype)

    def geometry(self, *, odd: bool = False) -> Geometry:
        """Its tokens at the usual or the odd size."""
        family, size = self.family, self.odd_latent_size if odd else self.latent_size
        layout = family.text_layout(self.full_config, self.prompt)
        return Geometry(family.grid(self.full_config, size), layout)

    def plan(self, *, odd: bool = False, density: float = 0.5, **arguments: Any) -> ParoPlan:
        """A plan of random content for it; arguments as of `small_plan`."""
        geometry, sites = self.geometry(odd=odd), self.family.sites(self.full_config)
        return small_plan(
            model=model_identity(self.class_name, self.full_config),
            grid=geometry.grid,
            text=geometry.text,
            heads=sites[0].heads,
            kv_heads=sites[0].kv_heads,
            head_dim=sites[0].head_dim,
            layers=len(sites),
            layer_names=tuple(site.name for site in sites),
            density=density,
            **arguments,
        )

    def inputs(
        self, batch: int, seed: int = 0, *, odd: bool = False, padded: bool = True
    ) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        """Latents, timesteps f32 [batch] over the whole schedule and conditioning, none centred on
        zero; where text is padded, all samples but the first have padding."""
        geometry, family = self.geometry(odd=odd), self.family
        generator = torch.Generator().manual_seed(seed)
        shape = family.latent_shape(self.full_config, geometry)
        latents = torch.randn(batch, *shape, generator=generator) + 0.3
        spec = family.conditioning_spec(self.full_config, geometry)
        made = example_inputs(spec, batch, seed, padded=padded)
        return latents, torch.linspace(950.0, 50.0, batch), made

    def prompts(self, count: int = 2, seed: int = 0, *, odd: bool = False) -> Prompts:
        """Made-up prompts; where text is padded, each has padding."""
        made = self.inputs(count + 1, seed, odd=odd)[2]
        padded = {name: tensor[1:] for name, tensor in made.items()}
        if (given := padded.get("condition_frames")) is not None:
            # A frame is given or not; made-up numbers are neither.
            padded["condition_frames"] = (torch.arange(given.shape[1]) < 1).float().expand_as(given)
        return Prompts(tuple(f"prompt {index}" for index in range(count)), padded)
