"""What a change of one layer does to the model's prediction: dense attention everywhere, but for
that layer, which keeps fewer blocks or multiplies with fewer bits."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..families.base import AttentionSite
from ..op.quantization import ChannelAffine
from ..op.smoothing import head_signs
from ..op.spec import AttentionConfig, block_count
from .calls import RecordedCall
from .capture import dense_attention, replay
from .inputs import LayerInputs
from .op_error import PlannedHead, attended_rows, head_extras, identity_affine
from .passes import quantized_config, rotation_on
from .quantize import Product, QuantizationChoice
from .run import CalibrationRun, Capture
from .select_mask import LayerMasks
from .work import Contribution

ENERGY, LEVELS, KEYS = "energy", "levels", "keys"
"""Arrays of a layer's effects; in addition "qk8" and so on, as `width_name` says."""


class LayerOptions(NamedTuple):
    """What is tried on one layer.

    orders: int64 [H, S]. levels: the masks of one bin at each level, densest first; the first is
    dense. keys: f64 [levels], that a query meets, as a share of S. widths: the quantization of
    one product alone, by product and bits.
    """

    orders: Tensor
    levels: Sequence[LayerMasks]
    keys: NDArray[np.float64]
    widths: Mapping[tuple[Product, int], QuantizationChoice]

    @property
    def forwards(self) -> int:
        """Of the model, for one call."""
        return len(self.levels) - 1 + len(self.widths)


def width_name(product: Product, bits: int) -> str:
    """The name of a width's effect."""
    return f"{product.value}{bits}"


def measured_effects(
    run: CalibrationRun,
    capture: Capture,
    call: RecordedCall,
    layers: Sequence[int],
    options: Callable[[int, int], LayerOptions],
) -> Iterator[tuple[int, Contribution]]:
    """The effects of every option of some layers on one recorded call, layer by layer.

    Args:
        run: of the calibration.
        capture: of the call.
        call: a call of the dense model.
        layers: which to measure.
        options: (layer, bin) -> what to try.

    Yields:
        The layer, and sums of squares, zero outside the bin: "energy" [T, 1] of the dense
        prediction, "levels" [T, levels] of what each level changes, and of each width [T, 1];
        maxima "keys" [T, levels].
    """
    dense = prediction(run, call, {})
    for layer in layers:
        site, tried = run.sites[layer], options(layer, capture.mask_bin)

        def changed(
            masks: LayerMasks,
            choice: QuantizationChoice | None,
            site: AttentionSite = site,
            orders: Tensor = tried.orders,
        ) -> float:
            config = quantized_config(run.settings, choice)
            planned = planned_attention(orders, masks, 0, choice, config)
            return squared(prediction(run, call, {site.name: planned}) - dense)

        def in_bin(*values: float) -> NDArray[np.float64]:
            of_bins = np.zeros((run.settings.bins, len(values)))
            of_bins[capture.mask_bin] = values
            return of_bins

        sums = {
            ENERGY: in_bin(squared(dense)),
            LEVELS: in_bin(0.0, *(changed(masks, None) for masks in tried.levels[1:])),
        }
        for (product, bits), choice in tried.widths.items():
            sums[width_name(product, bits)] = in_bin(changed(tried.levels[0], choice))
        yield layer, Contribution(sums, {KEYS: in_bin(*tried.keys)})


def prediction(
    run: CalibrationRun,
    call: RecordedCall,
    planned: Mapping[str, Callable[[LayerInputs], Tensor]],
) -> Tensor:
    """What the model predicts in a call, f32.

    Args:
        run: of the calibration.
        call: of one sample.
        planned: attention of sites, by name; all others are dense.
    """

    def handle(
        padding: Tensor | None,
        site: AttentionSite,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        scale: float,
    ) -> Tensor:
        attend = planned.get(site.name)
        if attend is None:
            return dense_attention(query, key, value, scale, padding)
        inputs = LayerInputs(site, query[0], key[0], value[0], scale, call.key_length)
        return attend(inputs).to(query.dtype)[None]

    return replay(run.loaded, run.geometry, call, run.source.device, handle).float()


def planned_attention(
    orders: Tensor,
    masks: LayerMasks,
    mask_bin: int,
    quantization: QuantizationChoice | None,
    config: AttentionConfig,
) -> Callable[[LayerInputs], Tensor]:
    """A layer's attention by its decisions: f32 [S, H, D] in the order of the tokens.

    Args:
        orders: int64 [H, S].
        masks: of the layer.
        mask_bin: which of their bins.
        quantization: its affine and rotation; None: the identity, of 16 bits.
        config: block sizes, bits and pooling.
    """

    def attend(inputs: LayerInputs) -> Tensor:
        device, site = inputs.query.device, inputs.site
        query_blocks = range(block_count(inputs.length, config.block_q))
        exact = torch.from_numpy(masks.mask[mask_bin]).to(device)
        extras = head_extras(masks, mask_bin, device)
        output = torch.zeros(inputs.query.shape, device=device)
        for head in range(site.heads):
            order = orders[head].to(device)
            affine, signs = identity_affine(site.head_dim, device), None
            if quantization is not None:
                rows = torch.from_numpy(quantization.channel_affine).to(device)
                kv_head = head * site.kv_heads // site.heads
                affine = ChannelAffine.of_head(rows, kv_head, config)
                signs = head_signs(rotation_on(quantization, device), kv_head)
            planned = PlannedHead(order, exact[head], affine, *extras[head], signs)
            attended = attended_rows(inputs.head(head), planned, config, query_blocks)
            output[order[: inputs.length], head] = attended
        return output

    return attend


def squared(values: Tensor) -> float:
    """The sum of squares, in f64."""
    return float(values.double().square().sum())


def relative(
    effects: Mapping[str, NDArray[Any]], name: str, bin_weights: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Squared relative errors of the prediction, f64 [T, options], which sum to that of the run.

    Args:
        effects: the summed contributions of a layer.
        name: of the options.
        bin_weights: f64 [T], see `CalibrationRun.bin_weights`.
    """
    energy = np.maximum(effects[ENERGY], 1e-300)
    return np.asarray(effects[name] / energy * bin_weights[:, None])
