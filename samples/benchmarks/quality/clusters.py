"""SVG-EAR, whose blocks are clusters of unequal size."""

from __future__ import annotations

import math
from functools import lru_cache
from typing import NamedTuple

import torch
from torch import Tensor

from paro_trt.calibration.inputs import HeadInputs
from paro_trt.op.spec import CORRECTION_ROWS

from .calibrated import Calibrated, block_means
from .sources import BLOCK_K, BLOCK_Q, LayerCall

CHOICE_COST = 2 / BLOCK_Q
"""Of SVG-EAR's choice in a call, as a share of dense attention, where clusters are kept from step
to step: the estimate attends every key with each query centroid, and one iteration of k-means
takes distances, half of that, for the queries and for the keys."""


class SvgEar:
    """SVG-EAR (arXiv 2603.08982): queries and keys are clustered; of (query cluster, key cluster)
    pairs those with most estimated error per cost are exact, and a key cluster's centroid takes
    the place of the others.

    The estimate takes each query cluster's centroid in place of its queries, against all keys.
    Clusters are found by k-means from the means of the blocks of a head's order, as many as there
    are blocks.
    """

    def __init__(self, calibrated: Calibrated, cost: float) -> None:
        self.calibrated, self.source = calibrated, calibrated.source
        self.keys = cost * calibrated.source.tokens

    def orders(self, call: LayerCall) -> list[Tensor]:
        """The order of each head, int64 [S]."""
        return [self.source.orders[name] for name in self.calibrated.orders(call.layer)]

    def attend(self, call: LayerCall) -> tuple[list[Tensor], float]:
        """Outputs [r, D] of the judged rows of each head, in its order, and the keys that such a
        query attends; all heads of a call share one budget."""
        found = _clusters(self.calibrated, call)
        # A pair costs its keys for each of its queries; exact, one key less is the summary.
        added = torch.stack([x.row_counts[:, None] * (x.key_counts - 1) for x in found]).double()
        errors = torch.stack([x.errors for x in found])
        ratio = (errors / added.clamp(min=0.5)).masked_fill(added <= 0, math.inf).flatten()
        taken = ratio.argsort(descending=True, stable=True)
        total = sum(len(x.query) for x in found)
        budget = (self.keys - len(found[0].key_counts)) * total
        taken = taken[added.flatten()[taken].cumsum(0) <= budget]
        exact = torch.zeros(added.numel(), dtype=torch.bool)
        exact[taken] = True
        keys = float(added.flatten()[taken].sum()) / total + len(found[0].key_counts)
        outputs = [x.output(mask) for x, mask in zip(found, exact.view(added.shape), strict=True)]
        return outputs, keys


@lru_cache(maxsize=2)
def _clusters(calibrated: Calibrated, call: LayerCall) -> list[_Clustered]:
    """Of each head; the same at every cost."""
    source, found = calibrated.source, []
    for head, name in enumerate(calibrated.orders(call.layer)):
        order = source.orders[name]
        rows = order.view(-1, CORRECTION_ROWS)[list(source.runs)].flatten()
        found.append(_Clustered.of(call.head(head), order, rows))
    return found


class _Clustered(NamedTuple):
    """One head: clusters of its judged queries and of its keys, and what they hold.

    query: [r, D], scaled; row_cluster: [r]; row_counts: [C]; key_cluster: [S]; key_counts: [C];
    key_mean, value_mean: [C, D]; errors: [C, C], estimates.
    """

    query: Tensor
    key: Tensor
    value: Tensor
    row_cluster: Tensor
    row_counts: Tensor
    key_cluster: Tensor
    key_counts: Tensor
    key_mean: Tensor
    value_mean: Tensor
    errors: Tensor

    @classmethod
    def of(cls, inputs: HeadInputs, order: Tensor, rows: Tensor) -> _Clustered:
        """Cluster a head and estimate the error of every pair."""
        centroids, cluster = k_means(inputs.query, block_means(inputs.query[order], BLOCK_Q))
        _, key_cluster = k_means(inputs.key, block_means(inputs.key[order], BLOCK_K))
        number = len(centroids)
        key_counts = torch.bincount(key_cluster, minlength=number)
        key_mean, value_mean = (
            _sums(x, key_cluster, number) / key_counts.clamp(min=1)[:, None]
            for x in (inputs.key, inputs.value)
        )
        row_cluster = cluster[rows]
        row_counts = torch.bincount(row_cluster, minlength=number)
        scaled = centroids * inputs.scale
        logits = scaled @ inputs.key.T
        lse = logits.logsumexp(dim=1, keepdim=True)
        weight = (logits - lse).exp()
        output = weight @ inputs.value
        summary = (scaled @ key_mean.T + key_counts.log() - lse).exp()
        errors = torch.zeros(number, number)
        for index in range(number):
            inside = key_cluster == index
            part = weight[:, inside] @ inputs.value[inside]
            part = part - summary[:, index, None] * value_mean[index]
            excess = weight[:, inside].sum(dim=1) - summary[:, index]
            errors[:, index] = (part - excess[:, None] * output).square().sum(dim=1)
        return cls(
            inputs.query[rows] * inputs.scale, inputs.key, inputs.value, row_cluster, row_counts,
            key_cluster, key_counts, key_mean, value_mean, errors * row_counts[:, None],
        )  # fmt: skip

    def output(self, exact: Tensor) -> Tensor:
        """[r, D] with the pairs bool [C, C] exact."""
        output = torch.empty_like(self.query)
        for index in self.row_cluster.unique().tolist():
            rows = self.row_cluster == index
            inside = exact[index][self.key_cluster]
            key = torch.cat([self.key[inside], self.key_mean[~exact[index]]])
            value = torch.cat([self.value[inside], self.value_mean[~exact[index]]])
            bias = self.key_counts[~exact[index]].log()
            logits = self.query[rows] @ key.T
            logits[:, len(logits.T) - len(bias) :] += bias
            output[rows] = logits.softmax(dim=1) @ value
        return output


def k_means(x: Tensor, centroids: Tensor, iterations: int = 6) -> tuple[Tensor, Tensor]:
    """Lloyd's iterations: centroids [C, D] and the cluster of each row of x, int64 [S]."""
    for _ in range(iterations):
        cluster = torch.cdist(x, centroids).argmin(dim=1)
        counts = torch.bincount(cluster, minlength=len(centroids))[:, None]
        means = _sums(x, cluster, len(centroids)) / counts.clamp(min=1)
        centroids = torch.where(counts > 0, means, centroids)
    return centroids, cluster


def _sums(x: Tensor, cluster: Tensor, number: int) -> Tensor:
    return x.new_zeros(number, x.shape[1]).index_add_(0, cluster, x)
