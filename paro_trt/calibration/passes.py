"""What each pass over the captured steps learns from a layer's attention inputs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import pad

from ..op.spec import AttentionConfig, block_count
from .inputs import LayerInputs
from .op_error import head_extras
from .orders import CandidateOrder
from .quantize import QuantizationChoice, channel_ranges, measure_quantization
from .select_mask import LayerMasks, LayerScores
from .select_order import ORDER_TERMS, OrderMetric, order_terms
from .settings import CalibrationSettings
from .statistics import block_statistics, sampled_query_blocks
from .work import Contribution


def order_contribution(
    inputs: LayerInputs,
    settings: CalibrationSettings,
    candidates: Sequence[CandidateOrder],
    forced: NDArray[np.bool_],
    memory: int | None = None,
) -> Contribution:
    """How well each candidate order serves each head of a layer.

    Args:
        inputs: of one capture.
        settings: of the calibration.
        candidates: the C orders to try.
        forced: bool [NQ, NK], blocks that every mask attends.
        memory: bytes that `block_statistics` may take.

    Returns:
        sums "terms" [C, H, ORDER_TERMS] and "captures" [1].
    """
    device = inputs.query.device
    existing = block_count(inputs.length, settings.block_q)
    blocks = sampled_query_blocks(existing, settings.order_query_blocks)
    forced_here = torch.from_numpy(forced[list(blocks)]).to(device)
    terms = np.empty((len(candidates), inputs.site.heads, ORDER_TERMS))
    for head in range(inputs.site.heads):
        of_head = inputs.head(head)
        for index, candidate in enumerate(candidates):
            statistics = block_statistics(
                of_head,
                _on_device(candidate, device),
                settings.tiling,
                pooled=settings.pool_dropped,
                query_blocks=blocks,
                rows_per_block=settings.order_rows,
                paper=settings.order_metric is OrderMetric.PAPER,
                memory=memory,
            )
            terms[index, head] = order_terms(
                statistics, forced_here, settings.target, settings.order_metric
            )
    return Contribution({"terms": terms, "captures": np.ones(1)})


def mask_contribution(
    inputs: LayerInputs,
    settings: CalibrationSettings,
    candidates: Sequence[CandidateOrder],
    chosen: NDArray[np.int32],
    memory: int | None = None,
) -> Contribution:
    """Scores of every block of a layer under the chosen orders, and the range of every channel.

    Args:
        inputs: of one capture.
        settings: of the calibration.
        candidates: the orders to choose from.
        chosen: int32 [H], the candidate that each head uses.
        memory: bytes that `block_statistics` may take.

    Returns:
        The sums and maxima that `layer_scores` and `combined_ranges` read.
    """
    statistics = [
        block_statistics(
            inputs.head(head),
            _on_device(candidates[candidate], inputs.query.device),
            settings.tiling,
            pooled=settings.pool_dropped,
            fine=settings.mixes,
            memory=memory,
        )
        for head, candidate in enumerate(chosen)
    ]
    energy = torch.stack([of_head.energy.sum() for of_head in statistics]).double()
    total = energy.sum().clamp(min=torch.finfo(torch.float32).tiny)
    # Query blocks that hold only padding have no statistics and no score.
    absent = block_count(len(inputs.query), settings.block_q) - len(statistics[0].error)

    def of_blocks(name: str, whole: Tensor | int) -> NDArray[np.float32]:
        sums = torch.stack([getattr(of_head, name) for of_head in statistics])
        return np.asarray((pad(sums, (0, 0, 0, absent)) / whole).cpu().numpy())

    existing = slice(0, inputs.length)
    ranges = channel_ranges(inputs.query[existing], inputs.key[existing], inputs.value[existing])
    scores = {
        "error": of_blocks("error", total.float()),
        "mass": of_blocks("mass", inputs.length),
        "energy": (energy / total).cpu().numpy(),
        "captures": np.ones(1),
    }
    if settings.mixes:
        scores["fine_error"] = of_blocks("fine_error", total.float())
    return Contribution({**scores, **ranges.sums}, ranges.maxima)


def error_contribution(
    inputs: LayerInputs,
    settings: CalibrationSettings,
    orders: Tensor,
    masks: LayerMasks,
    ranges: Mapping[str, NDArray[Any]],
    mask_bin: int,
) -> Contribution:
    """Error of a layer's orders and masks, and the error that integer products add.

    Args:
        inputs: of one capture.
        settings: of the calibration.
        orders: int64 [H, S], see `head_orders`.
        masks: of the layer.
        ranges: of the layer's channels, see `combined_ranges`.
        mask_bin: the bin of the capture.

    Returns:
        The sums of `measure_quantization`; those of heads are [T, H], zero outside the bin.
    """
    query_blocks = block_count(inputs.length, settings.block_q)
    sums = dict(
        measure_quantization(
            inputs,
            orders.to(inputs.query.device),
            torch.from_numpy(masks.mask[mask_bin]).to(inputs.query.device),
            ranges,
            attention_config(settings),
            sampled_query_blocks(query_blocks, settings.error_query_blocks),
            head_extras(masks, mask_bin, inputs.query.device),
        ).sums
    )
    for name in ("mask_error", "dense_energy"):
        of_bins = np.zeros((settings.bins, inputs.site.heads))
        of_bins[mask_bin] = sums[name]
        sums[name] = of_bins
    return Contribution(sums)


def head_orders(candidates: Sequence[CandidateOrder], chosen: NDArray[np.int32]) -> Tensor:
    """int64 [H, S]: the permutation of each head, whose candidates are int32 [H] `chosen`."""
    orders = np.stack([candidates[candidate].permutation for candidate in chosen])
    return torch.from_numpy(orders).long()


def attention_config(settings: CalibrationSettings) -> AttentionConfig:
    """The op's attributes as asked for."""
    return AttentionConfig(
        settings.block_q,
        settings.block_k,
        settings.qk_bits,
        settings.pv_bits,
        settings.pool_dropped,
        smoothing=settings.smoothing and settings.qk_bits == 4,
    )


