"""Size of a Wan 720p plan's masks on disk, under several encodings.

    python samples/benchmarks/plan_size.py [--heads 40]

Masks are synthetic. Per head, a smooth random field on the 21 x 45 x 80 token grid of 1280 x 720
video (random length scales along each axis, sharpness and token noise) gives queries and keys;
attention between strided samples of each block, under the axis order that keeps most mass, scores
the blocks; the best of them stay. The second bin is the same field, drifted and sharpened. Sizes
are of one layer, times 40 layers. "random bits" is the worst case: below its entropy nothing can
be compressed.
"""

from __future__ import annotations

import argparse
import itertools
import lzma
import time
from collections.abc import Callable

import numpy as np
import zstandard

from paro_trt.calibration.select_mask import block_budget
from paro_trt.op.mask import pack_block_mask
from paro_trt.op.spec import block_count
from paro_trt.plan.mask_codec import decode_mask, encode_mask

GRID = (21, 45, 80)
TOKENS = int(np.prod(GRID))
HEAD_DIM = 64
BLOCK_Q, BLOCK_K = 128, 64
QUERY_BLOCKS, KEY_BLOCKS = block_count(TOKENS, BLOCK_Q), block_count(TOKENS, BLOCK_K)
LAYERS, HEADS = 40, 40
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


def head_scores(seed: int, noise: float) -> np.ndarray:
    """Block scores of one head in two bins: [2, NQ, NK]."""
    rng = np.random.default_rng(seed)
    scales = np.exp(rng.uniform(np.log(2), np.log(20), 3))
    sharpness = np.exp(rng.uniform(np.log(0.6), np.log(2)))
    early, other = smooth_field(rng, scales), smooth_field(rng, scales)
    late = np.sqrt(1 - DRIFT) * early + np.sqrt(DRIFT) * other
    ids = np.arange(TOKENS).reshape(GRID)
    orders = [ids.transpose(axes).ravel() for axes in itertools.permutations(range(3))]

    def kept(order: np.ndarray) -> float:
        coarse = block_mass(
            sharpness * block_samples(early, order, BLOCK_Q, 2),
            block_samples(early, order, BLOCK_K, 2),
        ).ravel()
        best = int(0.275 * coarse.size)
        return float(np.partition(coarse, -best)[-best:].sum())

    order = max(orders, key=kept)
    scores = []
    for field, gain in ((early, sharpness), (late, 1.3 * sharpness)):
        query = block_samples(field, order, BLOCK_Q, SAMPLES)
        key = block_samples(field, order, BLOCK_K, SAMPLES)
        # A block's sum averages its tokens' noise, so the samples of a block share what is left.
        query = query + noise / BLOCK_Q**0.5 * rng.standard_normal((len(query), 1, HEAD_DIM))
        key = key + noise / BLOCK_K**0.5 * rng.standard_normal((len(key), 1, HEAD_DIM))
        scores.append(block_mass(np.float32(gain * query), np.float32(key)))
    return np.stack(scores)


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
    heads = parser.parse_args().heads
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
