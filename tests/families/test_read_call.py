"""What families read of calls beyond the kit's: images, positions, masks, and what they refuse."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from paro_trt.errors import ArgumentError, ModelError
from tests.support.recorded_calls import recorded_calls
from tests.support.tiny import TinyModel, all_variants

TINY = {tiny.name: tiny for tiny in all_variants()}


def variant(name: str) -> TinyModel:
    if not TINY[name].available:
        pytest.skip("a later diffusers has it")
    return TINY[name]


def own_call(tiny: TinyModel, **changes: torch.Tensor) -> dict[str, Any]:
    """The arguments by which the family calls the model; `changes` are conditioning inputs."""
    model, geometry = tiny.build(), tiny.geometry()
    latents, timestep, conditioning = tiny.inputs(2, seed=4)
    constants = tiny.family.constants(tiny.full_config, geometry)
    with torch.no_grad(), recorded_calls(model) as calls:
        tiny.family.forward(model, geometry, latents, timestep, conditioning | changes | constants)
    return calls[0].arguments


def read(tiny: TinyModel, call: dict[str, Any]):
    return tiny.family.read_call(tiny.full_config, call)


@pytest.mark.parametrize("name", ["cosmos-predict2-video", "cosmos-predict2.5"])
def test_frames_that_are_given(name):
    tiny = variant(name)
    given = torch.tensor([[1.0, 0.0], [0.0, 0.0]])
    call = own_call(tiny, condition_frames=given)
    actual = read(tiny, call)
    torch.testing.assert_close(actual.timestep, tiny.inputs(2, seed=4)[1], rtol=1e-6, atol=1e-4)
    assert torch.equal(actual.inputs["condition_frames"], given)
    assert torch.equal(actual.inputs["image_latents"][0, :, 0], call["hidden_states"][0, :, 0])
    # Predict2's pipeline counts the level 1e-4 of noise as 1e-4 / (1 + 1e-4), in bfloat16 too.
    time = torch.where(call["timestep"] == 1e-4, 1e-4 / (1 + 1e-4), call["timestep"])
    rounded = read(tiny, call | {"timestep": time.bfloat16()})
    torch.testing.assert_close(rounded.timestep, actual.timestep, rtol=1e-2, atol=0.0)
    part = call["condition_mask"].clone()
    part[..., :3] = 0
    for changed in ({"condition_mask": part}, {"timestep": time.clamp(min=0.2)}):
        with pytest.raises(ArgumentError, match="condition_mask and timestep"):
            read(tiny, call | changed)


def test_cosmos_refuses_another_frame_rate_and_padding():
    tiny = variant("cosmos-predict2-video")
    call = own_call(tiny)
    for rate in (24, None):
        with pytest.raises(ArgumentError, match=f"fps: expected 16, got {rate}"):
            read(tiny, call | {"fps": rate})
    with pytest.raises(ArgumentError, match="padding_mask: expected zeros"):
        read(tiny, call | {"padding_mask": torch.ones(1, 1, 16, 16)})


def test_mochi_s_time_runs_the_other_way():
    tiny = variant("mochi")
    call = own_call(tiny)
    assert read(tiny, call | {"timestep": torch.tensor([0.0, 900.0])}).timestep.tolist() == [
        1000,
        100,
    ]


def test_a_hunyuan15_model_is_of_text_or_of_an_image():
    text, image = variant("hunyuan_video15-t2v"), variant("hunyuan_video15-i2v")
    call = own_call(text)
    as_the_pipeline = call | {"image_embeds": torch.zeros(2, 729, 8)}
    assert read(text, as_the_pipeline).geometry == text.geometry()
    with pytest.raises(ArgumentError, match="image_embeds: expected no image"):
        read(text, call | {"image_embeds": torch.ones(2, 729, 8)})
    call = own_call(image)
    states = call["hidden_states"].clone()
    states[:, 4:] = 0
    none = {"hidden_states": states, "image_embeds": torch.zeros(2, 729, 8)}
    with pytest.raises(ArgumentError, match="image_embeds: expected an image, got none"):
        read(image, call | none)


@pytest.mark.parametrize(
    ("name", "mask"),
    [
        ("hunyuan_video", "encoder_attention_mask"),
        ("hunyuan_video15-t2v", "encoder_attention_mask_2"),
        ("ltx_video", "encoder_attention_mask"),
        ("mochi", "encoder_attention_mask"),
        ("qwen_image", "encoder_hidden_states_mask"),
    ],
)
def test_masks(name, mask):
    """None is that every token exists; any type will do; padding in front will not."""
    tiny = variant(name)
    call = own_call(tiny)
    assert bool((read(tiny, call | {mask: None}).inputs[mask] == 1).all())
    for dtype in (torch.bool, torch.int64, torch.bfloat16):
        actual = read(tiny, call | {mask: call[mask].to(dtype)})
        assert torch.equal(actual.inputs[mask], read(tiny, call).inputs[mask])
        assert actual.inputs[mask].dtype is torch.int32
    with pytest.raises(ArgumentError, match=f"{mask}: .*padding that is not at the end"):
        read(tiny, call | {mask: call[mask].flip(1)})
    with pytest.raises(ArgumentError, match=mask):
        read(tiny, call | {mask: call[mask][:, 1:]})


def test_hunyuan_s_undistilled_model_does_not_look_at_the_guidance_it_gets():
    tiny = variant("hunyuan_video-undistilled")
    call = own_call(tiny) | {"guidance": torch.tensor([6000.0, 6000.0])}
    assert "guidance" not in read(tiny, call).inputs


def test_flux_takes_one_guidance_for_the_batch_and_ids_of_each_sample():
    tiny = variant("flux-dev")
    call = own_call(tiny)
    ids = call["img_ids"]
    actual = read(tiny, call | {"guidance": torch.tensor([7.0]), "img_ids": ids.expand(2, -1, -1)})
    assert actual.inputs["guidance"].tolist() == [7.0, 7.0]
    of_a_reference = ids.clone()
    of_a_reference[:, 0] = 1
    with pytest.raises(ArgumentError, match=r"img_ids: .*docs/families\.md"):
        read(tiny, call | {"img_ids": of_a_reference})


def test_cogvideox_refuses_other_rotary_embeddings():
    tiny = variant("cogvideox")
    call = own_call(tiny)
    cos, sin = call["image_rotary_emb"]
    for rotary in ((cos, -sin), (cos[1:], sin[1:]), None):
        with pytest.raises(ArgumentError, match="rotary_"):
            read(tiny, call | {"image_rotary_emb": rotary})
    image = variant("cogvideox-1.5-i2v")
    call = own_call(image) | {"ofs": torch.tensor([3.0])}
    with pytest.raises(ArgumentError, match="ofs"):
        read(image, call)


def test_flux2_reads_references_off_the_ids():
    tiny = variant("flux2-references")
    call = own_call(tiny)
    ids = call["img_ids"]
    assert read(tiny, call | {"img_ids": ids.long().expand(2, -1, -1)}).geometry.grid.frames == 3
    larger = ids.clone()
    larger[-1, 1] += 1
    for changed in (larger, ids[:-1], ids * torch.tensor([2.0, 1, 1, 1])):
        with pytest.raises((ArgumentError, ModelError)):
            read(tiny, call | {"img_ids": changed})


def test_qwen_reads_images_of_one_size():
    tiny = variant("qwen_image-edit")
    call = own_call(tiny)
    ((image, _),) = call["img_shapes"]
    each = [[image, image]] * 2
    assert (
        read(tiny, call | {"img_shapes": each, "txt_seq_lens": [20, 15]}).geometry
        == tiny.geometry()
    )
    other = (1, image[1] // 2, image[2] * 2)
    for changed in (None, [], [[image, other]], [[image], [image, image]]):
        with pytest.raises(ArgumentError, match="img_shapes"):
            read(tiny, call | {"img_shapes": changed})
    with pytest.raises(ArgumentError, match="image_latents"):
        read(tiny, call | {"img_shapes": [[image] * 3]})


def test_ltx_is_of_one_frame_rate():
    tiny = variant("ltx_video")
    call = own_call(tiny)
    for scale in ((8 / 24, 32, 32), None):
        with pytest.raises(ArgumentError, match=r"rope_interpolation_scale: .*frame_rate at 25"):
            read(tiny, call | {"rope_interpolation_scale": scale})
    with pytest.raises(ArgumentError, match="num_frames"):
        read(tiny, call | {"num_frames": None})
    with pytest.raises(ArgumentError, match="hidden_states"):
        read(tiny, call | {"height": 4})


def test_ltx2_is_of_one_schedule_and_frame_rate():
    tiny = variant("ltx2")
    model, call = tiny.build(), own_call(tiny)
    grid = tiny.geometry().grid
    coords = {
        "video_coords": model.rope.prepare_video_coords(
            2, grid.frames, grid.height, grid.width, "cpu", fps=24.0
        ),
        "audio_coords": model.audio_rope.prepare_audio_coords(2, call["audio_num_frames"], "cpu"),
    }
    served = call | coords | {"sigma": call["timestep"], "use_cross_timestep": True}
    assert read(tiny, served).geometry == tiny.geometry()
    for changed in (
        {"fps": 25.0},
        {"audio_num_frames": call["audio_num_frames"] + 1},
        {"audio_timestep": call["timestep"] / 2},
        {"sigma": call["timestep"] / 2},
        {"video_coords": coords["video_coords"] + 1},
        {"audio_coords": coords["audio_coords"] + 1},
        {"audio_encoder_attention_mask": call["encoder_attention_mask"] * 0},
        {"isolate_modalities": True},
        {"spatio_temporal_guidance_blocks": [1]},
    ):
        with pytest.raises(ArgumentError, match=next(iter(changed))):
            read(tiny, served | changed)


def test_a_number_is_the_timestep_of_every_sample():
    tiny = variant("sd3")
    call = own_call(tiny)
    for timestep in (500, torch.tensor(500), torch.tensor([500])):
        assert read(tiny, call | {"timestep": timestep}).timestep.tolist() == [500.0, 500.0]
