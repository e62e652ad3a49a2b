"""What a calibration of a released model costs, in operations counted on tensors without memory."""

from types import SimpleNamespace

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils.flop_counter import FlopCounterMode

from paro_trt.calibration import CalibrationSettings
from paro_trt.calibration.cost import cost_note, count_forwards, forward_flops
from paro_trt.calibration.inputs import HeadInputs
from paro_trt.calibration.run import CalibrationRun
from paro_trt.calibration.statistics import block_statistics, sampled_query_blocks
from paro_trt.families.base import Geometry
from paro_trt.families.wan import WanFamily
from paro_trt.plan import Grid

STEPS, PROMPTS = 50, 4
WAN_14B = {
    "num_layers": 40, "num_attention_heads": 40, "attention_head_dim": 128, "in_channels": 16,
    "out_channels": 16, "ffn_dim": 13824, "text_dim": 4096, "freq_dim": 256,
}  # fmt: skip


@pytest.fixture(scope="module")
def run():
    """Wan 2.1 14B at 81 x 720 x 1280: 75,600 tokens, 50 guided steps."""
    from diffusers import WanTransformer3DModel

    with torch.device("meta"):
        model = WanTransformer3DModel(**WAN_14B)
    loaded = SimpleNamespace(
        model=model, family=WanFamily(), config=dict(model.config), expert=None
    )
    source = SimpleNamespace(
        loaded=loaded,
        texts=("",) * PROMPTS,
        geometry=Geometry(Grid(21, 45, 80)),
        steps=STEPS,
        served=range(STEPS),
        forwards=(2,) * STEPS,
        device=torch.device("cpu"),
    )
    return CalibrationRun(source, CalibrationSettings())


def counted_statistics(run, **options):
    """Operations of one head's block statistics."""
    shape = (run.tokens, WAN_14B["attention_head_dim"])
    with FakeTensorMode(), FlopCounterMode(display=False) as counter:
        inputs = HeadInputs(*(torch.empty(shape, dtype=torch.bfloat16) for _ in range(3)), 0.1)
        order = torch.arange(run.tokens)
        # All tiles are alike: more memory makes fewer and larger ones.
        block_statistics(inputs, order, run.settings.tiling, pooled=True, memory=1 << 40, **options)
    return counter.get_total_flops()


def test_four_prompts_of_50_guided_steps(run):
    count = count_forwards(run, None)
    # Bins of 25 steps, captured at 6, 18, 31 and 43: the run ends before step 43.
    assert count.dense == PROMPTS * 43 * 2
    assert (count.orders, count.blocks, count.errors) == (8, 16, 4)
    assert f"{count.total} forwards in all, 0.94 times" in cost_note(run, None)


def test_wan_14b_at_720p_costs_about_one_generation_a_prompt(run):
    heads = sum(site.heads for site in run.sites)
    blocks = sampled_query_blocks(len(run.forced), run.settings.order_query_blocks)
    of_orders = len(run.candidates) * counted_statistics(
        run, query_blocks=blocks, rows_per_block=run.settings.order_rows
    )
    of_blocks = counted_statistics(run)
    count, forward = count_forwards(run, None), forward_flops(run)
    # The errors pass looks at 4 of 591 query blocks, in 9 variants.
    of_errors = 9 * of_blocks * run.settings.error_query_blocks / len(run.forced)
    analysis = heads * (
        count.orders * of_orders + count.blocks * of_blocks + count.errors * of_errors
    )
    generation = STEPS * 2 * forward
    spent = (count.total * forward + analysis) / PROMPTS
    assert 0.8 * generation < spent < 1.1 * generation
    # Comparing orders is the small part.
    assert heads * count.orders * of_orders < 0.1 * spent * PROMPTS
