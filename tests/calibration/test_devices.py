"""Calibration where the tensors are: on a GPU without one, by tensors that hold no data."""

from __future__ import annotations

import dataclasses
from contextlib import nullcontext

import numpy as np
import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.distributed._tools.mem_tracker import MemTracker

from paro_trt.calibration import CalibrationSettings, calibrate
from paro_trt.calibration.calls import RecordedCall
from paro_trt.calibration.capture import capture_attention
from paro_trt.calibration.inputs import LayerInputs
from paro_trt.calibration.statistics import Tiling, block_statistics
from paro_trt.families.base import AttentionSite
from paro_trt.pipelines.calibrate import source_of
from paro_trt.pipelines.request import Request
from tests.support.device_on_cpu import device_on_cpu, to_device
from tests.support.fake_device import fake_device, fake_mode, move_to_fake_device, on_fake_device
from tests.support.pipelines import pipeline_of
from tests.support.recorded_calls import recorded_calls
from tests.support.tiny import all_variants
from tests.support.tiny.model import TinyModel

SETTINGS = CalibrationSettings(
    block_q=64, captured_steps=1, candidate_orders=("fhw", "whf"), time_attention=False
)
ONE_EACH = {tiny.family.name: tiny for tiny in reversed(all_variants()) if tiny.available}.values()


def recorded(tiny: TinyModel) -> RecordedCall:
    """The call by which the family's own pipeline would run the model, on the CPU."""
    model, geometry = tiny.build(), tiny.geometry()
    latents, timestep, conditioning = tiny.inputs(1)
    constants = tiny.family.constants(tiny.full_config, geometry)
    with torch.no_grad(), recorded_calls(model) as calls:
        tiny.family.forward(model, geometry, latents, timestep, conditioning | constants)
    length = None
    if geometry.text.padded:
        length = geometry.grid.tokens + int(tiny.family.text_length(conditioning))
    return RecordedCall(calls[0].arguments, 950.0, length)


@pytest.mark.parametrize("offloaded", [False, True], ids=["resident", "offloaded"])
@pytest.mark.parametrize("tiny", ONE_EACH, ids=lambda tiny: tiny.name)
def test_a_recorded_call_replays_on_a_gpu(tiny, offloaded, monkeypatch):
    """Offloaded weights come when the call does, after the constants were computed."""
    # Mochi turns autocast off for its rotary embedding; the device has none.
    monkeypatch.setattr(torch, "autocast", lambda *_, **__: nullcontext())
    if tiny.family.name == "cosmos":
        pytest.importorskip("torchvision")
    loaded, call, seen = tiny.loaded(), recorded(tiny), []
    # Reading a call compares values, which tensors without data do not have: it was read before.
    read = tiny.family.read_call(loaded.config, call.arguments)

    def consume(index: int, site: AttentionSite, *tensors) -> None:
        del index
        assert {tensor.device for tensor in tensors[:3]} == {fake_device()}
        seen.append(site.name)

    with fake_mode():
        here = dataclasses.replace(
            read,
            latents=on_fake_device(read.latents),
            timestep=on_fake_device(read.timestep),
            inputs=on_fake_device(dict(read.inputs)),
        )
        monkeypatch.setattr(type(tiny.family), "read_call", lambda *_: here)
        if offloaded:
            loaded.model.register_forward_pre_hook(
                lambda *_: void(move_to_fake_device(loaded.model))
            )
        else:
            move_to_fake_device(loaded.model)
        capture_attention(loaded, tiny.geometry(), call, fake_device(), consume)
    assert seen == [site.name for site in loaded.family.sites(loaded.config)]


def void(_: object) -> None:
    """A hook's result would be taken for the arguments."""


AT_A_COST = dataclasses.replace(SETTINGS, density=None, cost=0.5)
END_TO_END = [
    pytest.param(name, SETTINGS, id=name, marks=() if name == "wan" else pytest.mark.long)
    for name in ("wan", "cogvideox", "flux-schnell", "qwen_image", "ltx_video")
] + [pytest.param("wan", AT_A_COST, id="wan-cost", marks=pytest.mark.long)]


