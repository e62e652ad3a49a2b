"""Traces a PyTorch module to an ONNX graph in memory."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from ..errors import ModelError, ParoError
from ..families.base import Geometry
from ..models.apply import GeometryConstants
from ..models.conditioning import BATCH, cast_inputs, example_inputs
from ..models.load import LoadedModel
from .optimize import optimize
from .stored_weights import refer_to_weights
from .translate import translation_table

LATENTS, TIMESTEP, MASK_BIN = "hidden_states", "timestep", "mask_bin"

EXAMPLE_BATCH = 2
"""Batch of the traced example. The exporter would take 1 for a constant."""


class DenseTransformer(torch.nn.Module):
    """The unchanged model as a baseline, with the inputs of ParoTransformer except mask_bin."""

    def __init__(self, loaded: LoadedModel, geometry: Geometry) -> None:
        super().__init__()
        self.model = loaded.model
        self.family = loaded.family
        self.geometry = geometry
        spec = loaded.family.conditioning_spec(loaded.config, geometry)
        self.names = tuple(entry.name for entry in spec)
        self.constants = GeometryConstants(loaded.family, loaded.config, geometry)

    def forward(
        self, latents: Tensor, timestep: Tensor, *conditioning: Tensor
    ) -> tuple[Tensor, ...]:
        """The model's outputs for latents [B, *latent_shape] at timesteps [B]."""
        named = dict(zip(self.names, conditioning, strict=True))
        return self.family.forward(
            self.model, self.geometry, latents, timestep, named | self.constants.named()
        )


def trace(module: torch.nn.Module, loaded: LoadedModel, geometry: Geometry, opset: int) -> Any:
    """Export a module whose forward is (latents, timestep, *conditioning[, mask_bin]).

    Returns:
        An onnx_ir model: optimized, every function inlined, no record of this machine's paths.
    """
    family = loaded.family
    spec = family.conditioning_spec(loaded.config, geometry)
    made = cast_inputs(spec, example_inputs(spec, EXAMPLE_BATCH, seed=0), loaded.dtype)
    names = [LATENTS, TIMESTEP, *made]
    inputs = list(made.values())
    shapes: list[Mapping[int, str]] = [
        {axis: size for axis, size in enumerate(entry.shape) if isinstance(size, str)}
        for entry in spec
    ]
    if not isinstance(module, DenseTransformer):
        names.append(MASK_BIN)
        inputs.append(torch.zeros(EXAMPLE_BATCH, dtype=torch.int32))
        shapes.append({0: BATCH})
    latent_shape = family.latent_shape(loaded.config, geometry)
    latents = torch.zeros(EXAMPLE_BATCH, *latent_shape, dtype=loaded.dtype)
    timestep = torch.full((EXAMPLE_BATCH,), 500.0)
    with _quiet(), _explained(type(loaded.model).__name__), family.adapted(loaded.model, geometry):
        program = torch.onnx.export(
            module.eval(),
            (latents, timestep, *inputs),
            dynamo=True,
            opset_version=opset,
            custom_translation_table=translation_table(),
            input_names=names,
            output_names=list(family.output_names),
            dynamic_shapes=({0: BATCH}, {0: BATCH}, tuple(shapes)),
            optimize=False,
            verbose=False,
        )
        if program is None:
            raise RuntimeError("torch.onnx.export returned no program")
        # Before optimizing, which reads small weights to fold them.
        refer_to_weights(program.model, loaded.stored)
        optimize(program)
    return program.model


@contextmanager
def _explained(class_name: str) -> Iterator[None]:
    """Turn any exception of the exporter about an untraceable model into one clear error."""
    try:
        yield
    except Exception as error:  # torch's and onnxscript's errors share no narrower base
        origin: BaseException | None = error
        while origin is not None and not isinstance(origin, (ParoError, OSError)):
            origin = origin.__cause__
        if origin is not None:
            raise origin from None
        raise ModelError(
            f"tracing {class_name}",
            expected="a forward of any batch, without branches on data",
            actual=" ".join(str(error.__cause__ or error).split())[:300],
            remedy="change it in the family's adapted(), see docs/adding-a-model.md",
        ) from error


@contextmanager
def _quiet() -> Iterator[None]:
    """Hide the exporter's warnings about missing optional packages and its own internals."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "onnxscript", "onnx_ir")]
    levels = [logger.level for logger in loggers]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        try:
            yield
        finally:
            for logger, level in zip(loggers, levels, strict=True):
                logger.setLevel(level)
