"""Thread blocks of two query blocks of 64 rows: what they load. Tests of all kernels hold what they
compute."""

from __future__ import annotations

import ctypes
import itertools
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from paro_trt.op import native
from paro_trt.op.mask import pack_block_mask
from paro_trt.op.spec import AttentionConfig
from tests.support.cases import OpCase, random_inputs

from .kernel_library import link_with_kernels

_COUNTER = """#include "emulator/stats.h"
extern "C" uint64_t copies() { return paro::emulator::stats().async_copies; }
extern "C" uint64_t bulk_copies() { return paro::emulator::stats().bulk_loads; }
extern "C" void reset_copies() { paro::emulator::reset_stats(); }
"""
BLOCK = 64
HEAD_DIM = 64
SPAN_COPIES = 2 * BLOCK * HEAD_DIM // 16 + 2
"""Of a span of 8 bits: 16 bytes each of keys and values, and two scales."""

SPAN_BULK_COPIES = 2
"""Of a span of the wgmma kernels: keys and values."""

MMA, HOPPER = 80, 90


class Counter:
    """A library whose copies from global to shared memory are counted."""

    def __init__(self, path: Path) -> None:
        self.library = native.NativeLibrary(path)
        self._counts = ctypes.CDLL(str(path))
        self._counts.copies.restype = self._counts.bulk_copies.restype = ctypes.c_uint64

    def spans(self, mask: NDArray[np.bool_], block_q: int, sm: int) -> float:
        """That stage 2 loads for a mask [NQ, NK] of one head: what a call without a listed block
        copies is left out."""
        case = OpCase(
            "pairs", mask.shape[1] * BLOCK, heads=1, kv_heads=1, head_dim=HEAD_DIM,
            dtype=torch.float16, config=AttentionConfig(block_q, BLOCK, 8, 8),
        )  # fmt: skip
        inputs = random_inputs(case, 0)
        count, of_span = self._counts.copies, SPAN_COPIES
        if sm == HOPPER:
            count, of_span = self._counts.bulk_copies, SPAN_BULK_COPIES
        copies = []
        for listed in (mask, np.zeros_like(mask)):
            words = torch.from_numpy(pack_block_mask(listed[None, None]))
            self._counts.reset_copies()
            self.library.forward(inputs._replace(block_mask=words), case.config, sm=sm)
            copies.append(count())
        return (copies[0] - copies[1]) / of_span


@pytest.fixture(scope="module")
def counter(tmp_path_factory: pytest.TempPathFactory) -> Counter:
    folder = tmp_path_factory.mktemp("counter")
    unit = folder / "counter.cpp"
    unit.write_text(_COUNTER)
    link_with_kernels(unit, folder / "counter.so")
    return Counter(folder / "counter.so")


