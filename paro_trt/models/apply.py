"""A model with a plan applied: the plan's tensors become buffers, its attention the paro op."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..errors import ModelError
from ..families.base import Config, Geometry, ModelFamily
from ..families.shared.adapt import adapted_unless_exporting
from ..op.api import Implementation, attention_op, paro_attention, parse_implementation
from ..op.mask import tile_order
from ..op.spec import VERSION_2_INPUTS
from ..plan import LayerPlan, ModelIdentity, ParoPlan, mask_bins, model_identity
from .conditioning import cast_inputs, example_shapes
from .experts import described_identity, is_of_model
from .intercept import SiteHandler, intercept_sites

VERSION_2_TENSORS = tuple(spec.name for spec in VERSION_2_INPUTS)
"""Tensors of the op and of a plan's layer, of one name in both."""


class PlannedAttention(torch.nn.Module):
    """One layer's PAROAttention, with what the plan says of that layer as buffers; those of
    version 2 are None where the layer does not use them."""

    head_order: Tensor
    block_mask: Tensor
    tile_order: Tensor
    channel_affine: Tensor
    fine_mask: Tensor | None
    corrected_heads: Tensor | None
    dynamic_blocks: Tensor | None
    rotation: Tensor | None

    def __init__(self, layer: LayerPlan, plan: ParoPlan, impl: Implementation) -> None:
        super().__init__()
        self.register_buffer("head_order", _tensor(layer.head_order))
        self.register_buffer("block_mask", _tensor(layer.block_mask))
        self.register_buffer("tile_order", _tensor(tile_order(layer.block_mask)))
        self.register_buffer("channel_affine", _tensor(layer.channel_affine))
        for name in VERSION_2_TENSORS:
            array = getattr(layer, name)
            self.register_buffer(name, None if array is None else _tensor(array))
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
        tensors = (
            query, key, value, token_order, self.head_order, self.block_mask, self.tile_order,
            self.channel_affine, mask_bin, key_length, self.fine_mask, self.corrected_heads,
            self.dynamic_blocks, self.rotation,
        )  # fmt: skip
        plain = type(query) is Tensor and not torch.is_grad_enabled()
        if plain and not torch.compiler.is_compiling():
            # Without a graph to build, torch's dispatcher adds as much to a call as all checks.
            return paro_attention(
                *tensors, scale=scale, block_q=self.block_q, block_k=self.block_k,
                qk_bits=self.qk_bits, pv_bits=self.pv_bits, pool_dropped=self.pool_dropped,
                impl=self.impl, check_values=False,
            )  # fmt: skip
        output: Tensor = attention_op(
            *tensors, scale, self.block_q, self.block_k, self.qk_bits,
            self.pv_bits, self.pool_dropped, self.impl,
        )  # fmt: skip
        return output


