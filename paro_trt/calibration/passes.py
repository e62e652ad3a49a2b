"""What each pass over the captured steps learns from a layer's attention inputs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import pad

from ..errors import ModelError
from ..families.base import AttentionSite
from ..op.spec import AttentionConfig, block_count
from .orders import CandidateOrder
from .quantize import LayerSample, channel_ranges, measure_quantization
from .select_mask import LayerScores
from .select_order import ORDER_TERMS, OrderMetric, order_terms
from .settings import CalibrationSettings
from .statistics import HeadSample, block_statistics, sampled_query_blocks
from .work import Contribution


class LayerInputs(NamedTuple):
    """Attention inputs of one capture: query [S, H, D], key and value [S, Hk, D], logit scale.

    key_length: tokens that exist, the others being padding at the end; None means all.
    """

    site: AttentionSite
    query: Tensor
    key: Tensor
    value: Tensor
    scale: float
    key_length: int | None = None

    @property
    def length(self) -> int:
        """Tokens that exist."""
        return len(self.query) if self.key_length is None else self.key_length

    def head(self, index: int) -> HeadSample:
        """Inputs of one query head, contiguous."""
        kv_head = index * self.site.kv_heads // self.site.heads
        return HeadSample(
            self.query[:, index].contiguous(),
            self.key[:, kv_head].contiguous(),
            self.value[:, kv_head].contiguous(),
            self.scale,
            self.key_length,
        )

    def check(self, tokens: int) -> None:
        """Raise ModelError unless the inputs are finite and of the plan's length."""
        if self.query.shape[0] != tokens:
            raise ModelError(
                f"attention of {self.site.name}",
                expected=f"{tokens} tokens, as the grid and text layout say",
                actual=str(self.query.shape[0]),
            )
        for name, tensor in (("query", self.query), ("key", self.key), ("value", self.value)):
            if not bool(tensor.isfinite().all()):
                raise ModelError(
                    f"attention of {self.site.name}",
                    expected=f"finite {name}",
                    actual="NaN or infinity",
                    remedy="check the weights, or load the model in float32",
                )


@dataclass(frozen=True)
class OrderPass:
    """How well each candidate order serves each head."""

    settings: CalibrationSettings
    candidates: Sequence[CandidateOrder]
    forced: NDArray[np.bool_]

    def learn(self, inputs: LayerInputs) -> Contribution:
        """sums "terms" [C, H, ORDER_TERMS] and "captures" [1]."""
        settings, device = self.settings, inputs.query.device
        existing = block_count(inputs.length, settings.block_q)
        blocks = sampled_query_blocks(existing, settings.order_query_blocks)
        forced = torch.from_numpy(self.forced[list(blocks)]).to(device)
        terms = np.empty((len(self.candidates), inputs.site.heads, ORDER_TERMS))
        for head in range(inputs.site.heads):
            sample = inputs.head(head)
            for index, candidate in enumerate(self.candidates):
                statistics = block_statistics(
                    sample,
                    _on_device(candidate, device),
                    settings.tiling,
                    pooled=settings.pool_dropped,
                    query_blocks=blocks,
                    rows_per_block=settings.order_rows,
                    paper=settings.order_metric is OrderMetric.PAPER,
                )
                terms[index, head] = order_terms(
                    statistics, forced, settings.target, settings.order_metric
                )
        return Contribution({"terms": terms, "captures": np.ones(1)})


@dataclass(frozen=True)
class MaskPass:
    """Scores of every block under the chosen orders, and the range of every channel.

    chosen: int32 [H] of each layer, the candidate each head uses.
    """

    settings: CalibrationSettings
    candidates: Sequence[CandidateOrder]
    chosen: Sequence[NDArray[np.int32]]

    def learn(self, layer: int, inputs: LayerInputs) -> Contribution:
        """sums and maxima that `layer_scores` and `combined_ranges` read."""
        statistics = [
            block_statistics(
                inputs.head(head),
                _on_device(self.candidates[candidate], inputs.query.device),
                self.settings.tiling,
                pooled=self.settings.pool_dropped,
            )
            for head, candidate in enumerate(self.chosen[layer])
        ]
        energy = torch.stack([of_head.energy.sum() for of_head in statistics]).double()
        total = energy.sum().clamp(min=torch.finfo(torch.float32).tiny)
        # Query blocks of nothing but padding have no statistics, and no score.
        absent = block_count(len(inputs.query), self.settings.block_q) - len(statistics[0].error)
        error, mass = (
            pad(torch.stack([getattr(of_head, name) for of_head in statistics]), (0, 0, 0, absent))
            for name in ("error", "mass")
        )
        error, mass = error / total.float(), mass / inputs.length
        existing = slice(0, inputs.length)
        ranges = channel_ranges(
            inputs.query[existing], inputs.key[existing], inputs.value[existing]
        )
        scores = {
            "error": error.cpu().numpy(),
            "mass": mass.cpu().numpy(),
            "energy": (energy / total).cpu().numpy(),
            "captures": np.ones(1),
        }
        return Contribution({**scores, **ranges.sums}, ranges.maxima)


