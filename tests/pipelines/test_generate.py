"""Generating: what runs, with which arguments, what is written, and what is refused beforehand."""

from __future__ import annotations

import dataclasses
import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import paro_trt
from paro_trt.calibration import CalibrationSettings, calibrate
from paro_trt.calibration.progress import SilentProgress
from paro_trt.engine import BuildSettings, EngineError
from paro_trt.engine.build import build_engine
from paro_trt.errors import ArgumentError, BackendUnavailableError, ModelError
from paro_trt.models.experts import Expert, ExpertRole
from paro_trt.onnx_export import export_onnx
from paro_trt.pipelines.calibrate import source_of
from paro_trt.pipelines.generate import fitted
from paro_trt.pipelines.open import open_pipeline
from paro_trt.pipelines.request import DEFAULT_FPS, Request, call_arguments, frames_per_second
from paro_trt.pipelines.variants import Variant
from paro_trt.plan import ParoPlan
from samples.tiny_wan.build import PIPELINE_DIR
from tests.engine.conftest import Machine, newest  # noqa: F401 (a fixture)
from tests.pipelines.conftest import VIDEO, wan_pipeline
from tests.pipelines.test_media import read_video
from tests.support.family_files import shallow_model
from tests.support.pipelines import PROMPT, pipeline_of
from tests.support.tiny_wan import tiny_wan

QUICK = {"steps": 2, "arguments": {"max_sequence_length": 12}}


@pytest.fixture(scope="module")
def pipe() -> Any:
    """A live WanPipeline."""
    return wan_pipeline()


def own_frames(pipe: Any, **arguments: Any) -> np.ndarray:
    """The pipeline's own call, as a user makes it."""
    generator = torch.Generator().manual_seed(7)
    call = {"prompt": PROMPT, "num_inference_steps": 2, "max_sequence_length": 12, **VIDEO}
    return pipe(**(call | arguments), generator=generator, output_type="np").frames[0]


def test_a_dense_video_is_the_pipelines_own(pipe: Any, tmp_path: Path) -> None:
    path = tmp_path / "out.mp4"
    report = paro_trt.generate(pipe, PROMPT, path, seed=7, **VIDEO, **QUICK)
    about, back = read_video(path)
    expected = own_frames(pipe) * 255
    assert about["fps"] == DEFAULT_FPS
    assert np.abs(back - expected).mean() < 6
    assert (report.size, report.pipeline, report.files) == (
        (5, 128, 128),
        "WanPipeline",
        (str(path),),
    )
    assert len(report.run.step_seconds) == 2
    assert sum(report.run.step_seconds) < report.run.seconds
    assert report.run.seconds_per_step == report.run.step_seconds[1]
    assert report.run.peak_bytes > 1 << 20
    assert "progress_bar" not in vars(pipe)


def test_a_plan_gives_size_and_video_and_is_removed(
    pipe: Any, plan: ParoPlan, tmp_path: Path
) -> None:
    path = tmp_path / "out.mp4"
    report = paro_trt.generate(pipe, PROMPT, path, plan=plan, compare=True, seed=7, **QUICK)
    assert report.size == (5, 128, 128)
    assert [Path(name).name for name in report.files] == [
        "out.mp4", "out.dense.mp4", "out.side-by-side.mp4", "out.quality.png",
    ]  # fmt: skip
    paro_trt.apply(pipe, plan, impl="cpu")
    planned = own_frames(pipe)
    paro_trt.remove(pipe)
    error = np.square(planned.astype(float) - own_frames(pipe)).mean()
    assert report.quality.psnr == pytest.approx(10 * np.log10(1 / error), rel=1e-4)
    assert 0 < report.quality.flicker < 1
    assert report.ok
    assert read_video(path.with_name("out.side-by-side.mp4"))[1].shape == (5, 152, 260, 3)
    document = json.loads(report.to_json())
    assert document["quality"]["frames"][4]["flicker"] is None
    assert document["dense"]["label"] == "dense"


