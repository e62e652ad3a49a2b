"""`encode`: prompt files from sentences, by the encoders of a pipeline without its transformer."""

import shutil

import pytest
import torch

from paro_trt.calibration import CalibrationSettings, calibrate
from paro_trt.calibration.embeddings_source import EmbeddingsSource
from paro_trt.errors import ArgumentError
from paro_trt.models.prompts import load_prompts, save_prompts
from paro_trt.models.schedules import Schedule
from paro_trt.pipelines.calibrate import planned_transformer, source_of
from paro_trt.pipelines.encode import encode_prompts
from paro_trt.pipelines.request import Request
from tests.support.pipelines import PIPELINES, pipeline_of

TEXTS = ("a red ball rolls", "a blue dog jumps")
SETTINGS = CalibrationSettings(
    block_q=64, captured_steps=1, candidate_orders=("fhw", "whf"), time_attention=False
)


def request_of(tiny, **changes):
    call = {name: of for name, of in tiny.call.items() if name != "num_inference_steps"}
    own = {name: call.pop(name, None) for name in ("height", "width", "num_frames")}
    return Request("-", **({"steps": 4, **own, "arguments": call} | changes))


def encoded(tiny, pipe, path, texts=TEXTS, **changes):
    """What is read back from the file."""
    if tiny.prepare is not None:
        tiny.prepare(pipe)
    with tiny.around():
        save_prompts(encode_prompts(pipe, texts, request_of(tiny, **changes)), path)
    return load_prompts(path)


@pytest.mark.parametrize("tiny", PIPELINES, ids=lambda tiny: tiny.name)
def test_the_file_holds_what_the_transformer_is_given(tiny, tmp_path):
    pipe = tiny.build()
    role = "transformer" if getattr(pipe.config, "boundary_ratio", None) else None
    own = pipe.transformer
    prompts = encoded(tiny, pipe, tmp_path / "p.safetensors")
    assert pipe.transformer is own
    assert prompts.texts == TEXTS
    loaded, _ = planned_transformer(pipe, role)
    with tiny.around():
        source = source_of(pipe, TEXTS, request_of(tiny), role)
        (call,) = source.record(1, 0, {source.served[0]}, lambda _step: None).values()
    read = loaded.family.read_call(loaded.config, call.arguments)
    assert prompts.shapes().keys() >= read.inputs.keys()
    for name, tensor in read.inputs.items():
        stored = prompts.tensors[name][1:]
        # Padded text is as long as the longest prompt's.
        if stored.ndim > 1 and source.geometry.text.padded:
            stored = stored[:, : tensor.shape[1]]
        torch.testing.assert_close(stored.float(), tensor.float(), msg=name)


def both_sources(tiny, pipe, path, texts, **changes):
    """Of the sentences, and of the file that they are encoded into."""
    prompts = encoded(tiny, pipe, path, texts, **changes)
    assert prompts.negative is None
    scheduler = {**pipe.scheduler.config, "_class_name": type(pipe.scheduler).__name__}
    of_file = EmbeddingsSource(
        planned_transformer(pipe)[0], prompts, tiny.tiny.latent_size, Schedule(steps=4),
        scheduler=scheduler,
    )  # fmt: skip
    return source_of(pipe, texts, request_of(tiny, **changes)), of_file


def test_the_file_and_the_sentences_give_the_same_plan(tmp_path):
    from diffusers import FlowMatchEulerDiscreteScheduler

    tiny = pipeline_of("wan")
    pipe = tiny.build()
    pipe.scheduler = FlowMatchEulerDiscreteScheduler(shift=5.0)
    path = tmp_path / "p.safetensors"
    on_texts, on_file = (
        calibrate(source, SETTINGS, tmp_path / f"plan{index}")
        for index, source in enumerate(both_sources(tiny, pipe, path, TEXTS, guidance_scale=1.0))
    )
    assert on_texts.bin_boundaries == on_file.bin_boundaries
    assert [layer.heads for layer in on_texts.layers] == [layer.heads for layer in on_file.layers]


@pytest.mark.parametrize("name", ["qwen_image", "flux-dev"])
def test_the_file_is_sampled_at_the_pipelines_timesteps(name, tmp_path):
    """These pipelines draw their noise in another layout, so that plans differ."""
    tiny = pipeline_of(name)
    changes = {"arguments": {}} if name == "qwen_image" else {}
    texts = ("a red ball", "a blue dog jumps over it")
    on_texts, on_file = both_sources(tiny, tiny.build(), tmp_path / "p", texts, **changes)
    assert on_file.timesteps == pytest.approx(on_texts.timesteps)
    assert on_file.geometry == on_texts.geometry


def test_the_negative_prompt_is_that_of_the_guidance(tmp_path):
    """Two calls a step (Wan), one batch of two (CogVideoX)."""
    for name in ("wan", "cogvideox"):
        tiny = pipeline_of(name)
        pipe = tiny.build()
        guided = {"guidance_scale": 5.0, "negative_prompt": TEXTS[1]}
        prompts = encoded(tiny, pipe, tmp_path / f"{name}.safetensors", TEXTS[:1], **guided)
        other = encoded(tiny, pipe, tmp_path / "o.safetensors", TEXTS[1:], guidance_scale=1.0)
        assert other.negative is None
        text = prompts.negative["encoder_hidden_states"]
        torch.testing.assert_close(text, other.tensors["encoder_hidden_states"][0])


def test_the_command_needs_no_weights_of_the_transformer(wan_dir, tmp_path, paro):
    copy, file = tmp_path / "copy", tmp_path / "p.safetensors"
    shutil.copytree(wan_dir, copy)
    (copy / "transformer" / "diffusion_pytorch_model.safetensors").unlink()
    (tmp_path / "prompts.txt").write_text("\n".join(TEXTS) + "\n")
    words = ("--prompts", tmp_path / "prompts.txt", "-o", file, "--video", "5,128,128",
             "--dtype", "float32", "--argument", "max_sequence_length=12")  # fmt: skip
    done = paro("encode", copy, *words, "--json")
    report = done.document()
    assert report["prompts"] == 2
    assert report["tensors"] == {"encoder_hidden_states": [2, 12, 16]}
    assert report["negative"] == {"encoder_hidden_states": [12, 16]}
    assert load_prompts(file).texts == TEXTS
    shown = paro("encode", copy, *words).stdout
    joined = "".join(shown.split())
    assert f"paro-trtcalibrate{copy}/transformer--prompts{file}--video5,128,128" in joined
    paro("encode", copy, *words, "--size", "8,8").assert_refused("--video, --size")
    paro("encode", copy, *words, "--argument", "nonsense=1").assert_refused("nonsense")
    paro("encode", tmp_path, *words).assert_refused("model_index.json")


def test_prompts_need_room_for_their_text():
    tiny = pipeline_of("qwen_image")
    with pytest.raises(ArgumentError, match="text_tokens"):
        encode_prompts(tiny.build(), TEXTS, request_of(tiny), text_tokens=1)
