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
    batch, tokens, heads, channels = query.shape
    block_q, block_k = config.block_q, config.block_k
    key_blocks = -(-tokens // block_k)
    scale = config.scale or channels**-0.5
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
            if config.pv_bits < 16:
                v = (v - n) * (np.float32(1) / c)
            block_of = np.arange(length) // block_k
            used = -(-length // block_k)
            kq, vq = np.zeros(k.shape), np.zeros(v.shape)
            for j in range(used):
                rows = block_of == j
                kq[rows] = fake_quantize(k[rows], config.qk_bits, (0, 1))
                vq[rows] = fake_quantize(
                    v[rows], config.pv_bits, (0,) if config.pv_bits == 4 else (0, 1)
                )
            qq = fake_quantize(q, config.qk_bits, (1,))
            means = [_mean(k[block_of == j]) for j in range(used)]
            vmeans = [_mean(v[block_of == j]) for j in range(used)]
            for i in range(length):
                row = words[mask_bin, h, i // block_q]
                listed = [j for j in range(key_blocks) if row[j // 32] >> (j % 32) & 1]
                groups = [(kq[block_of == j], vq[block_of == j], 0.0) for j in listed if j < used]
                if config.pool_dropped:
                    groups += _summaries(means, vmeans, listed, block_of, config)
                out[b, order[i], h] = _row(qq[i], groups, scale, config)
                if groups and config.pv_bits < 16:
                    out[b, order[i], h] = out[b, order[i], h] * c + n
    return out


def _mean(x: np.ndarray) -> np.ndarray:
    return x.astype(np.float64).mean(axis=0).astype(np.float32)


def _summaries(means, vmeans, listed, block_of, config):
    groups = []
    for start in range(0, len(means), config.block_k):
        members = range(start, min(start + config.block_k, len(means)))
        k = fake_quantize(np.stack([means[j] for j in members]), config.qk_bits, (0, 1))
        axes = (0,) if config.pv_bits == 4 else (0, 1)
        v = fake_quantize(np.stack([vmeans[j] for j in members]), config.pv_bits, axes)
        kept = [x for x, j in enumerate(members) if j not in listed]
        if kept:
            counts = [np.sum(block_of == members[x]) for x in kept]
            groups.append((k[kept], v[kept], np.log(counts)))
    return groups


def _row(q, groups, scale, config):
    if not groups:
        return np.zeros(len(q))
    logits = [k @ q * scale + bias for k, _, bias in groups]
    top = max(x.max() for x in logits)
    total, weight_sum = np.zeros(len(q)), 0.0
    for x, (_, v, _) in zip(logits, groups, strict=True):
        p = np.exp(x - x.max())
        if config.pv_bits < 16:
            levels = {8: 255, 4: 15}[config.pv_bits]
            p = np.rint(p * levels) / levels
        p = p * np.exp(x.max() - top)
        total, weight_sum = total + p @ v, weight_sum + p.sum()
    return total / weight_sum
