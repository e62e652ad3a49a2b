import math

import pytest
import torch

from paro_trt.calibration.inputs import HeadInputs
from paro_trt.calibration.statistics import (
    Tiling,
    block_statistics,
    sampled_query_blocks,
)

TILING = Tiling(block_q=16, block_k=8)


def random_sample(tokens: int, head_dim: int = 12, seed: int = 0) -> HeadInputs:
    generator = torch.Generator().manual_seed(seed)
    query, key, value = torch.randn(3, tokens, head_dim, generator=generator).unbind()
    return HeadInputs(query * 1.5 + 0.3, key + 0.7, value - 0.4, 1 / math.sqrt(head_dim))


def shuffled(tokens: int, seed: int = 1) -> torch.Tensor:
    return torch.randperm(tokens, generator=torch.Generator().manual_seed(seed))


class DenseOracle:
    """All of P in float64, block by block in Python loops."""

    def __init__(self, sample: HeadInputs, order: torch.Tensor, length: int):
        kept = order[:length]
        self.q, self.k, self.v = (x.double()[kept] for x in sample[:3])
        self.scale = sample.scale
        self.logits = self.q @ self.k.T * sample.scale
        self.lse = self.logits.logsumexp(1)
        self.p = self.logits.softmax(1)
        self.o = self.p @ self.v

    def block(self, rows: slice, columns: slice, run: int | None) -> tuple[float, float, float]:
        """Mass, error and empty share; `run` tokens have one summary token, none where None."""
        p, v, o = self.p[rows, columns], self.v[columns], self.o[rows]
        moved = torch.einsum("ij,ijd->id", p, v[None] - o[:, None])
        runs = zip(self.k[columns].split(run), v.split(run), strict=True) if run else ()
        for keys, values in runs:
            logit = self.scale * self.q[rows] @ keys.mean(0) + math.log(len(keys))
            summary = (logit - self.lse[rows]).exp()
            moved = moved - summary[:, None] * (values.mean(0) - o)
        return float(p.sum()), float(moved.square().sum()), float((p < 1e-3).double().mean())


@pytest.mark.parametrize("pooled", [False, True])
@pytest.mark.parametrize(("tokens", "length"), [(64, 64), (75, 75), (75, 61), (9, 9)])
def test_statistics_equal_a_dense_float64_computation(tokens, length, pooled):
    sample, order = random_sample(tokens), shuffled(tokens)
    padded = sample._replace(key_length=length)
    found = block_statistics(padded, order, TILING, pooled=pooled, fine=pooled, paper=True)
    oracle = DenseOracle(sample, order, length)
    for i in range(-(-length // TILING.block_q)):
        rows = slice(i * TILING.block_q, min((i + 1) * TILING.block_q, length))
        assert float(found.energy[i]) == pytest.approx(float(oracle.o[rows].square().sum()), 1e-5)
        for j in range(-(-tokens // TILING.block_k)):
            columns = slice(j * TILING.block_k, min((j + 1) * TILING.block_k, length))
            if columns.start >= length:
                assert found.mass[i, j] == found.error[i, j] == 0
                continue
            mass, error, empty = oracle.block(rows, columns, TILING.block_k if pooled else None)
            of_four = oracle.block(rows, columns, TILING.block_k // 4)[1] if pooled else 0.0
            assert float(found.mass[i, j]) == pytest.approx(mass, rel=1e-5)
            assert float(found.error[i, j]) == pytest.approx(error, rel=1e-3, abs=1e-9)
            assert float(found.fine_error[i, j]) == pytest.approx(of_four, rel=1e-3, abs=1e-9)
            assert float(found.empty_share[i, j]) == pytest.approx(empty)
            block = oracle.p[rows, columns]
            peak = float(block.max() / block.mean())
            assert float(found.peak_ratio[i, j]) == pytest.approx(peak, rel=1e-4)


def test_mass_of_a_query_block_is_its_rows_even_with_extreme_logits():
    sample = random_sample(70)
    extreme = sample._replace(query=sample.query * 200)
    found = block_statistics(extreme, shuffled(70), TILING, pooled=True)
    rows = torch.tensor([16.0, 16, 16, 16, 6])
    torch.testing.assert_close(found.mass.sum(1), rows, rtol=1e-5, atol=0)
    assert found.error.isfinite().all()


def test_pooling_loses_nothing_where_keys_and_values_are_constant_in_each_block():
    sample, order = random_sample(64), shuffled(64)
    key, value = torch.empty(64, 12), torch.empty(64, 12)
    key[order] = sample.key[::8].repeat_interleave(8, dim=0)
    value[order] = sample.value[::8].repeat_interleave(8, dim=0)
    constant = sample._replace(key=key, value=value)
    pooled = block_statistics(constant, order, TILING, pooled=True)
    dropped = block_statistics(constant, order, TILING, pooled=False)
    assert float(pooled.error.max()) < 1e-9
    assert float(dropped.error.min()) > 1e-4


def test_a_subset_of_query_blocks_gives_the_same_rows():
    sample, order = random_sample(100), shuffled(100)
    whole = block_statistics(sample, order, TILING, pooled=True, paper=True)
    part = block_statistics(sample, order, TILING, pooled=True, paper=True, query_blocks=(1, 6))
    for of_whole, of_part in zip(whole, part, strict=True):
        torch.testing.assert_close(of_whole[[1, 6]], of_part)


def test_a_subset_of_rows_is_the_sum_over_these_rows():
    sample, order = random_sample(40), shuffled(40)
    part = block_statistics(sample, order, TILING, pooled=True, rows_per_block=4)
    # Every fourth row of two whole query blocks, every second of the last, which has eight.
    rows = order[[0, 4, 8, 12, 16, 20, 24, 28, 32, 34, 36, 38]]
    one_by_one = torch.stack(
        [
            block_statistics(
                sample._replace(query=sample.query[row].expand(40, -1)),
                order,
                Tiling(1, TILING.block_k),
                pooled=True,
                query_blocks=(0,),
            ).error[0]
            for row in rows
        ]
    )
    torch.testing.assert_close(part.error, one_by_one.view(3, 4, -1).sum(1), rtol=1e-3, atol=1e-6)


def test_half_precision_inputs_are_computed_in_float32():
    sample = random_sample(64)
    half = HeadInputs(*(x.half() for x in sample[:3]), sample.scale)
    found = block_statistics(half, shuffled(64), TILING, pooled=False)
    expected = block_statistics(
        HeadInputs(*(x.float() for x in half[:3]), sample.scale), shuffled(64), TILING, pooled=False
    )
    for got, wanted in zip(found, expected, strict=True):
        assert got.dtype == torch.float32
        assert torch.equal(got, wanted)


@pytest.mark.parametrize(("total", "limit"), [(1, 4), (4, 4), (16, 5), (591, 16)])
def test_sampled_query_blocks_spread_over_the_sequence(total, limit):
    chosen = sampled_query_blocks(total, limit)
    assert len(set(chosen)) == min(total, limit)
    assert chosen[0] <= total / len(chosen)
    assert chosen[-1] >= total - 1 - total / len(chosen)