def test_bounds_compare_and_decide(pipe: Any, plan: ParoPlan, tmp_path: Path) -> None:
    report = paro_trt.generate(
        pipe, PROMPT, tmp_path / "out.mp4", plan=plan, backend="reference", min_psnr=200.0,
        max_flicker=0.0, **QUICK,
    )  # fmt: skip
    assert not report.ok
    assert [line.split()[0] for line in report.failures] == ["PSNR", "flicker"]
    with pytest.raises(ArgumentError, match="compare"):
        paro_trt.generate(pipe, PROMPT, tmp_path / "out.mp4", min_psnr=10.0, **QUICK)


def test_an_exported_file_takes_the_place_of_the_weights(
    pipe: Any, plan: ParoPlan, onnx_file: Path, wan_dir: Path, tmp_path: Path
) -> None:
    """Without a comparison the transformer's weights need not even be there."""
    import shutil

    bare = tmp_path / "bare"
    shutil.copytree(wan_dir, bare)
    for weights in (bare / "transformer").glob("*.safetensors"):
        weights.rename(tmp_path / "moved")
    path = tmp_path / "file.mp4"
    options = {"seed": 7, "dtype": torch.float32, **QUICK}
    report = paro_trt.generate(bare, PROMPT, path, file=onnx_file, backend="cpu", **options)
    assert report.run.label == f"plan {plan.content_hash()[:8]}"
    paro_trt.apply(pipe, plan, impl="cpu")
    planned = own_frames(pipe)
    paro_trt.remove(pipe)
    assert np.abs(read_video(path)[1] - planned * 255).mean() < 6
    live = paro_trt.generate(
        pipe, PROMPT, path, file=onnx_file, backend="cpu", compare=True, seed=7, **QUICK
    )
    error = np.square(planned.astype(float) - own_frames(pipe)).mean()
    assert live.quality.psnr == pytest.approx(10 * np.log10(1 / error), abs=0.1)
    assert isinstance(pipe.transformer, type(tiny_wan()))


def test_an_image_is_a_png(flux_dir: Path, tmp_path: Path) -> None:
    tiny = pipeline_of("flux-dev")
    path = tmp_path / "out.png"
    report = paro_trt.generate(
        flux_dir, PROMPT, path, plan=tiny.tiny.plan(density=0.5), compare=True, **QUICK
    )
    assert report.size == (1, 256, 256)
    assert report.quality.flicker is None
    assert Image.open(path).size == (256, 256)
    assert Image.open(path.with_name("out.side-by-side.png")).size == (516, 280)
    with pytest.raises(ArgumentError, match=r"\.png, for an image"):
        paro_trt.generate(flux_dir, PROMPT, tmp_path / "out.mp4", height=256, width=256, **QUICK)
    with pytest.raises(ArgumentError, match=r"num_frames: expected an argument that FluxPipeline"):
        paro_trt.generate(flux_dir, PROMPT, path, num_frames=5, **QUICK)


def test_two_experts_take_a_plan_each(plan: ParoPlan, tmp_path: Path) -> None:
    tiny = pipeline_of("wan").tiny
    pipe = wan_pipeline(transformer_2=tiny.build(5), boundary_ratio=0.9)
    plans = [
        dataclasses.replace(
            plan, model=Expert(role, 900.0).identity(tiny.class_name, tiny.full_config)
        )
        for role in ExpertRole
    ]
    path = tmp_path / "out.mp4"
    report = paro_trt.generate(pipe, PROMPT, path, plan=plans, compare=True, **QUICK)
    only_one = paro_trt.generate(pipe, PROMPT, path, plan=plans[1], compare=True, **QUICK)
    assert report.quality.psnr != only_one.quality.psnr
    assert only_one.quality.psnr < 200
    for module in (pipe.transformer, pipe.transformer_2):
        assert "forward" not in vars(module)


