import math

import numpy as np
import pytest
import torch

from paro_trt.calibration.inputs import HeadInputs
from paro_trt.calibration.orders import candidate_orders
from paro_trt.calibration.select_mask import MaskTarget, forced_blocks
from paro_trt.calibration.select_order import OrderMetric, choose_orders, order_terms
from paro_trt.calibration.statistics import BlockStatistics, Tiling, block_statistics
from paro_trt.plan import Grid, TextLayout

GRID, TILING = Grid(8, 8, 8), Tiling(16, 8)
NAMES = ("fhw", "fwh", "hfw", "hwf", "wfh", "whf")


def local_head(lengths: tuple[float, float, float], seed: int) -> HeadInputs:
    """A head whose attention reaches far along the axes with a long length, smoothly."""
    generator = torch.Generator().manual_seed(seed)
    places = torch.stack(
        torch.meshgrid(*(torch.arange(8.0) for _ in range(3)), indexing="ij"), -1
    ).view(-1, 3)
    frequencies = torch.randn(3, 64, generator=generator) / torch.tensor(lengths)[:, None]
    phases = torch.rand(64, generator=generator) * 2 * math.pi
    features = math.sqrt(2) * torch.cos(places @ frequencies + phases)
    value = torch.randn(512, 64, generator=generator) + 0.5
    return HeadInputs(features * 2, features, value, 1 / 8)


def terms_of(sample: HeadInputs, target: MaskTarget, metric: OrderMetric) -> np.ndarray:
    forced = torch.from_numpy(forced_blocks(512, TextLayout(), TILING))
    rows = []
    for candidate in candidate_orders(GRID, TextLayout(), NAMES):
        order = torch.from_numpy(candidate.permutation).long()
        statistics = block_statistics(sample, order, TILING, pooled=False, paper=True)
        rows.append(order_terms(statistics, forced, target, metric))
    return np.array(rows)[:, None]


@pytest.mark.parametrize("metric", list(OrderMetric))
@pytest.mark.parametrize("target", [MaskTarget(density=0.25), MaskTarget(mass=0.9)])
@pytest.mark.parametrize("long_axis", [0, 1, 2])
def test_the_order_that_makes_the_heads_attention_block_wise_is_chosen(metric, target, long_axis):
    lengths = [0.7, 0.7, 0.7]
    lengths[long_axis] = 30.0
    terms = terms_of(local_head(tuple(lengths), seed=long_axis), target, metric)
    chosen = NAMES[int(choose_orders(terms, metric, 1)[0])]
    assert chosen[-1] == "fhw"[long_axis]


def test_output_error_term_is_what_the_best_mask_leaves_out():
    error = torch.tensor([[4.0, 1.0, 9.0, 2.0], [3.0, 5.0, 0.5, 7.0]])
    statistics = BlockStatistics(error, error, error, torch.tensor([6.0, 4.0]), error, error)
    forced = torch.tensor([[False, True, False, False], [False, False, True, False]])
    cost, _ = order_terms(statistics, forced, MaskTarget(density=0.5), OrderMetric.OUTPUT_ERROR)
    # Four of eight stay: the forced 1 and .5, then 9 and 7; 2, 3, 4 and 5 go.
    assert cost == pytest.approx(14 / 10)


def test_orders_are_compared_at_the_masks_budget():
    """Of 100 blocks the density 0.29 keeps 29, as a mask does: 71 are left out."""
    ones = torch.ones(10, 10)
    statistics = BlockStatistics(ones, ones, ones, torch.ones(10), ones, ones)
    forced = torch.zeros(10, 10, dtype=torch.bool)
    cost, _ = order_terms(statistics, forced, MaskTarget(density=0.29), OrderMetric.MASS)
    assert cost == 71.0


def test_mass_target_counts_the_blocks_needed():
    mass = torch.tensor([[4.0, 1.0, 9.0, 2.0], [3.0, 5.0, 0.5, 7.0]])
    statistics = BlockStatistics(mass, mass, mass, torch.ones(2), mass, mass)
    forced = torch.zeros(2, 4, dtype=torch.bool)
    forced[0, 1] = True
    needed = [
        order_terms(statistics, forced, MaskTarget(mass=wanted), OrderMetric.MASS)[0]
        for wanted in (0.5 / 31.5, 9.5 / 31.5, 17.5 / 31.5, 1.0)
    ]
    assert needed == [1 / 8, 2 / 8, 4 / 8, 8 / 8]


def test_heads_of_a_group_share_the_order_that_suits_their_sum():
    costs = np.array([[1.0, 9.0, 2.0, 2.0], [3.0, 3.0, 5.0, 1.0], [9.0, 1.0, 2.0, 3.0]])
    terms = np.stack([costs, np.zeros_like(costs)], axis=-1)
    assert choose_orders(terms, OrderMetric.MASS, 1).tolist() == [0, 2, 0, 1]
    assert choose_orders(terms, OrderMetric.MASS, 2).tolist() == [1, 1, 0, 0]


def test_paper_metric_prefers_sparse_blocks_and_flat_ones():
    sparse_and_peak = np.array([[0.2, 8.0], [0.8, 8.0], [0.8, 4.0]])
    assert choose_orders(sparse_and_peak[:, None], OrderMetric.PAPER, 1).tolist() == [2]
    assert choose_orders(sparse_and_peak[:2, None], OrderMetric.PAPER, 1).tolist() == [1]
