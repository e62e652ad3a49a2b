"""channel_affine of quantized policies, by the package's own calibration."""

import math
from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

from paro_trt.calibration.passes import combined_ranges
from paro_trt.calibration.quantize import (
    channel_ranges,
    choose_quantization,
    measure_quantization,
)
from paro_trt.calibration.statistics import sampled_query_blocks
from paro_trt.op.spec import AttentionConfig

from .captures import Captures
from .static import StaticMasks


def channel_affines(
    captures: Captures, masks: StaticMasks, config: AttentionConfig
) -> tuple[Tensor, ...]:
    """channel_affine f32 [4, H, D] of each layer, at the config's bits whatever error they add."""
    return tuple(
        _layer_affine(captures, masks, config, layer) for layer in range(len(captures.layers))
    )


def _layer_affine(
    captures: Captures, masks: StaticMasks, config: AttentionConfig, layer: int
) -> Tensor:
    ranges = _ranges(captures, layer)
    settings = captures.run.settings
    rows = sampled_query_blocks(len(captures.run.forced), settings.error_query_blocks)
    measured: dict[str, np.ndarray] = {}
    for unit, inputs in zip(captures.units, captures.layers[layer], strict=True):
        if unit.prompt > 0:  # one prompt is what `paro_trt.calibration` looks at too
            continue
        found = measure_quantization(
            inputs,
            masks.orders[layer],
            masks.masks[layer][unit.mask_bin],
            ranges,
            config,
            rows,
        )
        for name, part in found.sums.items():
            measured[name] = measured.get(name, 0.0) + part
    choice = choose_quantization(measured, ranges, config, int4_max_error=math.inf)
    return torch.from_numpy(choice.channel_affine)


def _ranges(captures: Captures, layer: int) -> Mapping[str, np.ndarray]:
    contributions = [
        channel_ranges(inputs.query, inputs.key, inputs.value) for inputs in captures.layers[layer]
    ]
    return combined_ranges([{**part.sums, **part.maxima} for part in contributions])
