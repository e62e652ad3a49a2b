"""From a PyTorch module to an ONNX graph in memory."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from ..models.base import ConditioningInput, ModelFamily
from ..models.load import LoadedModel
from ..plan import Grid
from .translate import translation_table

LATENTS, TIMESTEP, MASK_BIN, OUTPUT = "hidden_states", "timestep", "mask_bin", "sample"
BATCH = "B"

_EXAMPLE_SIZES = {BATCH: 2, "L": 8}
"""Sizes of the traced example's free dimensions; 1 would be taken for a constant."""


class DenseTransformer(torch.nn.Module):
    """The model as it is, with the inputs of ParoTransformer but mask_bin: the baseline."""

    def __init__(self, model: torch.nn.Module, family: ModelFamily, names: tuple[str, ...]) -> None:
        super().__init__()
        self.model = model
        self.family = family
        self.names = names

    def forward(self, latents: Tensor, timestep: Tensor, *conditioning: Tensor) -> Tensor:
        """Velocity [B, C, F, H, W] of latents [B, C, F, H, W] at timesteps [B]."""
        named = dict(zip(self.names, conditioning, strict=True))
        return self.family.forward(self.model, latents, timestep, named)


def trace(module: torch.nn.Module, loaded: LoadedModel, grid: Grid, opset: int) -> Any:
    """Export a module whose forward is (latents, timestep, *conditioning[, mask_bin]).

    Returns:
        An onnx_ir model: optimized, every function inlined, no record of this machine's paths.
    """
    spec = loaded.family.conditioning_spec(loaded.config)
    names = [LATENTS, TIMESTEP, *(entry.name for entry in spec)]
    inputs = [_example(entry, loaded.dtype) for entry in spec]
    shapes: list[Mapping[int, str]] = [
        {axis: size for axis, size in enumerate(entry.shape) if isinstance(size, str)}
        for entry in spec
    ]
    if not isinstance(module, DenseTransformer):
        names.append(MASK_BIN)
        inputs.append(torch.zeros(_EXAMPLE_SIZES[BATCH], dtype=torch.int32))
        shapes.append({0: BATCH})
    latent_shape = loaded.family.latent_shape(loaded.config, grid)
    latents = torch.zeros(_EXAMPLE_SIZES[BATCH], *latent_shape, dtype=loaded.dtype)
    timestep = torch.full((_EXAMPLE_SIZES[BATCH],), 500.0)
    with _quiet():
        program = torch.onnx.export(
            module.eval(),
            (latents, timestep, *inputs),
            dynamo=True,
            opset_version=opset,
            custom_translation_table=translation_table(),
            input_names=names,
            output_names=[OUTPUT],
            dynamic_shapes=({0: BATCH}, {0: BATCH}, tuple(shapes)),
            verbose=False,
        )
    if program is None:
        raise RuntimeError("torch.onnx.export returned no program")
    return program.model


def _example(entry: ConditioningInput, dtype: torch.dtype) -> Tensor:
    shape = [_EXAMPLE_SIZES[size] if isinstance(size, str) else size for size in entry.shape]
    return torch.zeros(shape, dtype=entry.dtype or dtype)


@contextmanager
def _quiet() -> Iterator[None]:
    """Hide the exporter's remarks on missing optional packages and on its own internals."""
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
