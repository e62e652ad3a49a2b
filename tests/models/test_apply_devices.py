"""A plan applied on a device that is not the CPU, by tensors that hold no data."""

from __future__ import annotations

from contextlib import nullcontext

import pytest
import torch

from paro_trt.models.apply import ParoTransformer
from paro_trt.op.api import attention_op
from paro_trt.op.spec import INPUTS
from tests.support.cases import OpCase, random_inputs
from tests.support.fake_device import (
    fake_device,
    fake_mode,
    move_to_fake_device,
    on_fake_device,
)
from tests.support.tiny import all_variants

ONE_EACH = {tiny.family.name: tiny for tiny in reversed(all_variants()) if tiny.available}.values()


@pytest.mark.parametrize("tiny", ONE_EACH, ids=lambda tiny: tiny.name)
def test_a_planned_model_computes_on_its_device(tiny, monkeypatch):
    # Mochi turns autocast off for its rotary embedding; the device has none.
    monkeypatch.setattr(torch, "autocast", lambda *_, **__: nullcontext())
    planned = ParoTransformer(tiny.build(), tiny.family, tiny.plan(bins=2))
    latents, timestep, conditioning = tiny.inputs(2)
    mask_bin = torch.zeros(2, dtype=torch.int32)
    with fake_mode():
        move_to_fake_device(planned)
        call = on_fake_device((latents, timestep, *conditioning.values(), mask_bin))
        outputs = planned(*call)
    assert {output.device for output in outputs} == {fake_device()}
    assert outputs[0].shape == latents.shape


def test_the_op_s_output_is_contiguous_whatever_the_query_is():
    inputs = random_inputs(OpCase("strides", 70), 0)
    with fake_mode():
        placed = on_fake_device(tuple(inputs[: len(INPUTS)]))
        query = placed[0].transpose(1, 2).contiguous().transpose(1, 2)
        output = attention_op(
            query, *placed[1:], None, None, None, None, 0.0, 128, 64, 16, 16, 0, "reference"
        )
    assert not query.is_contiguous()
    assert output.is_contiguous()
    assert output.device == fake_device()