@pytest.mark.long
def test_two_engines_are_loaded_by_turns_or_both(
    newest: Machine,  # noqa: F811
    family_file: Callable[[str], Path],
    tmp_path: Path,
) -> None:
    """Two steps, one of each expert, by engines of the stub TensorRT."""
    engines = [tmp_path / name for name in ("high.engine", "low.engine")]
    for level, engine in enumerate(engines, 1):
        build_engine(family_file("wan"), engine, BuildSettings(builder_level=level))
    tiny = shallow_model("wan")
    pipe = wan_pipeline(transformer=tiny.build(), transformer_2=tiny.build(5), boundary_ratio=0.875)
    loaded = []

    class Loaded(SilentProgress):
        def advance(self) -> None:
            loaded.append(len(newest.trt.loaded))

    def made(**options: Any) -> Any:
        options = {"file": engines[0], "file_2": engines[1], "progress": Loaded(), **options}
        return paro_trt.generate(pipe, PROMPT, tmp_path / "out.mp4", **QUICK, **options)

    made()
    made(engine_turns=True)
    assert loaded == [2, 2, 1, 1]
    assert len(newest.trt.loaded) == 0
    # An engine that waits for its turn is not loaded yet when the offloading is refused.
    newest.trt.refuse_load = "the engine was loaded"
    with pytest.raises(ArgumentError, match="offload"):
        made(offload="model")
    with pytest.raises(EngineError, match="the engine was loaded"):
        made(offload="model", engine_turns=False)


@pytest.mark.long
def test_the_file_of_the_other_expert_is_refused(plan: ParoPlan, tmp_path: Path) -> None:
    tiny = pipeline_of("wan").tiny
    pipe = wan_pipeline(transformer_2=tiny.build(5), boundary_ratio=0.9)
    identity = Expert(ExpertRole.LOW_NOISE, 900.0).identity(tiny.class_name, tiny.full_config)
    path = tmp_path / "low.onnx"
    loaded = dataclasses.replace(tiny.loaded(), identity=identity)
    export_onnx(loaded, dataclasses.replace(plan, model=identity), path)
    with pytest.raises(ModelError, match="exchange the two files"):
        paro_trt.generate(pipe, PROMPT, tmp_path / "out.mp4", file=path, **QUICK)
    report = paro_trt.generate(
        pipe, PROMPT, tmp_path / "out.mp4", file_2=path, backend="cpu", compare=True, **QUICK
    )
    assert 20 < report.quality.psnr < 200


def test_sizes_that_would_be_rounded_are_said(pipe: Any, plan: ParoPlan) -> None:
    arguments, notes = fitted(pipe, Request(PROMPT, num_frames=6, height=130, width=120), Variant())
    assert (arguments["num_frames"], arguments["height"], arguments["width"]) == (5, 128, 112)
    assert notes == ["6 x 130 x 120 does not suit this model: 5 x 128 x 112 is made"]
    assert fitted(pipe, Request(PROMPT, **VIDEO), Variant())[1] == []
    with pytest.raises(ModelError, match="expected 5 x 128 x 128"):
        fitted(pipe, Request(PROMPT, num_frames=9, height=128, width=128), Variant((plan,)))


