"""The quality benchmark: its attention and block errors are the op's, choices keep to a budget."""

import pytest
import torch

from paro_trt.calibration.inputs import HeadInputs
from paro_trt.calibration.orders import visual_order
from paro_trt.calibration.statistics import Tiling, block_statistics
from paro_trt.op.api import paro_attention
from paro_trt.op.mask import pack_block_mask, tile_order
from paro_trt.plan import Grid
from samples.benchmarks.quality.blocks import KEYS, Choice, Kind, attend, block_errors, terms
from samples.benchmarks.quality.masks import nearest_blocks, window_distance
from samples.benchmarks.quality.selection import cheapest_exact, cheapest_kinds
from samples.benchmarks.quality.videos import (
    chosen_attention,
)


def random_head(tokens: int = 512, channels: int = 64) -> HeadInputs:
    query, key, value = torch.randn(3, tokens, channels) + 0.3
    return HeadInputs(2 * query, key, value, channels**-0.5)


@pytest.mark.parametrize("corrected", [False, True])
@pytest.mark.parametrize("pooled", [False, True])
def test_attention_is_the_op_s(corrected: bool, pooled: bool) -> None:
    inputs, order = random_head(), torch.randperm(512)
    kinds = torch.randint(1, 4, (8, 8), dtype=torch.uint8)
    kinds[:, 0] = Kind.EXACT
    if not pooled:
        kinds[kinds != Kind.EXACT] = Kind.DROPPED
    choice = Choice("", kinds, corrected)
    found = terms(inputs, order, (0, 1, 2, 3))

    output = attend(found, [choice, Choice("", torch.full_like(kinds, 3))])

    exact, fine = (
        torch.from_numpy(pack_block_mask((kinds == kind).numpy()[None, None]))
        for kind in (Kind.EXACT, Kind.FINE)
    )
    zero = torch.zeros(1, dtype=torch.int32)
    query, key, value = (x[None, :, None] for x in inputs[:3])
    affine = torch.tensor([0.0, 1.0, 0.0, 1.0])[:, None, None].expand(4, 1, 64).contiguous()
    expected = paro_attention(
        query, key, value, order.int()[None], zero, exact,
        torch.from_numpy(tile_order(exact.numpy())), affine, zero, zero + 512,
        fine if pooled else None, zero + 1 if corrected else None,
        block_q=64, block_k=64, qk_bits=16, pv_bits=16, pool_dropped=pooled,
    )[0, order, 0]  # fmt: skip
    torch.testing.assert_close(output[0].flatten(0, 1), expected, atol=2e-5, rtol=1e-4)
    torch.testing.assert_close(output[1], found.dense, atol=2e-5, rtol=1e-4)
    gathered = chosen_attention(inputs, order, choice)
    torch.testing.assert_close(gathered, expected, atol=2e-5, rtol=1e-4)


def test_errors_of_blocks_are_calibration_s() -> None:
    inputs, order = random_head(), torch.randperm(512)
    found = block_errors(terms(inputs, order, (0, 2)))
    judged = [0, 1, 4, 5]
    for pooled, error in ((True, found.coarse), (False, found.dropped)):
        expected = block_statistics(inputs, order, Tiling(64, 64), pooled=pooled)
        torch.testing.assert_close(error, expected.error[judged], atol=1e-4, rtol=1e-3)
        torch.testing.assert_close(found.mass, expected.mass[judged], atol=1e-4, rtol=1e-3)
        torch.testing.assert_close(found.energy, expected.energy[judged], atol=1e-3, rtol=1e-4)
    assert float(found.fine.sum()) < float(found.coarse.sum()) < float(found.dropped.sum())
    assert float(found.corrected_coarse.sum()) < float(found.coarse.sum())


class TestSelection:
    FORCED = torch.eye(8, dtype=torch.bool)[:, :8]

    @pytest.mark.parametrize("keys", [90.0, 200.0, 511.0])
    def test_the_budget_is_met_and_forced_blocks_are_exact(self, keys: float) -> None:
        coarse = torch.rand(3, 8, 8)
        kinds = cheapest_kinds(coarse, coarse * torch.rand(3, 8, 8), self.FORCED, keys)
        assert bool((kinds[:, self.FORCED] == Kind.EXACT).all())
        used = float(KEYS[kinds.long()].sum() / 24)
        assert keys - 63 / 24 < used <= keys

    def test_fine_blocks_leave_less_error_than_none_at_the_same_budget(self) -> None:
        coarse = torch.rand(1, 8, 8).square()
        fine = coarse * 0.3
        left = []
        for option in (None, fine):
            kinds = cheapest_kinds(coarse, option, self.FORCED, 150.0)
            of_kind = torch.stack([coarse, coarse, fine, torch.zeros_like(coarse)])
            left.append(float(of_kind.gather(0, kinds[None].long()).sum()))
        assert left[1] < left[0]

    def test_a_block_whose_summaries_do_not_help_is_never_fine(self) -> None:
        coarse = torch.rand(1, 8, 8) + 0.5
        kinds = cheapest_kinds(coarse, coarse.clone(), self.FORCED, 250.0)
        # The last block may have been cut between its two steps.
        assert int((kinds == Kind.FINE).sum()) <= 1

    def test_less_than_the_forced_blocks_is_no_choice(self) -> None:
        assert cheapest_kinds(torch.rand(1, 8, 8), None, self.FORCED, 70.0) is None
        assert cheapest_exact(torch.rand(1, 8, 8), self.FORCED, 63.0) is None

    def test_exact_blocks_are_the_largest(self) -> None:
        error = torch.rand(2, 8, 8)
        kinds = cheapest_exact(error, self.FORCED, 192.0)
        assert int((kinds == Kind.EXACT).sum()) == 48
        free = ~self.FORCED.expand_as(error)
        assert error[free & (kinds == Kind.EXACT)].min() > error[kinds == Kind.DROPPED].max()


@pytest.mark.parametrize("density", [0.1, 0.3, 1.0])
def test_nearest_blocks_are_as_many_in_each_row(density: float) -> None:
    distance = torch.rand(16, 32)
    mask = nearest_blocks(distance, density)
    assert int(mask.sum()) == int(density * 512 + 1e-9)
    assert int(mask.sum(dim=1).max() - mask.sum(dim=1).min()) <= 1
    assert bool(
        (distance.masked_fill(~mask, -1).amax(1) < distance.masked_fill(mask, 2).amin(1)).all()
    )


def test_window_is_a_box_around_the_query() -> None:
    grid = Grid(4, 16, 16)
    order = torch.from_numpy(visual_order(grid, "tile4x4x4")).long()
    distance = window_distance(grid, order, Tiling(64, 64), (1.0, 1.0, 1.0))
    centre = 1 * 4 + 1  # tile row 1, column 1 of 4 x 4 tiles
    kept = nearest_blocks(distance, 9 / 16)[centre].nonzero().flatten().tolist()
    assert kept == [0, 1, 2, 4, 5, 6, 8, 9, 10]
