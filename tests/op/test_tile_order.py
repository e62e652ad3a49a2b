"""The schedule: what it is, and what it does to L2 and to balance in a model of a GPU."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
import torch

from paro_trt.op.mask import SHARED_TAIL, pack_block_mask, tile_order
from paro_trt.op.reference import paro_attention_reference
from tests.op.schedule_model import OVERHEAD_STEPS, Gpu, Layer, run, uneven_mask
from tests.support.cases import OpCase, random_inputs

# Datasheets. A thread block of the wgmma kernels fills an SM of H200; of the others two do.
H200 = Gpu("H200", 132, 50 << 20)
A100 = Gpu("A100", 2 * 108, 40 << 20)
RTX_4090 = Gpu("RTX 4090", 2 * 128, 72 << 20)

COGVIDEOX = Layer("CogVideoX-5B", 17_776, 48, 64)
WAN_480P = Layer("Wan 14B 480p", 32_760, 40, 128)
WAN_720P = Layer("Wan 14B 720p", 75_600, 40, 128)


def random_mask(seed: int, heads: int = 3, query_blocks: int = 600) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return rng.random((2, heads, query_blocks, 40)) < rng.random((2, heads, query_blocks, 1))


def test_heads_come_one_after_the_other_and_share_the_tail(fresh_seed):
    mask = random_mask(fresh_seed)
    counts = mask.sum(-1).reshape(2, -1)
    for row, count in zip(tile_order(pack_block_mask(mask)), counts, strict=True):
        np.testing.assert_array_equal(np.sort(row), np.arange(1800))
        body, tail = row[:-SHARED_TAIL], row[-SHARED_TAIL:]
        assert (np.diff(body // 600) >= 0).all()
        for part in (*(body[body // 600 == head] for head in range(3)), tail):
            assert (np.diff(count[part]) <= 0).all()
        assert count[body].min() >= count[tail].max()


def test_few_tiles_are_longest_first_and_stable():
    mask = np.zeros((1, 2, 3, 40), bool)
    for head, block, count in ((0, 0, 1), (0, 1, 5), (0, 2, 40), (1, 0, 5), (1, 1, 2), (1, 2, 1)):
        mask[0, head, block, :count] = True
    assert tile_order(pack_block_mask(mask)).tolist() == [[2, 1, 3, 4, 0, 5]]


def test_equal_rows_keep_their_natural_order():
    words = pack_block_mask(np.ones((1, 3, 600, 40), bool))
    np.testing.assert_array_equal(tile_order(words), np.arange(1800)[None])


def test_it_does_not_change_the_result(fresh_seed):
    case = OpCase("scheduled", 331)
    inputs = random_inputs(case, fresh_seed)
    reversed_schedule = inputs._replace(tile_order=inputs.tile_order.flip(1))
    assert torch.equal(
        paro_attention_reference(inputs, case.config),
        paro_attention_reference(reversed_schedule, case.config),
    )


@dataclass(frozen=True)
class Run:
    """hits: of a layer's steps at a density, at least. makespan: of the ideal, at most; the last
    thread blocks end half a shortest tile apart, which is more of a call that is short."""

    layer: Layer
    density: float
    gpu: Gpu
    hits: float
    makespan: float


RUNS = [
    *(Run(COGVIDEOX, 0.25, gpu, hits=0.93, makespan=1.012) for gpu in (H200, A100, RTX_4090)),
    *(Run(WAN_480P, 0.25, gpu, hits=0.945, makespan=1.006) for gpu in (H200, A100, RTX_4090)),
    *(Run(WAN_720P, 0.1, gpu, hits=0.945, makespan=1.004) for gpu in (H200, A100, RTX_4090)),
]


@pytest.mark.parametrize(
    "case", RUNS, ids=lambda r: f"{r.layer.name}-{r.gpu.name}".replace(" ", "-")
)
def test_uneven_rows_hit_l2_and_are_balanced(case, fresh_seed):
    """Rows are drawn anew each time; the bounds leave room for that. Prints what it finds (-s)."""
    mask = uneven_mask(case.layer, case.density, fresh_seed)
    found = run(mask, tile_order(pack_block_mask(mask))[0], case.layer, case.gpu)
    print(case.layer.name, case.gpu.name, case.density, found, sep=" | ")
    assert found.hits >= case.hits
    assert found.makespan <= case.makespan


@pytest.mark.parametrize("case", [RUNS[1], RUNS[3]], ids=["CogVideoX-A100", "Wan-480p-H200"])
def test_longest_first_across_heads_misses_l2(case, fresh_seed):
    """Such an order is as balanced, but reads most keys and values from memory."""
    mask = uneven_mask(case.layer, case.density, fresh_seed)
    longest_first = np.argsort(-mask.sum(-1).reshape(-1), kind="stable").astype(np.int32)
    found = run(mask, longest_first, case.layer, case.gpu)
    print(case.layer.name, case.gpu.name, case.density, found, sep=" | ")
    assert found.hits < case.hits - 0.25
    assert found.makespan <= case.makespan


def test_heads_without_a_shared_tail_are_unbalanced(fresh_seed):
    mask = uneven_mask(COGVIDEOX, 0.25, fresh_seed)
    counts = mask.sum(-1).reshape(-1)
    heads = np.arange(len(counts)) // COGVIDEOX.query_blocks
    separate = run(mask, np.lexsort((-counts, heads)).astype(np.int32), COGVIDEOX, RTX_4090)
    shared = run(mask, tile_order(pack_block_mask(mask))[0], COGVIDEOX, RTX_4090)
    assert separate.hits >= shared.hits
    assert separate.makespan > shared.makespan


def test_the_model_counts_what_a_small_cache_holds():
    """Two heads of two rows on one slot: each row reads all four blocks of its head."""
    layer = Layer("two heads", 256, 2, 64)
    mask = np.ones((1, 2, 2, 4), bool)
    whole_head, half = (Gpu("one slot", 1, blocks * layer.block_bytes) for blocks in (4, 2))
    by_head, interleaved = np.array([0, 1, 2, 3]), np.array([0, 2, 1, 3])
    assert run(mask, by_head, layer, whole_head).hits == 0.5
    assert run(mask, interleaved, layer, whole_head).hits == 0.0
    assert run(mask, by_head, layer, half).hits == 0.0


def test_the_model_counts_idle_slots():
    """Rows of 10, 10 and 40 blocks on two slots: one slot is idle while the last long row runs."""
    layer = Layer("uneven", 3200, 1, 64)
    mask = np.zeros((1, 1, 25, 50), bool)
    for row, count in enumerate((10, 10, 40)):
        mask[0, 0, row, :count] = True
    mask, two = mask[:, :, :3], Gpu("two slots", 2, 1 << 20)
    longest_first, shortest_first = np.array([2, 0, 1]), np.array([0, 1, 2])
    ideal = (10 + 10 + 40 + 3 * OVERHEAD_STEPS) / 2
    assert run(mask, longest_first, layer, two).makespan == (40 + OVERHEAD_STEPS) / ideal
    assert run(mask, shortest_first, layer, two).makespan == (50 + 2 * OVERHEAD_STEPS) / ideal