def test_the_size_of_a_plan_for_an_unusual_vae_is_what_the_pipeline_makes_of_it(
    tmp_path: Path,
) -> None:
    """The included pipeline's VAE compresses 4 x 4 pixels and no time; 7 frames asked for are 8."""
    pipe = open_pipeline(PIPELINE_DIR)
    request = Request(PROMPT, num_frames=7, height=64, width=48, steps=2)
    settings = CalibrationSettings(bins=1, captured_steps=1, block_q=64, candidate_orders=("fhw",))
    plan = calibrate(source_of(pipe, [PROMPT], request), settings, tmp_path / "plan")
    assert (plan.grid.frames, plan.grid.height, plan.grid.width) == (8, 16, 12)
    arguments, _ = fitted(pipe, Request(PROMPT), Variant((plan,)))
    assert [arguments[name] for name in ("num_frames", "height", "width")] == [7, 64, 48]
    with pytest.raises(ModelError, match=r"expected 7 x 64 x 48 .* got 8 x 64 x 48; fix: leave"):
        fitted(pipe, Request(PROMPT, num_frames=8, height=64, width=48), Variant((plan,)))


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({}, "got 81 x 480 x 832, the default of WanPipeline; fix: give one that fits, such as "),
        ({"num_frames": 9, "height": 128, "width": 528}, "got 9 x 128 x 528; fix: "),
    ],
)
def test_a_size_beyond_the_models_positions_is_refused_with_one_that_fits(
    pipe: Any, asked: dict[str, int], message: str
) -> None:
    expected = r"expected at most 125 x 512 x 512 \(frames x height x width\), .*"
    with pytest.raises(ModelError, match=expected + message) as error:
        fitted(pipe, Request(PROMPT, **asked), Variant())
    fits = [int(text) for text in str(error.value).rsplit(" ", 1)[1].split(",")]
    example = dict(zip(("num_frames", "height", "width"), fits, strict=True))
    assert fitted(pipe, Request(PROMPT, **example), Variant())[1] == []


