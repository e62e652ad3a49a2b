"""A model with a plan applied: the plan's tensors become buffers, its attention the paro op."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..errors import ModelError
from ..op.api import Implementation, attention_op, parse_implementation
from ..op.mask import tile_order
from ..plan import LayerPlan, ParoPlan
from ..plan.identity import model_identity
from .base import AttentionSite, ModelFamily
from .bins import mask_bins
from .intercept import intercept_attention


class PlannedAttention(torch.nn.Module):
    """One layer's PAROAttention, with what the plan says of that layer as buffers."""

    head_order: Tensor
    block_mask: Tensor
    tile_order: Tensor
    channel_affine: Tensor

    def __init__(self, layer: LayerPlan, plan: ParoPlan, impl: Implementation) -> None:
        super().__init__()
        self.register_buffer("head_order", _tensor(layer.head_order))
        self.register_buffer("block_mask", _tensor(layer.block_mask))
        self.register_buffer("tile_order", _tensor(tile_order(layer.block_mask)))
        self.register_buffer("channel_affine", _tensor(layer.channel_affine))
        self.block_q, self.block_k = plan.block_q, plan.block_k
        self.qk_bits, self.pv_bits = layer.qk_bits, layer.pv_bits
        self.pool_dropped = int(plan.pool_dropped)
        self.impl = impl.value

    def forward(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        token_order: Tensor,
        mask_bin: Tensor,
        key_length: Tensor,
        scale: float,
    ) -> Tensor:
        """[B, S, H, D] from query [B, S, H, D], key and value [B, S, Hk, D], in token order."""
        output: Tensor = attention_op(
            query, key, value, token_order, self.head_order, self.block_mask, self.tile_order,
            self.channel_affine, mask_bin, key_length, scale, self.block_q, self.block_k,
            self.qk_bits, self.pv_bits, self.pool_dropped, self.impl,
        )  # fmt: skip
        return output


class ParoTransformer(torch.nn.Module):
    """A transformer whose visual self-attentions are PAROAttention, for running and for export.

    Args:
        model: a diffusers transformer in eval mode.
        family: its family.
        plan: a plan made for this model; `grid` of the latents is the plan's.
        impl: who computes the op ("reference", "cpu", "cuda" or "emulated").

    Raises:
        ModelError: the plan is of another model, or its layers or text do not fit.
        ArgumentError: `impl` is no implementation.
    """

    token_order: Tensor

    def __init__(
        self,
        model: torch.nn.Module,
        family: ModelFamily,
        plan: ParoPlan,
        impl: str | Implementation = Implementation.REFERENCE,
    ) -> None:
        super().__init__()
        implementation = parse_implementation(impl)
        self.model = model
        self.family = family
        self.plan = plan
        self.config = _config_of(model)
        self.sites = family.sites(model)
        check_plan_fits(model, family, plan)
        self.conditioning = tuple(spec.name for spec in family.conditioning_spec(self.config))
        self.register_buffer("token_order", _tensor(plan.orders))
        self.layers = torch.nn.ModuleList(
            PlannedAttention(plan.layer(site.name), plan, implementation) for site in self.sites
        )

    def forward(self, latents: Tensor, timestep: Tensor, *inputs: Tensor) -> Tensor:
        """Velocity [B, C, F, H, W].

        Args:
            latents: [B, C, F, H, W] in the model's dtype, of the plan's grid.
            timestep: float32 [B], 0..1000.
            inputs: the family's conditioning inputs in the order of its spec, then mask_bin int32
                [B], the schedule bin of each sample.

        Raises:
            ModelError: the latents are of another grid, or inputs are missing.
        """
        self._check_call(latents, inputs)
        *conditioning, mask_bin = inputs
        key_length = torch.full_like(mask_bin, self.plan.tokens)
        layers = {site.name: layer for site, layer in zip(self.sites, self.layers, strict=True)}

        def attend(
            site: AttentionSite, query: Tensor, key: Tensor, value: Tensor, scale: float
        ) -> Tensor:
            output: Tensor = layers[site.name](
                query, key, value, self.token_order, mask_bin, key_length, scale
            )
            return output

        with intercept_attention(self.model, self.sites, attend):
            named = dict(zip(self.conditioning, conditioning, strict=True))
            return self.family.forward(self.model, latents, timestep, named)

    @torch.no_grad()
    def velocity(
        self, latents: Tensor, timestep: Tensor, conditioning: Mapping[str, Tensor]
    ) -> Tensor:
        """float32 velocity for `denoise`: each sample's mask bin follows from its timestep."""
        dtype: torch.dtype = self.model.dtype  # type: ignore[assignment]
        mask_bin = torch.from_numpy(mask_bins(timestep.numpy(), self.plan.bin_boundaries))
        inputs = [conditioning[name].to(dtype) for name in self.conditioning]
        sample: Tensor = self(latents.to(dtype), timestep, *inputs, mask_bin)
        return sample.float()

    def _check_call(self, latents: Tensor, inputs: tuple[Tensor, ...]) -> None:
        names = (*self.conditioning, "mask_bin")
        if len(inputs) != len(names):
            raise ModelError(
                "inputs after latents and timestep",
                expected=", ".join(names),
                actual=f"{len(inputs)} tensors",
            )
        expected = self.family.latent_shape(self.config, self.plan.grid)
        if tuple(latents.shape[1:]) != expected:
            raise ModelError(
                "latents",
                expected=f"[B, {', '.join(map(str, expected))}], the plan's grid",
                actual=str(list(latents.shape)),
                remedy="a plan serves one resolution; calibrate another for this one",
            )


def check_plan_fits(model: torch.nn.Module, family: ModelFamily, plan: ParoPlan) -> None:
    """Raise ModelError unless the plan was made for this model's class, config and layers."""
    config = _config_of(model)
    identity = model_identity(type(model).__name__, config)
    _require_equal("the plan's model", plan.model, identity, "calibrate a plan for this model")
    text = family.text_layout(config)
    _require_equal("the plan's text layout", plan.text, text, "calibrate a plan for this model")
    sites = family.sites(model)
    _require_equal(
        "the plan's layers",
        sorted(layer.name for layer in plan.layers),
        sorted(site.name for site in sites),
        "calibrate a plan for this model",
    )
    for site in sites:
        layer = plan.layer(site.name)
        _require_equal(
            f"heads, key/value heads and head_dim of the plan's {site.name}",
            (len(layer.head_order), *layer.channel_affine.shape[1:]),
            (site.heads, site.kv_heads, site.head_dim),
            "calibrate a plan for this model",
        )


def _require_equal(subject: str, actual: object, expected: object, remedy: str) -> None:
    if actual != expected:
        raise ModelError(subject, expected=str(expected), actual=str(actual), remedy=remedy)


def _config_of(model: torch.nn.Module) -> dict[str, object]:
    return dict(model.config)  # type: ignore[arg-type]


def _tensor(array: NDArray[np.generic]) -> Tensor:
    # Plans are read-only; torch would warn of undefined behaviour when sharing their memory.
    return torch.from_numpy(array.copy())
