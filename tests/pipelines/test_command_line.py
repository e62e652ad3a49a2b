"""generate and verify --pipeline on the command line: files, figures, status and refusals."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

from paro_trt.plan import ParoPlan, save_plan
from tests.cli.conftest import Outcome, Paro
from tests.pipelines.test_media import read_video

PROMPT = ("--prompt", "a red ball rolls left")
QUICK = ("--steps", "1", "--argument", "max_sequence_length=12")


@pytest.fixture
def plan_file(plan: ParoPlan, tmp_path: Path) -> Path:
    """The plan on disk."""
    path = tmp_path / "wan.paro.safetensors"
    save_plan(plan, path)
    return path


def test_a_video_with_a_plan_compared(
    paro: Paro,
    wan_dir: Path,
    plan_file: Path,
    tmp_path: Path,
) -> None:
    words = (wan_dir, *PROMPT, *QUICK, "--plan", plan_file, "-o", tmp_path / "out.mp4", "--fps", 8)
    outcome = paro("generate", *words, "--compare", "--json")
    report = outcome.document()
    assert report["size"] == [5, 128, 128]
    assert report["quality"]["psnr"] > 20
    assert read_video(tmp_path / "out.mp4")[0]["fps"] == 8
    failed = paro("generate", *words, "--min-psnr", "150")
    assert failed.status == 1
    assert "failed: PSNR" in failed.stdout
    for shown in ("s a step", "SSIM", "flicker", "out.quality.png", "plan, density"):
        assert shown in failed.stdout


def test_an_image(paro: Paro, flux_dir: Path, tmp_path: Path) -> None:
    target = tmp_path / "out.png"
    outcome = paro("generate", flux_dir, *PROMPT, *QUICK, "--size", "128,144", "-o", target)
    assert outcome.status == 0, outcome.stderr
    assert Image.open(target).size == (144, 128)
    assert "fps" not in outcome.stdout


def test_a_size_that_is_rounded_is_said(
    paro: Paro,
    wan_dir: Path,
    tmp_path: Path,
) -> None:
    target = tmp_path / "out.mp4"
    outcome = paro("generate", wan_dir, *PROMPT, *QUICK, "--video", "4,65,64", "-o", target)
    assert outcome.status == 0, outcome.stderr
    assert "4 x 65 x 64 does not suit this model: 5 x 64 x 64 is made" in outcome.stderr
    assert read_video(target)[1].shape == (5, 64, 64, 3)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--video", "5,64,64", "--size", "64,64"), ("--video, --size", "both")),
        (("--video", "5x64x64"), ("--video", "frames,height,width")),
        (("--size", "64"), ("--size", "height,width")),
        (("--onnx", "none.onnx"), ("none.onnx", "no such file")),
        (("--plan", "none.paro.safetensors"), ("none.paro.safetensors",)),
        (("--argument", "x"), ("NAME=VALUE",)),
        (("--device", "tpu"), ("device", "auto, cpu, cuda")),
        (("--offload", "model", "--device", "cpu"), ("offload", "none on a CPU")),
        (("--compare",), ("compare", "neither")),
        (("--weight-streaming-budget", "lots"), ("--weight-streaming-budget", "512MB")),
        (("--weight-streaming-budget", "8GB"), ("--weight-streaming-budget", "an engine's")),
        (("--image", "none.png"), ("image none.png",)),
        (("-o", "out.gif"), (".mp4",)),
        (("-o", "absent/out.mp4"), ("mkdir",)),
        (("--prompt", ""), ("prompt", "a sentence")),
    ],
)
def test_refusals_are_one_line(
    words: tuple[str, ...],
    said: tuple[str, ...],
    paro: Paro,
    wan_dir: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    given = (*PROMPT, "-o", "out.mp4", "--video", "5,64,64", *words)
    if "--size" in words and "--video" not in words:
        given = (*PROMPT, "-o", "out.mp4", *words)
    paro("generate", wan_dir, *QUICK, *given).assert_refused(*said)
    assert list(tmp_path.iterdir()) == []


def test_a_pipeline_that_is_not_there(paro: Paro, tmp_path: Path) -> None:
    target = tmp_path / "out.mp4"
    paro("generate", "someone/absent", *PROMPT, "-o", target).assert_refused("hf download")
    paro("generate", tmp_path, *PROMPT, "-o", target).assert_refused("model_index.json")


def test_verify_with_a_pipeline(
    paro: Paro,
    wan_dir: Path,
    onnx_file: Path,
    tmp_path: Path,
) -> None:
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("a red ball\n\na blue cat\na dog\n")
    words = (onnx_file, "--pipeline", wan_dir, "--prompts", prompts, "--steps", "1")

    def verify(*more: object) -> Outcome:
        return paro("verify", *words, *more)

    report = verify("--json").document()
    assert [check["prompt"] for check in report["pictures"]] == ["a red ball", "a blue cat"]
    assert report["lowest_cosine"] is None
    psnr = min(check["quality"]["psnr"] for check in report["pictures"])
    assert psnr > 20
    verify("--argument", "nonsense=1").assert_refused("nonsense", "WanPipeline")
    both = verify("--model", wan_dir, "--samples", "1", "--min-psnr", psnr + 100)
    assert both.status == 1
    assert "failed: 'a red ball': PSNR" in both.stdout
    for shown in ("velocities of", "pictures against", "flicker"):
        assert shown in both.stdout
    prompts.write_text("\n \n")
    verify().assert_refused("at least one sentence")


def test_verify_needs_a_model_or_a_pipeline(
    paro: Paro,
    wan_dir: Path,
    onnx_file: Path,
) -> None:
    paro("verify", onnx_file).assert_refused("a model, a pipeline or both")
    paro("verify", onnx_file, "--pipeline", wan_dir).assert_refused("sentences for the pipeline")
    alone = ("--argument", "max_sequence_length=12")
    paro("verify", onnx_file, "--model", wan_dir, *alone).assert_refused("--argument", "a pipeline")
    paro("verify", onnx_file, "--model", wan_dir, "--min-psnr", 3).assert_refused("--min-psnr")
