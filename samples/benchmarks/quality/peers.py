"""Policies of other projects, re-implemented from their papers and descriptions.

Each chooses at run time, in blocks of 64 x 64 tokens and in the orders of our heads, which is
generous to those that have none; `SlidingWindows` is calibrated. Their own work to choose is not
counted. What decides how much is exact (a threshold, tau, top-cdf) is set for each call so that
the budget is met.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from paro_trt.calibration.inputs import HeadInputs
from paro_trt.calibration.statistics import Tiling
from paro_trt.op.spec import block_count
from paro_trt.plan import KeyCost

from .blocks import Choice, Kind, attend
from .calibrated import DEFAULT_TILING, Calibrated, block_means
from .masks import band_distance, nearest_blocks, window_distance
from .selection import cheapest_exact, cheapest_kinds
from .sources import BLOCK_K, BLOCK_Q, LayerCall, Source


class _RunTime:
    """A policy that chooses blocks of a call.

    Args:
        calibrated: of the source, for its orders.
        cost: keys that a query attends, summaries included, as a share of S.
    """

    def __init__(self, calibrated: Calibrated, cost: float) -> None:
        self.calibrated, self.source = calibrated, calibrated.source
        self.cost, self.keys = cost, cost * calibrated.source.tokens

    def means(self, call: LayerCall) -> tuple[Tensor, Tensor]:
        """Means of the judged query blocks [H, n, D] and of the key blocks [H, NK, D]."""
        orders = self.calibrated.orders(call.layer)
        heads = [self.source.orders[name] for name in orders]
        query = [block_means(call.query[order, h], BLOCK_Q) for h, order in enumerate(heads)]
        key = [block_means(call.key[order, h], BLOCK_K) for h, order in enumerate(heads)]
        return torch.stack(query)[:, self.source.query_blocks()], torch.stack(key)

    def choices(self, call: LayerCall, kinds: Tensor | None) -> list[Choice] | None:
        """Of kinds [H, n, NK] in the heads' orders."""
        if kinds is None:
            return None
        orders = self.calibrated.orders(call.layer)
        return [Choice(order, head) for order, head in zip(orders, kinds, strict=True)]


class SolAttn(_RunTime):
    """Sol-Attn (arXiv 2607.24027), comfy-kitchen: blocks whose pooled score, averaged over the
    query block, exceeds mean + tau * std of its row are exact, the others one summary each."""

    def choose(self, call: LayerCall) -> list[Choice] | None:
        """tau is the same for all heads of the call."""
        query, key = self.means(call)
        score = query @ key.transpose(1, 2) * call.scale
        score = score - score.mean(dim=2, keepdim=True)
        score = score / score.std(dim=2, keepdim=True).clamp(min=1e-12)
        above = score - score.min()
        return self.choices(
            call, cheapest_kinds(above, None, self.source.forced(BLOCK_Q), self.keys)
        )


class SolAttnCorrected(SolAttn):
    """Sol-Attn with the mean correction in every head, which its blocks pay for: what the
    correction alone is worth."""

    def __init__(self, calibrated: Calibrated, cost: float) -> None:
        super().__init__(calibrated, cost)
        tokens = self.source.tokens
        self.key_cost = KeyCost(tokens, BLOCK_Q, BLOCK_K)
        self.keys = (self.keys - self.key_cost.correction(0.0, 1)) / (1.0 + 1.0 / BLOCK_Q)

    def choose(self, call: LayerCall) -> list[Choice] | None:
        """The blocks of Sol-Attn."""
        choices = super().choose(call)
        return choices and [
            choice._replace(corrected=True, extra=self.key_cost.correction(choice.keys, 1))
            for choice in choices
        ]


class SpargeAttn(_RunTime):
    """SpargeAttn (arXiv 2502.18137): of each row the blocks that hold the first of the softmax
    over block means; query and key blocks whose tokens are unlike each other are exact whatever
    they score; the others vanish.

    The share of the budget that may go to such blocks is the better of two on a validation
    capture, as the paper tunes its thresholds.
    """

    GATED_SHARES = (0.0, 0.25)

    def __init__(self, calibrated: Calibrated, cost: float) -> None:
        super().__init__(calibrated, cost)
        self._shares: dict[tuple[int, int], float] = {}

    def choose(self, call: LayerCall) -> list[Choice] | None:
        """The choice of each head."""
        layer = (call.layer, call.half)
        if layer not in self._shares:
            self._shares[layer] = self._tuned(call.layer, call.half)
        return self._with_share(call, self._shares[layer])

    def _tuned(self, layer: int, half: int) -> float:
        (call,) = self.calibrated.validation_calls(layer, half)
        losses = []
        for share in self.GATED_SHARES:
            loss = 0.0
            for head, choice in enumerate(self._with_share(call, share) or []):
                found = self.calibrated.validation_terms(call, head)
                loss += float((attend(found, [choice])[0] - found.dense).square().sum())
            losses.append(loss)
        return self.GATED_SHARES[losses.index(min(losses))]

    def _with_share(self, call: LayerCall, share: float) -> list[Choice] | None:
        query, key = self.means(call)
        weight = (query @ key.transpose(1, 2) * call.scale).softmax(dim=2)
        ranked, index = weight.sort(dim=2, descending=True)
        before = torch.zeros_like(weight).scatter(2, index, ranked.cumsum(dim=2) - ranked)
        score = (1.0 - before).masked_fill(self._unlike(call, share), math.inf)
        nothing = torch.zeros(score.shape[1:], dtype=torch.bool)
        return self.choices(call, cheapest_exact(score, nothing, self.keys))

    def _unlike(self, call: LayerCall, share: float) -> Tensor:
        """bool [H, n, NK]: rows and columns of the blocks least like themselves."""
        blocks = self.source.query_blocks()
        masks = []
        for head, name in enumerate(self.calibrated.orders(call.layer)):
            order = self.source.orders[name]
            rows = self_similarity(call.query[order, head], BLOCK_Q)[blocks]
            columns = self_similarity(call.key[order, head], BLOCK_K)
            allowed = share * self.cost * len(rows) * len(columns)
            mask = torch.zeros(len(rows), len(columns), dtype=torch.bool)
            for index in torch.cat([rows, columns]).argsort().tolist():
                grown = mask.clone()
                grown[index if index < len(rows) else slice(None),
                      slice(None) if index < len(rows) else index - len(rows)] = True  # fmt: skip
                if int(grown.sum()) > allowed:
                    break
                mask = grown
            masks.append(mask)
        return torch.stack(masks)