@pytest.mark.parametrize(("name", "settings"), END_TO_END)
def test_a_pipeline_on_a_device_gives_the_plan_of_the_cpu(name, settings, tmp_path):
    """Every pass on real values; the device's sums may round otherwise."""
    tiny, plans = pipeline_of(name), []
    call = {key: value for key, value in tiny.call.items() if key != "num_inference_steps"}
    sizes = {key: call.pop(key, None) for key in ("height", "width", "num_frames")}
    request = Request("-", steps=4, **sizes, arguments=call)
    for device in ("cpu", "device"):
        with device_on_cpu() if device == "device" else nullcontext(), torch.no_grad():
            pipe = tiny.build() if device == "cpu" else to_device(tiny.build())
            source = source_of(pipe, ["a red ball", "a blue dog"], request)
            assert (source.device == fake_device()) is (device == "device")
            heldout = source.with_texts(["a yellow cat"])
            plans.append(calibrate(source, settings, tmp_path / device, heldout=heldout))
    here, there = plans
    for one, other in zip(here.layers, there.layers, strict=True):
        assert (one.block_mask == other.block_mask).all()
        assert [head.order for head in one.heads] == [head.order for head in other.heads]
        assert (one.qk_bits, one.pv_bits) == (other.qk_bits, other.pv_bits)
        np.testing.assert_allclose(one.channel_affine, other.channel_affine, rtol=1e-4, atol=1e-5)
    for key, value in here.calibration.measured.items():
        assert there.calibration.measured[key] == pytest.approx(value, rel=1e-3)


WAN_14B_720P = AttentionSite("blocks.0.attn1", heads=40, kv_heads=40, head_dim=128)
TOKENS = 75_600


def layer_inputs(site: AttentionSite, tokens: int, key_length: int | None = None) -> LayerInputs:
    """Within `fake_mode`: one layer's query, key and value on the device."""
    query, key, value = (
        torch.empty(tokens, heads, site.head_dim, dtype=torch.bfloat16, device=fake_device())
        for heads in (site.heads, site.kv_heads, site.kv_heads)
    )
    return LayerInputs(site, query, key, value, site.head_dim**-0.5, key_length)


@pytest.mark.parametrize("paper", [False, True])
@pytest.mark.parametrize("key_length", [None, 300])
def test_block_statistics_stay_on_the_device(paper, key_length):
    site = AttentionSite("attn", heads=4, kv_heads=2, head_dim=64)
    with fake_mode():
        inputs = layer_inputs(site, 331, key_length)
        order = torch.arange(331, device=fake_device())
        statistics = block_statistics(
            inputs.head(1), order, Tiling(64, 64), pooled=True, paper=paper, memory=1 << 20
        )
    assert {part.device for part in statistics} == {fake_device()}


def test_one_layer_of_wan_14b_720p_stays_within_its_memory():
    """The bound that docs/design.md states, counted on tensors without data."""
    allowed = 2 << 30
    with FakeTensorMode(), MemTracker() as tracker:
        shape = (TOKENS, WAN_14B_720P.heads, WAN_14B_720P.head_dim)
        layer = [torch.empty(shape, dtype=torch.bfloat16) for _ in range(3)]
        inputs = LayerInputs(WAN_14B_720P, *layer, scale=0.1)
        order = torch.arange(TOKENS)
        block_statistics(
            inputs.head(0), order, Tiling(128, 64), pooled=True, query_blocks=range(64),
            memory=allowed,
        )  # fmt: skip
        peak = tracker.get_tracker_snapshot("peak")[torch.device("cpu")]["Total"]
    of_layer = 3 * 2 * TOKENS * WAN_14B_720P.heads * WAN_14B_720P.head_dim
    # The head in the inputs' type and in FP32, in its own order and in that of the candidate.
    of_head = TOKENS * WAN_14B_720P.head_dim * (3 * 2 + 2 * 2 * 4)
    assert of_layer + allowed // 2 < peak <= of_layer + of_head + allowed