def quantized_config(
    settings: CalibrationSettings, quantization: QuantizationChoice | None
) -> AttentionConfig:
    """The op's attributes as decided for a layer; None: 16 bits."""
    config = replace(attention_config(settings), qk_bits=16, pv_bits=16, smoothing=False)
    if quantization is None:
        return config
    return replace(
        config,
        qk_bits=quantization.qk_bits,
        pv_bits=quantization.pv_bits,
        smoothing=quantization.rotation is not None,
    )


def rotation_on(quantization: QuantizationChoice, device: torch.device) -> Tensor | None:
    """The signs of a layer's rotation, int32 [Hk, D]; None where it is not smoothed."""
    rotation = quantization.rotation
    return None if rotation is None else torch.from_numpy(rotation).to(device)


def predicted_error(
    measured: Mapping[str, NDArray[Any]], added_error: NDArray[np.float64]
) -> NDArray[np.float64]:
    """f64 [T, H]: relative L2 error of each head's output on the captures of the errors pass.

    The blocks' own scores, summed, fall short of it by about half: the errors of neighbouring
    blocks correlate.

    Args:
        measured: the summed `error_contribution`s.
        added_error: f64 [Hk], squared relative error of the integers.
    """
    of_mask: NDArray[np.float64] = measured["mask_error"] / np.maximum(
        measured["dense_energy"], 1e-300
    )
    of_integers = np.repeat(added_error, of_mask.shape[1] // len(added_error))
    return np.asarray(np.sqrt(of_mask + of_integers))


def layer_scores(of_bins: Sequence[Mapping[str, NDArray[Any]]]) -> LayerScores:
    """Averages over each bin's captures, from the summed `mask_contribution`s."""

    def average(name: str, dtype: type[np.floating[Any]]) -> NDArray[Any]:
        return np.stack([(of_bin[name] / of_bin["captures"]).astype(dtype) for of_bin in of_bins])

    return LayerScores(
        average("error", np.float32),
        average("mass", np.float32),
        average("energy", np.float64),
        average("fine_error", np.float32) if "fine_error" in of_bins[0] else None,
    )


def combined_ranges(of_bins: Sequence[Mapping[str, NDArray[Any]]]) -> dict[str, NDArray[Any]]:
    """Channel ranges over all bins, from the summed `mask_contribution`s."""
    summed = {
        name: np.sum([of_bin[name] for of_bin in of_bins], axis=0)
        for name in ("tokens", "key_sum", "value_sum")
    }
    largest = {
        name: np.max([of_bin[name] for of_bin in of_bins], axis=0)
        for name in ("query_peak", "key_high", "key_low", "value_high", "value_low")
    }
    return {**summed, **largest}


def _on_device(candidate: CandidateOrder, device: torch.device) -> Tensor:
    return torch.from_numpy(candidate.permutation).long().to(device)