def self_similarity(x: Tensor, block: int) -> Tensor:
    """Mean cosine between the tokens of each block: [S, D] -> [S / block]."""
    unit = torch.nn.functional.normalize(x, dim=1).unflatten(0, (-1, block))
    return unit.mean(dim=1).square().sum(dim=1)


class SpatialTemporal(_RunTime):
    """Sparse VideoGen (arXiv 2502.01776): each head attends a band in frame-major or in
    place-major order, whichever is nearer to dense attention on a few random queries."""

    PROBED_ROWS = 64
    ORDERS = ("fhw", "hwf")

    def __init__(self, calibrated: Calibrated, cost: float) -> None:
        super().__init__(calibrated, cost)
        source = self.source
        distance = band_distance(source.tokens, Tiling(BLOCK_Q, BLOCK_K))
        distance = with_text_first(distance, source)
        self.mask = nearest_blocks(distance, cost)

    def choose(self, call: LayerCall) -> list[Choice] | None:
        """The choice of each head; None: the grid has one frame."""
        if any(name not in self.source.orders for name in self.ORDERS):
            return None
        kinds = self.mask[self.source.query_blocks()].to(torch.uint8) * int(Kind.EXACT)
        return [Choice(self._better(call, call.head(head)), kinds) for head in range(call.heads)]

    def _better(self, call: LayerCall, inputs: HeadInputs) -> str:
        tokens = len(inputs.query)
        generator = torch.Generator().manual_seed(call.layer)
        probed = torch.randperm(tokens, generator=generator)[: self.PROBED_ROWS]
        logits = inputs.query[probed] @ inputs.key.T * inputs.scale
        dense = logits.softmax(dim=1) @ inputs.value
        errors = []
        for name in self.ORDERS:
            block = self.source.orders[name].argsort()
            visible = self.mask[block[probed] // BLOCK_Q][:, block // BLOCK_K]
            masked = logits.masked_fill(~visible, -math.inf).softmax(dim=1) @ inputs.value
            errors.append(float((masked - dense).square().sum()))
        return self.ORDERS[errors.index(min(errors))]


def with_text_first(distance: Tensor, source: Source) -> Tensor:
    """A distance [NQ, NK] in which the blocks of text keys, at the end, come first."""
    if source.text.count:
        distance[:, -block_count(source.text.count, BLOCK_K) :] = -1.0
    return distance


class SlidingWindows(_RunTime):
    """Sliding Tile Attention (arXiv 2502.04507): each head has the tile and the 3-D window that
    lose least on calibration captures."""

    ASPECTS = ((1, 1, 1), (1, 2, 2), (2, 1, 1), (4, 1, 1), (1, 4, 4), (2, 2, 1), (2, 1, 2))
    """Sides of windows in tokens relative to each other: frames, rows, columns."""

    def __init__(self, calibrated: Calibrated, cost: float) -> None:
        super().__init__(calibrated, cost)
        self._windows: dict[tuple[str, tuple[float, float, float]], Tensor] = {}
        self._found: dict[int, list[tuple[str, tuple[float, float, float]]]] = {}

    def choose(self, call: LayerCall) -> list[Choice]:
        """The choice of each head."""
        if call.layer not in self._found:
            self._found[call.layer] = [self._best(call.layer, head) for head in range(call.heads)]
        blocks = self.source.query_blocks(DEFAULT_TILING.block_q)
        width = DEFAULT_TILING.block_q // BLOCK_Q
        return [
            Choice(
                key[0],
                self._window(*key)[blocks].repeat_interleave(width, 0).to(torch.uint8)
                * int(Kind.EXACT),
            )
            for key in self._found[call.layer]
        ]

    def _best(self, layer: int, head: int) -> tuple[str, tuple[float, float, float]]:
        rows = list(self.calibrated.sampled_blocks)
        losses = {}
        for name in self.source.orders:
            if name.startswith("tile"):
                errors = self.calibrated.sampled_errors(layer, head, name)
                for aspect in self.ASPECTS:
                    kept = self._window(name, aspect)[rows]
                    losses[name, aspect] = float(errors[~kept].sum())
        return min(losses, key=losses.__getitem__)

    def _window(self, order: str, aspect: tuple[float, float, float]) -> Tensor:
        """bool [NQ, NK] of blocks of 128 rows."""
        key = (order, aspect)
        if key not in self._windows:
            source = self.source
            distance = window_distance(source.grid, source.orders[order], DEFAULT_TILING, aspect)
            self._windows[key] = nearest_blocks(with_text_first(distance, source), self.cost)
        return self._windows[key]
