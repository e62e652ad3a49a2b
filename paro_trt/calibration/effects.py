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
from .capture import dense_attention, replay_attended
from .inputs import LayerInputs
from .op_error import PlannedHead, attended_rows, head_extras, identity_affine
from .passes import quantized_config, rotation_on
from .quantize import Product, QuantizationChoice
from .run import CalibrationRun, Capture
from .select_mask import LayerMasks
from .work import Contribution

LEVELS, KEYS = "levels", "keys"
"""Arrays of a layer's effects; in addition "qk8" and so on, as `width_name` says."""

_TINY = 1e-300


class HeadGroup(NamedTuple):
    """Heads of a layer that keep blocks by one level.

    heads: int64 [G], rising. levels: masks of these heads in one bin at each level, densest
    first; the first is dense. keys: f64 [levels], that a query meets, as a share of S.
    """

    heads: NDArray[np.int64]
    levels: Sequence[LayerMasks]
    keys: NDArray[np.float64]


class LayerOptions(NamedTuple):
    """What is tried on one layer.

    orders: int64 [H, S]. groups: every head is in one. dense: masks of all heads with every
    block. widths: the quantization of one product alone, by product and bits.
    """

    orders: Tensor
    groups: Sequence[HeadGroup]
    dense: LayerMasks
    widths: Mapping[tuple[Product, int], QuantizationChoice]


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

    An effect is the squared error of the prediction over the dense prediction's squares, times
    what the call counts (`CalibrationRun.effect_weights`): summed over calls it is that of a run.

    Args:
        run: of the calibration.
        capture: of the call, one of `CalibrationRun.effect_captures`.
        call: a call of the dense model.
        layers: which to measure.
        options: (layer, bin) -> what to try.

    Yields:
        The layer, and sums, zero outside the bin: "levels" f64 [T, groups, levels], and of each
        width f64 [T]; maxima "keys" f64 [T, groups, levels].
    """
    dense = prediction(run, call, {})
    factor = run.effect_weights()[capture] / max(squared(dense), _TINY)
    for layer in layers:
        site, tried = run.sites[layer], options(layer, capture.mask_bin)

        def changed(
            masks: LayerMasks,
            choice: QuantizationChoice | None,
            heads: NDArray[np.int64] | None = None,
            site: AttentionSite = site,
            orders: Tensor = tried.orders,
        ) -> float:
            config = quantized_config(run.settings, choice)
            planned = planned_attention(orders, masks, 0, choice, config, heads)
            return factor * squared(prediction(run, call, {site.name: planned}) - dense)

        def in_bin(values: Any) -> NDArray[np.float64]:
            of_bins = np.zeros((run.settings.bins, *np.shape(values)))
            of_bins[capture.mask_bin] = values
            return of_bins

        sums = {
            LEVELS: in_bin(
                [
                    [0.0, *(changed(masks, None, group.heads) for masks in group.levels[1:])]
                    for group in tried.groups
                ]
            )
        }
        for (product, bits), choice in tried.widths.items():
            sums[width_name(product, bits)] = in_bin(changed(tried.dense, choice))
        yield layer, Contribution(sums, {KEYS: in_bin([group.keys for group in tried.groups])})


def prediction(
    run: CalibrationRun,
    call: RecordedCall,
    planned: Mapping[str, Callable[[LayerInputs], Tensor]],
) -> Tensor:
    """What the model predicts in a call, f32; with guidance, where the call of the negative prompt
    was recorded.

    Args:
        run: of the calibration.
        call: of one sample.
        planned: attention of sites, by name; all others are dense.
    """

    def attend(_layer: int, inputs: LayerInputs) -> Tensor | None:
        of_site = planned.get(inputs.site.name)
        return None if of_site is None else of_site(inputs)

    def of(each: RecordedCall) -> Tensor:
        return replay_attended(run.loaded, run.geometry, each, run.source.device, attend).float()

    own, negative = of(call), call.negative_call()
    if negative is None:
        return own
    other = of(negative)
    return other + call.guidance * (own - other)


def planned_attention(
    orders: Tensor,
    masks: LayerMasks,
    mask_bin: int,
    quantization: QuantizationChoice | None,
    config: AttentionConfig,
    heads: NDArray[np.int64] | None = None,
) -> Callable[[LayerInputs], Tensor]:
    """A layer's attention by its decisions: f32 [S, H, D] in the order of the tokens.

    Args:
        orders: int64 [H, S].
        masks: of `heads`.
        mask_bin: which of their bins.
        quantization: its affine and rotation; None: the identity, of 16 bits.
        config: block sizes, bits and pooling.
        heads: that the masks are of, all others are dense; None: every head of the layer.
    """

    def attend(inputs: LayerInputs) -> Tensor:
        device, site = inputs.query.device, inputs.site
        query_blocks = range(block_count(inputs.length, config.block_q))
        exact = torch.from_numpy(masks.mask[mask_bin]).to(device)
        extras = head_extras(masks, mask_bin, device)
        if heads is None:
            output = torch.zeros(inputs.query.shape, device=device)
        else:
            output = dense_layer(inputs)
        for index, head in enumerate(range(site.heads) if heads is None else heads.tolist()):
            order = orders[head].to(device)
            affine, signs = identity_affine(site.head_dim, device), None
            if quantization is not None:
                rows = torch.from_numpy(quantization.channel_affine).to(device)
                kv_head = head * site.kv_heads // site.heads
                affine = ChannelAffine.of_head(rows, kv_head, config)
                signs = head_signs(rotation_on(quantization, device), kv_head)
            planned = PlannedHead(order, exact[index], affine, *extras[index], signs)
            attended = attended_rows(inputs.head(head), planned, config, query_blocks)
            output[order[: inputs.length], head] = attended
        return output

    return attend


def dense_layer(inputs: LayerInputs) -> Tensor:
    """Dense attention of a layer, f32 [S, H, D]."""
    length = None if inputs.key_length is None else torch.tensor([inputs.key_length])
    query, key, value = (tensor[None] for tensor in (inputs.query, inputs.key, inputs.value))
    return dense_attention(query, key, value, inputs.scale, length)[0].float()


def squared(values: Tensor) -> float:
    """The sum of squares, in f64."""
    return float(values.double().square().sum())