def union(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Of each two query blocks; the last may be alone."""
    alone = np.zeros((len(mask) % 2, mask.shape[1]), bool)
    pairs = np.concatenate([mask, alone]).reshape(-1, 2, mask.shape[1])
    return pairs.any(axis=1)


@pytest.mark.parametrize("query_blocks", [6, 7])
@pytest.mark.parametrize("sm", [MMA, HOPPER])
def test_each_span_of_two_query_blocks_is_loaded_once(query_blocks, sm, counter, fresh_seed):
    mask = np.random.default_rng(fresh_seed).random((query_blocks, query_blocks)) < 0.4
    assert counter.spans(mask, 64, sm) == union(mask).sum()


@pytest.mark.parametrize("sm", [MMA, HOPPER])
def test_a_tile_of_one_query_block_loads_its_own_spans(sm, counter, fresh_seed):
    mask = np.random.default_rng(fresh_seed).random((3, 6)) < 0.4
    assert counter.spans(mask, 128, sm) == mask.sum()


GRID = (21, 30, 52)
"""Of Wan at 480p, in tokens."""

SAMPLED_ROWS = 128


def neighbouring_masks(seed: int, density: float = 0.2) -> dict[int, NDArray[np.bool_]]:
    """Masks of 64 and of 128 rows of one head, as in samples/benchmarks/plan_size.py.

    Queries and keys are one smooth random field on the grid of a video: cosines whose inner
    products decay over 2 to 20 tokens along each axis, of random sharpness. The order of the axes
    is the one that keeps most attention. Some tokens of each block, each with the mean of its
    block's noise, give a block's share of attention; a row keeps the blocks with the largest
    shares. Only some consecutive rows are drawn.
    """
    rng = np.random.default_rng(seed)
    scales = np.exp(rng.uniform(np.log(2), np.log(20), 3))
    sharpness = np.exp(rng.uniform(np.log(0.6), np.log(2)))
    place = np.stack(np.meshgrid(*map(np.arange, GRID), indexing="ij"), -1).reshape(-1, 3)
    angle = place @ (rng.standard_normal((3, HEAD_DIM)) / scales[:, None])
    field = np.sqrt(2) * np.cos(angle + rng.uniform(0, 2 * np.pi, HEAD_DIM)).astype(np.float32)
    ids = np.arange(len(field)).reshape(GRID)
    orders = [ids.transpose(axes).reshape(-1) for axes in itertools.permutations(range(3))]

    def mass(order: NDArray[np.int64], samples: int, noise: float) -> NDArray[np.float32]:
        blocks = len(field) // BLOCK
        tokens = order[: blocks * BLOCK].reshape(blocks, samples, -1)[:, :, 0]
        query, key = (
            field[tokens] + noise / BLOCK**0.5 * rng.standard_normal((blocks, 1, HEAD_DIM))
            for _ in range(2)
        )
        return _mass(np.float32(sharpness * query[:SAMPLED_ROWS]), np.float32(key))

    def kept(order: NDArray[np.int64]) -> float:
        coarse = mass(order, 2, 0.0)
        return float((coarse * _largest(coarse, density)).sum())

    of_64 = mass(max(orders, key=kept), 8, 0.5)
    return {64: _largest(of_64, density), 128: _largest(of_64[::2] + of_64[1::2], density)}


def _mass(query: NDArray[np.float32], key: NDArray[np.float32]) -> NDArray[np.float32]:
    """Softmax mass of each key block for each query block, from samples [blocks, n, D]."""
    logits = query.reshape(-1, HEAD_DIM) @ key.reshape(-1, HEAD_DIM).T / HEAD_DIM**0.5
    shares = np.exp(logits - logits.max(axis=1, keepdims=True))
    shares /= shares.sum(axis=1, keepdims=True)
    return shares.reshape(*query.shape[:2], *key.shape[:2]).sum(axis=(1, 3))


def _largest(mass: NDArray[np.float32], density: float) -> NDArray[np.bool_]:
    mask = np.zeros(mass.shape, bool)
    kept = np.argsort(-mass, axis=1)[:, : round(density * mass.shape[1])]
    np.put_along_axis(mask, kept, True, axis=1)
    return mask


def traffic(masks: dict[int, NDArray[np.bool_]]) -> float:
    """Bytes loaded for each exact block of 64 rows, of those that 128 rows load."""
    of_64 = union(masks[64]).sum() / masks[64].sum()
    return float(of_64 / (masks[128].sum() / (2 * masks[128].sum())))


@pytest.mark.long
def test_neighbouring_rows_load_at_most_1_35_of_128_rows(fresh_seed):
    """Prints the mean of some heads (-s). Alone, a query block of 64 rows would load twice as much;
    rows without anything in common, 1.8 times."""
    heads = [traffic(neighbouring_masks(fresh_seed + head)) for head in range(8)]
    print(*(f"{each:.2f}" for each in sorted(heads)), f"mean {np.mean(heads):.3f}")
    assert np.mean(heads) <= 1.35
