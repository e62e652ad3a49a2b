"""An independent float64 oracle: dense S x S matrices, masks expanded, nothing shared with op/."""

from __future__ import annotations

import numpy as np

LEVELS = {8: 127.0, 4: 7.0}


def fake_quantize(x: np.ndarray, bits: int, axes: tuple[int, ...]) -> np.ndarray:
    """x after symmetric quantization with one scale over `axes` (FP32 in, float64 out)."""
    if bits == 16:
        return x.astype(np.float64)
    x = x.astype(np.float32)
    peak = np.abs(x).max(axis=axes, keepdims=True)
    factor = np.divide(np.float32(LEVELS[bits]), peak, where=peak > 0, out=np.zeros_like(peak))
    codes = np.rint(x * factor).astype(np.float64)
    return codes * (peak / np.float32(LEVELS[bits])).astype(np.float64)


def oracle(inputs, config) -> np.ndarray:
    """PAROAttention [B,S,H,D] in float64, one head at a time, by the definition."""
    query, key, value = (t.float().numpy() for t in inputs[:3])
    order_table, head_order, words = (t.numpy() for t in inputs[3:6])
    affine = inputs.channel_affine.numpy()
    batch, _, heads, channels = query.shape
    block_q, block_k = config.block_q, config.block_k
    scale = config.scale or channels**-0.5
    mean_bits = 8 if config.smoothing else config.qk_bits
    out = np.zeros(query.shape)
    for b in range(batch):
        length = int(inputs.key_length[b])
        mask_bin = int(np.clip(int(inputs.mask_bin[b]), 0, words.shape[0] - 1))
        for h in range(heads):
            kv = h * key.shape[2] // heads
            order = order_table[head_order[h]][:length]
            m, e, n, c = affine[:, kv]
            q, k, v = query[b, order, h], key[b, order, kv], value[b, order, kv]
            if config.qk_bits < 16:
                q, k = q * e, (k - m) * (np.float32(1) / e)
            signs = None
            if config.smoothing and inputs.rotation[kv, 0] != 0:
                signs = np.where(inputs.rotation[kv].numpy() < 0, -1.0, 1.0).astype(np.float32)
            q, k = _rotated(q, signs), _rotated(k, signs)
            if config.pv_bits < 16:
                v = (v - n) * (np.float32(1) / c)
            block_of = np.arange(length) // block_k
            used = -(-length // block_k)
            kq, vq = np.zeros(k.shape), np.zeros(v.shape)
            for j in range(used):
                rows = block_of == j
                if not config.smoothing:
                    kq[rows] = fake_quantize(k[rows], config.qk_bits, (0, 1))
                vq[rows] = fake_quantize(
                    v[rows], config.pv_bits, (0,) if config.pv_bits == 4 else (0, 1)
                )
            qq = fake_quantize(q, mean_bits, (1,))
            means = [_ordered_mean(k[block_of == j], block_k) for j in range(used)]
            vmeans = [_ordered_mean(v[block_of == j], block_k) for j in range(used)]
            fine = _fine_groups(k, v, used, config) if config.fine_summaries else {}

            def attend(x, groups, c=c, n=n):
                row = _row(x, groups, scale, config)
                return row * c + n if groups and config.pv_bits < 16 else row

            every = [(kq[block_of == j], vq[block_of == j], 0.0) for j in range(used)]
            if config.smoothing:
                every = [
                    (_SmoothedKeys(k[block_of == j], means, j, config), *every[j][1:])
                    for j in range(used)
                ]
            for block in range(-(-length // block_q)):
                rows = range(block * block_q, min((block + 1) * block_q, length))
                listed = _bits(words[mask_bin, h, block], used)
                if config.routing:
                    count = int(inputs.dynamic_blocks[mask_bin, h])
                    raw = [t[b, order].astype(np.float32) for t in (key[:, :, kv], value[:, :, kv])]
                    listed |= _routed(query[b, order, h], *raw, rows, listed, count, scale, config,
                                      inputs.query.dtype)  # fmt: skip
                groups = [every[j] for j in sorted(listed)]
                apart = set(listed)
                if config.fine_summaries:
                    bits = _bits(inputs.fine_mask.numpy()[mask_bin, h, block], used) - listed
                    chosen = [fine[j] for j in sorted(bits)]
                    groups += [_step(chosen[x : x + 16]) for x in range(0, len(chosen), 16)]
                    apart |= bits
                if config.pool_dropped:
                    groups += _summaries(means, vmeans, apart, block_of, config)
                delta = 0.0
                if config.mean_correction and inputs.corrected_heads[h] and groups:
                    start = rows[0] // 128 * 128
                    mean = _mean(query[b, order, h][start : min(start + 128, length)])
                    mean = mean * e if config.qk_bits < 16 else mean
                    mean = _rotated(mean[None], signs)
                    mean = fake_quantize(mean, mean_bits, (1,))[0]
                    delta = attend(mean, every) - attend(mean, groups)
                for i in rows:
                    row = qq[i]
                    if config.smoothing:
                        own = query[b, order[rows], h]
                        row = _SmoothedRow(row, q[i], own, e, signs, config, inputs.query.dtype)
                    out[b, order[i], h] = attend(row, groups) + delta
    return out


def _bits(words, blocks) -> set[int]:
    return {j for j in range(blocks) if words[j // 32] >> (j % 32) & 1}


def _fine_groups(k, v, used, config):
    """By key block: four summaries with the scales of their group, and their numbers of tokens."""
    run, value_bits = config.block_k // 4, max(config.pv_bits, 8)
    groups = {}
    for j in range(used):
        parts = [slice(j * config.block_k + x * run, j * config.block_k + (x + 1) * run)
                 for x in range(4)]  # fmt: skip
        parts = [part for part in parts if len(k[part])]
        bits = 8 if config.smoothing else config.qk_bits
        keys = fake_quantize(
            np.stack([_ordered_mean(k[part], run) for part in parts]), bits, (0, 1)
        )
        means = np.stack([_ordered_mean(v[part], run) for part in parts])
        values = fake_quantize(means, value_bits, (0, 1))
        value_scale = np.abs(means).max() / np.float32(LEVELS[8])
        groups[j] = keys, values, np.log([len(k[part]) for part in parts]), value_scale
    return groups


def _step(groups):
    """One entry of `_row` of up to 16 groups, with the scale of the values of each key."""
    keys, values, counts = (np.concatenate([g[x] for g in groups]) for x in range(3))
    scales = np.concatenate([np.full(len(g[0]), g[3]) for g in groups])
    return keys, values, counts, scales


def _routed(q, k, v, rows, listed, count, scale, config, dtype) -> set[int]:
    """The blocks of one query block that routing adds, by the definition."""
    import torch

    def means(x, run):
        parts = [x[start : start + run] for start in range(0, len(x), run)]
        mean = torch.from_numpy(np.stack([_mean(part) for part in parts])).to(dtype)
        return mean.double().numpy(), np.array([len(part) for part in parts])

    ks, n = means(k, 16)
    vs, _ = means(v, 16)
    kb, nb = means(k, config.block_k)
    vb, _ = means(v, config.block_k)
    block_of = np.arange(len(ks)) * 16 // config.block_k
    scores = np.zeros(len(kb))
    for a in means(q[rows[0] : rows[-1] + 1], 16)[0]:
        logits = scale * ks @ a + np.log(n)
        lse = np.log(np.exp(logits - logits.max()).sum()) + logits.max()
        w = np.exp(logits - lse)
        o = w @ vs
        for j in range(len(kb)):
            inside = block_of == j
            c = np.exp(scale * kb[j] @ a + np.log(nb[j]) - lse) if config.pool_dropped else 0.0
            left = w[inside] @ vs[inside] - c * vb[j] - (w[inside].sum() - c) * o
            scores[j] += left @ left
    free = [j for j in range(len(kb)) if j not in listed]
    return set(sorted(free, key=lambda j: (-scores[j], j))[:count])


def _mean(x: np.ndarray) -> np.ndarray:
    return x.astype(np.float64).mean(axis=0).astype(np.float32)


def _ordered_mean(x: np.ndarray, run: int) -> np.ndarray:
    """The mean of rows, summed in FP32 in the order of the contract: 4-bit codes depend on it."""
    rows = np.zeros((run, x.shape[1]), np.float32)
    rows[: len(x)] = x
    while len(rows) > 1:
        rows = rows[: len(rows) // 2] + rows[len(rows) // 2 :]
    return rows[0] / np.float32(len(x))


def _summaries(means, vmeans, listed, block_of, config):
    groups = []
    for start in range(0, len(means), config.block_k):
        members = range(start, min(start + config.block_k, len(means)))
        bits = 8 if config.smoothing else config.qk_bits
        k = fake_quantize(np.stack([means[j] for j in members]), bits, (0, 1))
        axes = (0,) if config.pv_bits == 4 else (0, 1)
        v = fake_quantize(np.stack([vmeans[j] for j in members]), config.pv_bits, axes)
        kept = [x for x, j in enumerate(members) if j not in listed]
        if kept:
            counts = [np.sum(block_of == members[x]) for x in kept]
            groups.append((k[kept], v[kept], np.log(counts)))
    return groups


def _rotated(x: np.ndarray, signs) -> np.ndarray:
    """x [rows, D] times signs and a Hadamard matrix: FP32 sums of neighbours, stacked."""
    if signs is None:
        return x
    channels = x.shape[1]
    parts = (x * signs)[:, :, None].astype(np.float32)
    while parts.shape[1] > 1:
        even, odd = parts[:, ::2], parts[:, 1::2]
        parts = np.concatenate([even + odd, even - odd], axis=2)
    return parts[:, 0] * np.float32(channels**-0.5)


class _SmoothedRow:
    """A query row: with the mean of its block, and what is left of it at 4 bits."""

    def __init__(self, eight, row, block, e, signs, config, dtype):
        import torch

        mean = _ordered_mean(block.astype(np.float32), config.block_q) * e
        mean = torch.from_numpy(_rotated(mean[None], signs)[0])
        limit = torch.finfo(dtype).max
        self.mean = mean.clamp(-limit, limit).to(dtype).float().numpy()
        self.eight = eight
        self.left = fake_quantize((row - self.mean)[None], 4, (1,))[0]
        self.shape = row.shape

    def __len__(self):
        return len(self.eight)


class _SmoothedKeys:
    """The keys of block j less their mean: each with a 4-bit scale of its own, and at 8 bits."""

    def __init__(self, keys, means, j, config):
        import torch

        left = keys - means[j]
        peak = np.abs(left).max(axis=1, keepdims=True)
        scale = torch.from_numpy(peak / np.float32(7)).bfloat16().float().numpy()
        factor = np.divide(np.float32(1), scale, where=scale > 0, out=np.zeros_like(scale))
        self.four = np.clip(np.rint(left * factor), -7, 7).astype(np.float64) * scale
        self.eight = fake_quantize(left, 8, (0, 1))
        start = j // config.block_k * config.block_k
        group = np.stack(means[start : start + config.block_k])
        self.mean = fake_quantize(group, 8, (0, 1))[j - start]

    def __len__(self):
        return len(self.four)


def _dot(keys, q) -> np.ndarray:
    if isinstance(q, _SmoothedRow):
        if isinstance(keys, _SmoothedKeys):
            return keys.four @ q.left + keys.eight @ q.mean.astype(np.float64) + keys.mean @ q.eight
        return keys @ q.eight
    return keys.eight @ q + keys.mean @ q if isinstance(keys, _SmoothedKeys) else keys @ q


def _row(q, groups, scale, config):
    if not groups:
        return np.zeros(len(q))
    logits = [_dot(k, q) * scale + bias for k, _, bias, *_ in groups]
    top = max(x.max() for x in logits)
    total, weight_sum = np.zeros(len(q)), 0.0
    for x, (_, v, _, *scales) in zip(logits, groups, strict=True):
        p = np.exp(x - x.max())
        if scales and config.pv_bits < 16:
            # Values carry their scales here, so a share that went into the codes comes out again.
            share = scales[0] / np.float32(scales[0].max() or 1)
            codes = np.rint(p * share * 255) / 255
            p_values = np.divide(codes, share, where=share > 0, out=np.zeros_like(codes))
            weight = np.exp(x.max() - top)
            total, weight_sum = total + p_values * weight @ v, weight_sum + p.sum() * weight
            continue
        if config.pv_bits < 16:
            levels = {8: 255, 4: 15}[config.pv_bits]
            p = np.rint(p * levels) / levels
        p = p * np.exp(x.max() - top)
        total, weight_sum = total + p @ v, weight_sum + p.sum()
    return total / weight_sum
