"""Size of a Wan 720p plan's masks on disk, under several encodings.

    python samples/benchmarks/plan_size.py [--heads 40]
    python samples/benchmarks/plan_size.py --mix --heads 2

Masks are synthetic. Per head, a smooth random field on the 21 x 45 x 80 token grid of 1280 x 720
video (random length scales along each axis, sharpness and token noise) gives queries and keys;
attention between strided samples of each block, under the axis order that keeps most mass, scores
the blocks; the best of them stay. The second bin is the same field, drifted and sharpened. Sizes
are of one layer, times 40 layers. "random bits" is the worst case: below its entropy nothing can
be compressed.

With --mix: exact, fine and coarse blocks at a cost, of 64 x 64 tokens each, chosen by what a
calibration computes of fields with noise in every token, for some neighbouring query blocks.
"""

from __future__ import annotations

import argparse
import itertools
import lzma
import time
from collections.abc import Callable

import numpy as np
import torch
import zstandard

from paro_trt.calibration.inputs import HeadInputs
from paro_trt.calibration.select_mask import block_budget, forced_blocks
from paro_trt.calibration.select_mix import BlockErrors, best_mix, smooth_mix
from paro_trt.calibration.statistics import Tiling, block_statistics
from paro_trt.op.mask import pack_block_mask
from paro_trt.op.spec import block_count
from paro_trt.plan import TextLayout
from paro_trt.plan.mask_codec import decode_mask, encode_fine_mask, encode_mask

GRID = (21, 45, 80)
TOKENS = int(np.prod(GRID))
HEAD_DIM = 64
BLOCK_Q, BLOCK_K = 128, 64
QUERY_BLOCKS, KEY_BLOCKS = block_count(TOKENS, BLOCK_Q), block_count(TOKENS, BLOCK_K)
LAYERS, HEADS = 40, 40
MIX_TILING = Tiling(64, 64)
SAMPLES = 8
DRIFT = 0.1


def smooth_field(rng: np.random.Generator, scales: np.ndarray) -> np.ndarray:
    """Random cosine features whose inner products decay over `scales` tokens: [S, D]."""
    axes = np.meshgrid(*map(np.arange, GRID), indexing="ij")
    position = np.stack(axes, -1).reshape(-1, 3).astype(np.float32)
    frequency = rng.standard_normal((3, HEAD_DIM)) / scales[:, None]
    phase = rng.uniform(0, 2 * np.pi, HEAD_DIM)
    return np.sqrt(2) * np.cos(position @ frequency.astype(np.float32) + phase.astype(np.float32))