@dataclass(frozen=True)
class ErrorPass:
    """Error of the chosen orders and masks, and what integer products add to it.

    chosen: int32 [H], masks: bool [T, H, NQ, NK], ranges: of each layer.
    """

    settings: CalibrationSettings
    candidates: Sequence[CandidateOrder]
    chosen: Sequence[NDArray[np.int32]]
    masks: Sequence[NDArray[np.bool_]]
    ranges: Sequence[Mapping[str, NDArray[Any]]]

    def learn(self, layer: int, mask_bin: int, inputs: LayerInputs) -> Contribution:
        """sums as of `measure_quantization`; those of heads are [T, H], of this bin alone."""
        query_blocks = block_count(inputs.length, self.settings.block_q)
        sums = dict(
            measure_quantization(
                layer_sample(
                    inputs, self.candidates, self.chosen[layer], self.masks[layer][mask_bin]
                ),
                self.ranges[layer],
                attention_config(self.settings),
                sampled_query_blocks(query_blocks, self.settings.error_query_blocks),
            ).sums
        )
        for name in ("mask_error", "dense_energy"):
            of_bins = np.zeros((self.settings.bins, inputs.site.heads))
            of_bins[mask_bin] = sums[name]
            sums[name] = of_bins
        return Contribution(sums)


def layer_sample(
    inputs: LayerInputs,
    candidates: Sequence[CandidateOrder],
    chosen: NDArray[np.int32],
    masks: NDArray[np.bool_],
) -> LayerSample:
    """A capture on the CPU with the heads' candidates int32 [H] and masks bool [H, NQ, NK]."""
    orders = np.stack([candidates[candidate].permutation for candidate in chosen])
    return LayerSample(
        inputs.query.cpu(),
        inputs.key.cpu(),
        inputs.value.cpu(),
        inputs.scale,
        torch.from_numpy(orders).long(),
        torch.from_numpy(masks),
        inputs.key_length,
    )


def attention_config(settings: CalibrationSettings) -> AttentionConfig:
    """The op's attributes as asked for."""
    return AttentionConfig(
        settings.block_q,
        settings.block_k,
        settings.qk_bits,
        settings.pv_bits,
        settings.pool_dropped,
    )


def predicted_error(
    measured: Mapping[str, NDArray[Any]], added_error: NDArray[np.float64]
) -> NDArray[np.float64]:
    """f64 [T, H]: relative L2 error of each head's output on the captures of `ErrorPass`.

    The blocks' own scores, summed, fall short of it by about half: the errors of neighbouring
    blocks point the same way.

    Args:
        measured: the state that `ErrorPass` filled.
        added_error: f64 [Hk], squared relative error of the integers.
    """
    of_mask: NDArray[np.float64] = measured["mask_error"] / np.maximum(
        measured["dense_energy"], 1e-300
    )
    of_integers = np.repeat(added_error, of_mask.shape[1] // len(added_error))
    return np.asarray(np.sqrt(of_mask + of_integers))


def layer_scores(of_bins: Sequence[Mapping[str, NDArray[Any]]]) -> LayerScores:
    """Averages over each bin's captures, from the states that `MaskPass` filled."""
    error, mass, energy = (
        np.stack([(of_bin[name] / of_bin["captures"]).astype(dtype) for of_bin in of_bins])
        for name, dtype in (("error", np.float32), ("mass", np.float32), ("energy", np.float64))
    )
    return LayerScores(error, mass, energy)


def combined_ranges(of_bins: Sequence[Mapping[str, NDArray[Any]]]) -> dict[str, NDArray[Any]]:
    """Channel ranges over all bins, from the states that `MaskPass` filled."""
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
