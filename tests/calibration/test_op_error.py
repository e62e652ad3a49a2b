"""The op on a few query blocks equals the whole op there, with all of version 2."""

import pytest
import torch

from paro_trt.calibration.inputs import HeadInputs
from paro_trt.calibration.op_error import HeadExtras, PlannedHead, attended_rows, identity_affine
from paro_trt.op.api import paro_attention
from paro_trt.op.mask import pack_block_mask, tile_order
from paro_trt.op.spec import AttentionConfig

TOKENS, CHANNELS = 600, 16
EXTRAS = {
    "version 1": (False, 0, False),
    "fine": (True, 0, False),
    "dynamic": (False, 2, False),
    "corrected": (False, 0, True),
    "all": (True, 2, True),
    "smoothed": (False, 0, False),
    "smoothed, all": (True, 2, True),
}


@pytest.mark.parametrize("block_q", [64, 128])
@pytest.mark.parametrize("length", [TOKENS, 517])
@pytest.mark.parametrize("name", EXTRAS)
def test_rows_of_the_whole_op(name, length, block_q):
    generator = torch.Generator().manual_seed(7)
    query, key, value = (torch.randn(TOKENS, CHANNELS, generator=generator) for _ in range(3))
    order = torch.randperm(length, generator=generator)
    order = torch.cat([order, torch.arange(length, TOKENS)])
    shape = (-(-TOKENS // block_q), -(-TOKENS // 64))
    exact = torch.rand(shape, generator=generator) < 0.3
    exact[:, 2] = True
    fine = torch.rand(shape, generator=generator) < 0.5
    has_fine, dynamic, corrected = EXTRAS[name]
    signs, qk_bits = None, 16
    if "smoothed" in name:
        drawn = torch.randint(0, 2, (CHANNELS,), generator=generator)
        signs, qk_bits = (drawn * 2 - 1).int(), 4
    words = pack_block_mask(exact.numpy())[None, None]
    whole = paro_attention(
        query[None, :, None], key[None, :, None], value[None, :, None],
        order[None].int(), torch.zeros(1, dtype=torch.int32), torch.from_numpy(words),
        torch.from_numpy(tile_order(words)),
        torch.tensor([0.0, 1, 0, 1])[:, None, None].expand(4, 1, CHANNELS).contiguous(),
        torch.zeros(1, dtype=torch.int32), torch.tensor([length], dtype=torch.int32),
        torch.from_numpy(pack_block_mask(fine.numpy())[None, None]) if has_fine else None,
        torch.ones(1, dtype=torch.int32) if corrected else None,
        torch.tensor([[dynamic]], dtype=torch.int32) if dynamic else None,
        None if signs is None else signs[None], scale=0.25, block_q=block_q, block_k=64,
        qk_bits=qk_bits, pv_bits=16, pool_dropped=True,
    )[0, :, 0]  # fmt: skip
    blocks = (0, 3, (length - 1) // block_q)
    found = attended_rows(
        HeadInputs(query, key, value, 0.25, length),
        PlannedHead(
            order, exact, identity_affine(CHANNELS, query.device),
            *HeadExtras(fine if has_fine else None, dynamic, corrected), signs,
        ),
        AttentionConfig(
            block_q, 64, qk_bits, 16, pool_dropped=True, smoothing=signs is not None
        ),
        blocks,
    )  # fmt: skip
    rows = torch.cat([order[i * block_q : min((i + 1) * block_q, length)] for i in blocks])
    torch.testing.assert_close(found, whole[rows], rtol=1e-5, atol=1e-6)