def test_the_included_pipeline_names_the_sizes_that_it_makes(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its VAE compresses no time: diffusers makes a frame more, with a warning that is wrong."""
    pipe = open_pipeline(PIPELINE_DIR)
    with pytest.raises(ModelError, match=r"at most 63 x 256 x 256 .* such as --video 15,64,64$"):
        fitted(pipe, Request(PROMPT), Variant())
    call = {"num_frames": 1, "height": 32, "width": 32}
    monkeypatch.setattr(logging.getLogger("diffusers"), "propagate", True)
    source_of(pipe, [PROMPT], Request(PROMPT, steps=1, **call))
    assert not caplog.records
    pipe(PROMPT, **call, num_inference_steps=1, output_type="latent")  # a call that is not ours
    assert "has to be divisible by 1." in caplog.text


def test_a_prompt_that_is_cut_is_said() -> None:
    pipe = pipeline_of("flux-dev").build()
    long = Request("red " * 600, height=256, width=256)
    assert fitted(pipe, long, Variant())[1] == [
        "the prompt has 602 tokens, of which CLIPTextModel reads 12",
        "the prompt has 602 tokens, of which T5EncoderModel reads 512",
    ]


def test_only_arguments_that_the_pipeline_has_are_passed(pipe: Any) -> None:
    given = call_arguments(pipe, Request(PROMPT, fps=24.0, steps=3, negative_prompt="blue"))
    assert given == {
        "prompt": PROMPT, "num_inference_steps": 3, "negative_prompt": "blue",
        "output_type": "np", "return_dict": True,
    }  # fmt: skip
    assert frames_per_second(pipe, Request(PROMPT, fps=24.0)) == 24.0
    with pytest.raises(ArgumentError, match="image: expected an argument that WanPipeline takes"):
        call_arguments(pipe, Request(PROMPT, image=Image.new("RGB", (8, 8))))
    with pytest.raises(ArgumentError, match=r"strength: .*WanPipeline"):
        call_arguments(pipe, Request(PROMPT, arguments={"strength": 1}))


def test_what_a_pipeline_needs_and_lacks_is_named(tmp_path: Path) -> None:
    class Animated:
        def __call__(self, image: Any, prompt: str, frame_rate: float = 25.0) -> None: ...

    with pytest.raises(ArgumentError, match="--image FILE"):
        call_arguments(Animated(), Request(PROMPT))
    assert frames_per_second(Animated(), Request(PROMPT)) == 25.0
    Image.new("L", (8, 6)).save(tmp_path / "a.png")
    given = call_arguments(Animated(), Request(PROMPT, image=tmp_path / "a.png", fps=12.0))
    assert (given["image"].mode, given["frame_rate"]) == ("RGB", 12.0)
    (tmp_path / "b.png").write_bytes(b"no picture")
    with pytest.raises(ArgumentError, match="a picture that Pillow reads"):
        call_arguments(Animated(), Request(PROMPT, image=tmp_path / "b.png"))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"prompt": " "}, "a sentence"),
        ({"steps": 0}, "steps"),
        ({"height": 1.5}, "height"),
        ({"fps": 0.0}, "fps"),
    ],
)
def test_requests_out_of_range(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ArgumentError, match=message):
        Request(**({"prompt": PROMPT} | fields))


def test_nothing_is_written_when_it_fails(
    pipe: Any, plan: ParoPlan, onnx_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "out.mp4"
    mochi = pipeline_of("flux-dev").tiny.plan()
    cases: list[tuple[dict[str, Any], type[Exception], str]] = [
        ({"plan": plan, "file": onnx_file}, ArgumentError, "both"),
        ({"backend": "cpu"}, ArgumentError, "none without a plan"),
        ({"plan": plan, "backend": "ort"}, ArgumentError, "impl"),
        ({"plan": mochi}, ModelError, "the plan's model"),
        ({"file_2": onnx_file}, ArgumentError, "a pipeline with a transformer_2"),
        ({"plan": plan, "height": 64, "width": 64}, ModelError, "leave the size out"),
        ({"guidance": 3.0}, ArgumentError, "guidance"),
        ({"arguments": {"callback_on_step_end_tensor_inputs": ["x"]}, **VIDEO}, ArgumentError, "x"),
    ]  # fmt: skip
    for options, error, message in cases:
        with pytest.raises(error, match=message):
            paro_trt.generate(pipe, PROMPT, path, **({"steps": 1} | options))
    monkeypatch.setitem(__import__("sys").modules, "imageio_ffmpeg", None)
    with pytest.raises(BackendUnavailableError, match="imageio-ffmpeg"):
        paro_trt.generate(pipe, PROMPT, path, **VIDEO, **QUICK)
    assert list(tmp_path.iterdir()) == []
    assert "forward" not in vars(pipe.transformer)


def test_nan_and_little_memory_are_one_error(tmp_path: Path) -> None:
    pipe = wan_pipeline()
    path = tmp_path / "out.mp4"
    with torch.no_grad():
        pipe.vae.decoder.conv_out.bias[0] = torch.nan
    with pytest.raises(ModelError, match="NaN or infinite"):
        paro_trt.generate(pipe, PROMPT, path, **VIDEO, **QUICK)

    def exhausted(*_: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20 GiB")

    pipe.transformer.register_forward_pre_hook(exhausted)
    with pytest.raises(ModelError, match="--offload model"):
        paro_trt.generate(pipe, PROMPT, path, **VIDEO, **QUICK)
    assert list(tmp_path.iterdir()) == []


def test_a_compiled_transformer_runs_the_plan(plan: ParoPlan, tmp_path: Path) -> None:
    pipe = wan_pipeline()
    expected = paro_trt.generate(pipe, PROMPT, tmp_path / "a.mp4", plan=plan, compare=True, **QUICK)
    compiled = torch.compile(pipe.transformer, backend="eager")
    pipe.transformer = compiled
    report = paro_trt.generate(pipe, PROMPT, tmp_path / "b.mp4", plan=plan, compare=True, **QUICK)
    assert report.quality.psnr == pytest.approx(expected.quality.psnr, abs=0.5)
    assert pipe.transformer is compiled


def test_lora_adapters_take_part_in_a_plan(plan: ParoPlan, tmp_path: Path) -> None:
    peft = pytest.importorskip("peft")
    pipe = wan_pipeline()
    path = tmp_path / "out.mp4"
    before = paro_trt.generate(pipe, PROMPT, path, plan=plan, compare=True, seed=7, **QUICK)
    plain = own_frames(pipe)
    pipe.transformer.add_adapter(
        peft.LoraConfig(r=2, target_modules=["to_q", "to_v"], init_lora_weights=False)
    )
    assert not np.allclose(own_frames(pipe), plain)
    after = paro_trt.generate(pipe, PROMPT, path, plan=plan, compare=True, seed=7, **QUICK)
    assert after.quality.psnr != before.quality.psnr
    assert after.quality.psnr > 20