def block_samples(field: np.ndarray, order: np.ndarray, block: int, count: int) -> np.ndarray:
    """`count` strided tokens of each block: [blocks, count, D]."""
    start = np.arange(block_count(TOKENS, block))[:, None] * block
    index = np.minimum(start + np.arange(count) * block // count, TOKENS - 1)
    return field[order[index]]


def block_mass(query: np.ndarray, key: np.ndarray) -> np.ndarray:
    """Softmax mass of each block from samples [NQ, n, D] and [NK, n, D]: [NQ, NK]."""
    logits = query.reshape(-1, HEAD_DIM) @ key.reshape(-1, HEAD_DIM).T / np.sqrt(HEAD_DIM)
    logits -= logits.max(1, keepdims=True)
    probability = np.exp(logits, out=logits)
    probability /= probability.sum(1, keepdims=True)
    shape = (*query.shape[:2], *key.shape[:2])
    return probability.reshape(shape).sum((1, 3))


def best_order(field: np.ndarray, sharpness: float) -> np.ndarray:
    """The axis order that keeps most mass: [S]."""
    ids = np.arange(TOKENS).reshape(GRID)
    orders = [ids.transpose(axes).ravel() for axes in itertools.permutations(range(3))]

    def kept(order: np.ndarray) -> float:
        coarse = block_mass(
            sharpness * block_samples(field, order, BLOCK_Q, 2),
            block_samples(field, order, BLOCK_K, 2),
        ).ravel()
        best = int(0.275 * coarse.size)
        return float(np.partition(coarse, -best)[-best:].sum())

    return max(orders, key=kept)


def head_scores(seed: int, noise: float) -> np.ndarray:
    """Block scores of one head in two bins: [2, NQ, NK]."""
    rng = np.random.default_rng(seed)
    scales = np.exp(rng.uniform(np.log(2), np.log(20), 3))
    sharpness = np.exp(rng.uniform(np.log(0.6), np.log(2)))
    early, other = smooth_field(rng, scales), smooth_field(rng, scales)
    late = np.sqrt(1 - DRIFT) * early + np.sqrt(DRIFT) * other
    order = best_order(early, sharpness)
    scores = []
    for field, gain in ((early, sharpness), (late, 1.3 * sharpness)):
        query = block_samples(field, order, BLOCK_Q, SAMPLES)
        key = block_samples(field, order, BLOCK_K, SAMPLES)
        # A block's sum averages its tokens' noise, so the samples of a block share what is left.
        query = query + noise / BLOCK_Q**0.5 * rng.standard_normal((len(query), 1, HEAD_DIM))
        key = key + noise / BLOCK_K**0.5 * rng.standard_normal((len(key), 1, HEAD_DIM))
        scores.append(block_mass(np.float32(gain * query), np.float32(key)))
    return np.stack(scores)


def head_errors(seed: int, noise: float, rows: range) -> tuple[np.ndarray, np.ndarray]:
    """Errors of coarse and of fine blocks of one head in two bins, as shares of the head's: [2, n,
    NK] for n query blocks of 64 tokens."""
    rng = np.random.default_rng(seed)
    scales = np.exp(rng.uniform(np.log(2), np.log(20), 3))
    sharpness = np.exp(rng.uniform(np.log(0.6), np.log(2)))
    early, other, value = (smooth_field(rng, scales) for _ in range(3))
    late = np.sqrt(1 - DRIFT) * early + np.sqrt(DRIFT) * other
    order = torch.from_numpy(best_order(early, sharpness))
    found = []
    for field, gain in ((early, sharpness), (late, 1.3 * sharpness)):
        tensors = [
            torch.from_numpy(np.float32(part + noise * rng.standard_normal(part.shape)))
            for part in (field, field, value)
        ]
        inputs = HeadInputs(gain * tensors[0], *tensors[1:], HEAD_DIM**-0.5)
        found.append(
            block_statistics(inputs, order, MIX_TILING, pooled=True, fine=True, query_blocks=rows)
        )
    errors, fine_errors = (
        torch.stack([getattr(of_bin, name) for of_bin in found]).numpy()
        for name in ("error", "fine_error")
    )
    return errors / errors.sum(), fine_errors / errors.sum()


def print_mix(heads: int, rows: range) -> None:
    """A Markdown table of the planes of a mix, MB of 10^6 bytes for 40 layers of 40 heads, and of
    the error that it leaves by the sum over its blocks."""
    found = [head_errors(seed, 0.5, rows) for seed in range(heads)]
    error, fine_error = (np.stack(parts, 1) for parts in zip(*found, strict=True))
    forced = forced_blocks(TOKENS, TextLayout(), MIX_TILING)[list(rows)]
    query_blocks = block_count(TOKENS, MIX_TILING.block_q)
    scale = LAYERS * HEADS / heads * query_blocks / len(rows) / 1e6
    least = {}
    print("| bins | cost | choice | exact | fine | exact plane | fine plane | error |")
    print("|---|---|---|---|---|---|---|---|")
    for bins, cost in itertools.product((2, 1), (0.3, 0.2, 0.1)):
        # One bin's masks serve both halves of the schedule.
        errors = [x if bins == 2 else x.mean(axis=0, keepdims=True) for x in (error, fine_error)]
        budget = block_budget(cost, bins * heads * len(rows) * TOKENS)
        for choose in (best_mix, smooth_mix):
            mix = choose(BlockErrors(*errors, forced, MIX_TILING.block_k), budget)
            left = np.where(mix.exact, 0, np.where(mix.fine, fine_error, error)).sum()
            if (bins, choose) == (2, best_mix):
                least[cost] = left
            exact, fine = pack_block_mask(mix.exact), pack_block_mask(mix.fine)
            streams = encode_mask(exact), encode_fine_mask(fine, exact, KEY_BLOCKS)
            cells = (
                f"{bins}", f"{cost:.1f}", choose.__name__, f"{mix.exact.mean():.3f}",
                f"{mix.fine.mean():.3f}", *(f"{len(stream) * scale:.1f}" for stream in streams),
                f"{100 * ((left / least[cost]) ** 0.5 - 1):+.1f} %",
            )  # fmt: skip
            print("| " + " | ".join(cells) + " |", flush=True)


def keep_best(scores: np.ndarray, density: float) -> np.ndarray:
    """The share `density` of blocks with the best scores in each bin, and the diagonal."""
    flat = scores.reshape(len(scores), -1)
    best = block_budget(density, flat.shape[1])
    threshold = np.partition(flat, -best, axis=1)[:, -best, None, None]
    rows, columns = np.arange(QUERY_BLOCKS)[:, None], np.arange(KEY_BLOCKS)[None]
    return (scores >= threshold) | (columns * BLOCK_K // BLOCK_Q == rows)


def xor_previous(mask: np.ndarray, axis: int) -> np.ndarray:
    """Each slice along `axis` XOR the slice before it."""
    result = np.moveaxis(mask.copy(), axis, 0)
    result[1:] ^= np.moveaxis(mask, axis, 0)[:-1]
    return np.moveaxis(result, 0, axis)


def run_lengths(mask: np.ndarray) -> bytes:
    """Lengths of the runs of equal bits, a byte each; 255 adds and continues."""
    edges = np.flatnonzero(np.diff(mask.ravel().view(np.int8), prepend=0))
    lengths = np.diff(edges, prepend=0)
    whole, rest = np.divmod(lengths, 255)
    out = np.full(int((whole + 1).sum()), 255, np.uint8)
    out[np.cumsum(whole + 1) - 1] = rest
    return out.tobytes()


def words(mask: np.ndarray) -> bytes:
    """Packed mask words, as the op takes them."""
    return pack_block_mask(mask).tobytes()


def zstd(data: bytes) -> bytes:
    """Zstandard, level 19."""
    return zstandard.ZstdCompressor(level=19).compress(data)


def lzma2(data: bytes) -> bytes:
    """LZMA2 with the library's default settings."""
    return lzma.compress(data, lzma.FORMAT_RAW, filters=[{"id": lzma.FILTER_LZMA2, "preset": 6}])


ENCODINGS: dict[str, Callable[[np.ndarray], bytes]] = {
    "packed words": words,
    "words, zstd": lambda m: zstd(words(m)),
    "XOR previous bin, zstd": lambda m: zstd(words(xor_previous(m, 0))),
    "XOR previous row, zstd": lambda m: zstd(words(xor_previous(m, 2))),
    "XOR bin and row, zstd": lambda m: zstd(words(xor_previous(xor_previous(m, 0), 2))),
    "bit transpose, zstd": lambda m: zstd(words(np.ascontiguousarray(m.swapaxes(2, 3)))),
    "run lengths, zstd": lambda m: zstd(run_lengths(m)),
    "words, LZMA2 defaults": lambda m: lzma2(words(m)),
    "XOR previous bin, LZMA2 defaults": lambda m: lzma2(words(xor_previous(m, 0))),
    "run lengths, LZMA2 defaults": lambda m: lzma2(run_lengths(m)),
    "format version 1": lambda m: encode_mask(pack_block_mask(m)),
}


def main() -> None:
    """Print a Markdown table, MB of 10^6 bytes for 40 layers of 40 heads."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--heads", type=int, default=HEADS, help="heads to synthesize")
    parser.add_argument("--mix", action="store_true", help="exact, fine and coarse blocks")
    parser.add_argument("--rows", type=int, default=96, help="query blocks of a mix")
    arguments = parser.parse_args()
    heads = arguments.heads
    if arguments.mix:
        print_mix(heads, range(500, 500 + arguments.rows))
        return
    smooth = [head_scores(seed, noise=0.5) for seed in range(heads)]
    noisy = [head_scores(seed, noise=2.0) for seed in range(heads)]
    rng = np.random.default_rng(0)
    random_scores = rng.random((2, QUERY_BLOCKS, KEY_BLOCKS))
    scenarios = {
        "smooth .25": np.stack([keep_best(s, 0.25) for s in smooth], 1),
        "smooth .30": np.stack([keep_best(s, 0.30) for s in smooth], 1),
        "noisy .25": np.stack([keep_best(s, 0.25) for s in noisy], 1),
        "random bits .25": keep_best(random_scores, 0.25)[:, None],
    }
    print("| encoding | " + " | ".join(scenarios) + " |")
    print("|---|" + "---|" * len(scenarios))
    for name, encode in ENCODINGS.items():
        sizes = (len(encode(m)) / m.shape[1] * LAYERS * HEADS / 1e6 for m in scenarios.values())
        print(f"| {name} | " + " | ".join(f"{size:.1f}" for size in sizes) + " |", flush=True)

    mask = pack_block_mask(scenarios["smooth .25"])
    per_plan = LAYERS * HEADS / mask.shape[1]
    start = time.process_time()
    stream = encode_mask(mask)
    middle = time.process_time()
    decode_mask("block_mask", stream, mask.shape)
    end = time.process_time()
    print(
        f"processor time, smooth .25, 40 x 40 heads: encode {(middle - start) * per_plan:.0f} s, "
        f"decode {(end - middle) * per_plan:.1f} s"
    )


if __name__ == "__main__":
    main()