class ParoTransformer(torch.nn.Module):
    """A transformer whose visual self-attentions are PAROAttention, for running and for export.

    Args:
        model: a diffusers transformer in eval mode.
        family: its family.
        plan: a plan made for this model; `grid` of the latents is the plan's.
        impl: who computes the op ("reference", "cpu", "cuda" or "emulated").
        identity: of the model, where it is one expert of several; None: its class and config.

    Raises:
        ModelError: the plan is of another model or expert, or its layers or text do not fit.
        ArgumentError: `impl` is no implementation.
    """

    token_order: Tensor

    def __init__(
        self,
        model: torch.nn.Module,
        family: ModelFamily,
        plan: ParoPlan,
        impl: str | Implementation = Implementation.REFERENCE,
        identity: ModelIdentity | None = None,
    ) -> None:
        super().__init__()
        implementation = parse_implementation(impl)
        self.model = model
        self.family = family
        self.plan = plan
        self.config = config_of(model)
        self.geometry = geometry_of(plan)
        self.sites = family.sites(self.config)
        check_plan_fits(identity or _identity_of(model), self.config, family, plan)
        spec = family.conditioning_spec(self.config, self.geometry)
        self.conditioning = tuple(entry.name for entry in spec)
        self.constants = GeometryConstants(family, self.config, self.geometry)
        self.register_buffer("token_order", _tensor(plan.orders))
        self.layers = torch.nn.ModuleList(
            PlannedAttention(plan.layer(site.name), plan, implementation) for site in self.sites
        )

    # Attention is intercepted for the time of a call, which compiled code does not undo. To compile
    # a planned model, apply the plan in place (`models/in_place.py`).
    @torch.compiler.disable  # type: ignore[untyped-decorator]
    def forward(self, latents: Tensor, timestep: Tensor, *inputs: Tensor) -> tuple[Tensor, ...]:
        """The model's outputs, as the family's `output_names` has them.

        Args:
            latents: [B, *latent_shape] in the model's dtype, of the plan's grid.
            timestep: float32 [B], 0..1000.
            inputs: the family's conditioning inputs in the order of its spec, then mask_bin int32
                [B], the schedule bin of each sample.

        Raises:
            ModelError: the latents are of another grid, or inputs are missing.
        """
        self._check_call(latents, inputs)
        *conditioning, mask_bin = inputs
        named = dict(zip(self.conditioning, conditioning, strict=True))
        key_length = self.key_length(named, mask_bin)
        with self.in_its_place(mask_bin, key_length):
            return self.own_forward(latents, timestep, named)

    @contextmanager
    def in_its_place(self, mask_bin: Tensor, key_length: Tensor) -> Iterator[None]:
        """Within the context forwards of the model compute the planned attention.

        Args:
            mask_bin: int32 [B], the schedule bin of each sample.
            key_length: int32 [B], as the op has it.
        """

        def attended_by(layer: torch.nn.Module) -> SiteHandler:
            def attend(query: Tensor, key: Tensor, value: Tensor, scale: float) -> Tensor:
                output: Tensor = layer(
                    query, key, value, self.token_order, mask_bin, key_length, scale
                )
                return output

            return attend

        handlers = {
            site: attended_by(layer) for site, layer in zip(self.sites, self.layers, strict=True)
        }
        padding = key_length if self.geometry.text.padded else None
        with (
            adapted_unless_exporting(self.family, self.model, self.geometry),
            intercept_sites(self.model, handlers, padding),
        ):
            yield

    def own_forward(
        self, latents: Tensor, timestep: Tensor, conditioning: Mapping[str, Tensor]
    ) -> tuple[Tensor, ...]:
        """The family's forward with its constants; conditioning by name."""
        named = {**conditioning, **self.constants.named()}
        return self.family.forward(self.model, self.geometry, latents, timestep, named)

    @torch.no_grad()
    def velocity(
        self, latents: Tensor, timestep: Tensor, conditioning: Mapping[str, Tensor]
    ) -> Tensor:
        """float32 velocity for `denoise`: each sample's mask bin follows from its timestep."""
        dtype: torch.dtype = self.model.dtype  # type: ignore[assignment]
        mask_bin = torch.from_numpy(mask_bins(timestep.numpy(), self.plan.bin_boundaries))
        spec = self.family.conditioning_spec(self.config, self.geometry)
        named = cast_inputs(spec, conditioning, dtype)
        inputs = [named[name] for name in self.conditioning]
        outputs: tuple[Tensor, ...] = self(latents.to(dtype), timestep, *inputs, mask_bin)
        return outputs[0].float()

    def key_length(self, conditioning: Mapping[str, Tensor], mask_bin: Tensor) -> Tensor:
        """int32 [B]: tokens of each sample's reordered sequence that exist; padding is its end."""
        if not self.geometry.text.padded:
            return torch.full_like(mask_bin, self.geometry.tokens)
        text = self.family.text_length(conditioning).to(torch.int32)
        return text + self.geometry.grid.tokens

    def _check_call(self, latents: Tensor, inputs: tuple[Tensor, ...]) -> None:
        names = (*self.conditioning, "mask_bin")
        if len(inputs) != len(names):
            raise ModelError(
                "inputs after latents and timestep",
                expected=", ".join(names),
                actual=f"{len(inputs)} tensors",
            )
        expected = self.family.latent_shape(self.config, self.geometry)
        if tuple(latents.shape[1:]) != expected:
            raise ModelError(
                "latents",
                expected=f"[B, {', '.join(map(str, expected))}], the plan's grid",
                actual=str(list(latents.shape)),
                remedy="a plan serves one resolution; calibrate another for this one",
            )


class GeometryConstants(torch.nn.Module):
    """A family's constants of one geometry as buffers, which keep their dtype."""

    def __init__(self, family: ModelFamily, config: Config, geometry: Geometry) -> None:
        super().__init__()
        for name, tensor in family.constants(config, geometry).items():
            self.register_buffer(name, tensor, persistent=False)

    def named(self) -> dict[str, Tensor]:
        """The tensors by name."""
        return dict(self.named_buffers())


def geometry_of(plan: ParoPlan) -> Geometry:
    """What a plan is static in."""
    return Geometry(plan.grid, plan.text)


def config_of(model: torch.nn.Module) -> dict[str, Any]:
    """A diffusers model's configuration."""
    return dict(model.config)  # type: ignore[arg-type]


def check_plan_fits(
    identity: ModelIdentity, config: Config, family: ModelFamily, plan: ParoPlan
) -> None:
    """Raise ModelError unless the plan was made for this model's class, config and layers."""
    remedy = "calibrate a plan for this model"
    if not is_of_model(plan.model, identity, config):
        raise ModelError(
            "the plan's model",
            expected=described_identity(identity, config),
            actual=described_identity(plan.model, config),
            remedy=remedy,
        )
    prompt = example_shapes(family.conditioning_spec(config, geometry_of(plan)))
    _require_equal("the plan's text layout", plan.text, family.text_layout(config, prompt), remedy)
    sites = family.sites(config)
    _require_equal(
        "the plan's layers",
        sorted(layer.name for layer in plan.layers),
        sorted(site.name for site in sites),
        remedy,
    )
    for site in sites:
        layer = plan.layer(site.name)
        _require_equal(
            f"heads, key/value heads and head_dim of the plan's {site.name}",
            (len(layer.head_order), *layer.channel_affine.shape[1:]),
            (site.heads, site.kv_heads, site.head_dim),
            remedy,
        )


def _require_equal(subject: str, actual: object, expected: object, remedy: str) -> None:
    if actual != expected:
        raise ModelError(subject, expected=str(expected), actual=str(actual), remedy=remedy)


def _identity_of(model: torch.nn.Module) -> ModelIdentity:
    return model_identity(type(model).__name__, config_of(model))


def _tensor(array: NDArray[np.generic]) -> Tensor:
    # Plans are read-only; torch would warn of undefined behaviour when sharing their memory.
    return torch.from_numpy(array.copy())
