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
            fine = _fine_groups(k, v, used, config) if config.fine_summaries else {}

            def attend(x, groups, c=c, n=n):
                row = _row(x, groups, scale, config)
                return row * c + n if groups and config.pv_bits < 16 else row

            every = [(kq[block_of == j], vq[block_of == j], 0.0) for j in range(used)]
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
                    mean = fake_quantize(mean[None], config.qk_bits, (1,))[0]
                    delta = attend(mean, every) - attend(mean, groups)
                for i in rows:
                    out[b, order[i], h] = attend(qq[i], groups) + delta
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
        keys = fake_quantize(np.stack([_mean(k[part]) for part in parts]), config.qk_bits, (0, 1))
        means = np.stack([_mean(v[part]) for part in parts])
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
    logits = [k @ q * scale + bias for k, _, bias, *_ in groups]
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
