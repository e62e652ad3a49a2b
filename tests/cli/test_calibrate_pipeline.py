"""`paro-trt calibrate PIPELINE --prompts FILE`: processes that are killed, and two at once."""

import signal
import subprocess
import sys
import time

import pytest

import paro_trt
from paro_trt.plan import load_plan
from tests.support.pipelines import pipeline_of

TEXTS = ("a red ball rolls", "a blue dog jumps", "a small yellow cat", "a green box in the video")
QUICK = (
    "--steps", "4", "--captured-steps", "1", "--block-q", "64", "--density", "0.6",
    "--prompt-limit", "3", "--video", "5,128,128",
)  # fmt: skip
PATIENCE_SECONDS = 240


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    path = tmp_path_factory.mktemp("wan")
    pipeline_of("wan").build().save_pretrained(path / "tiny-wan")
    (path / "prompts.txt").write_text("\n".join(TEXTS) + "\n")
    return path


@pytest.fixture(scope="module")
def straight(directory):
    """The plan of a call that nothing disturbed."""
    return paro_trt.calibrate(
        directory / "tiny-wan", directory / "prompts.txt", output=directory / "straight",
        num_inference_steps=4, captured_steps=1, block_q=64, density=0.6, prompt_limit=3,
        num_frames=5, height=128, width=128, time_attention=False,
    )  # fmt: skip


def started(directory, *more):
    words = ("calibrate", "tiny-wan", "--prompts", "prompts.txt", *QUICK, *more)
    return subprocess.Popen(
        [sys.executable, "-m", "paro_trt", *words],
        cwd=directory,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_killed_and_then_shared_by_two_processes(directory, straight):
    """kill -9 in the middle, then the same command twice at once: one plan, as if undisturbed."""
    output = directory / "tiny-wan.paro.safetensors"
    work = directory / "tiny-wan.paro.safetensors.work"
    victim = started(directory)
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not list(work.glob("run-0*")) and victim.poll() is None and time.monotonic() < deadline:
        time.sleep(0.01)
    victim.send_signal(signal.SIGKILL)
    victim.communicate()
    assert victim.returncode == -signal.SIGKILL
    assert work.is_dir()
    assert not output.exists()

    both = [started(directory) for _ in range(2)]
    ended = [process.communicate(timeout=PATIENCE_SECONDS) for process in both]
    assert [process.returncode for process in both] == [0, 0], ended
    assert all("resuming the unfinished work" in stderr for _, stderr in ended)
    assert not work.exists()
    plan = load_plan(output)
    assert plan.calibration.prompts == TEXTS[:3]
    assert "heldout_error" in plan.calibration.measured
    assert [layer.heads for layer in plan.layers] == [layer.heads for layer in straight.layers]
    assert all(
        (one.block_mask == other.block_mask).all()
        for one, other in zip(plan.layers, straight.layers, strict=True)
    )


def test_an_argument_reaches_the_pipelines_call(directory, paro):
    """Numbers, texts and lists; here one that changes what is recorded."""

    def made(name, *words):
        target = directory / name
        done = paro("calibrate", directory / "tiny-wan", "--prompts", directory / "prompts.txt",
                    *QUICK[:-2], "--prompt-limit", "1", "--video", "5,128,128", "-o", target,
                    *words)  # fmt: skip
        assert done.status == 0, done.stderr
        return load_plan(target), done

    plain, said = made("plain")
    longer, _ = made("longer", "--argument", "max_sequence_length=20")
    assert [layer.heads for layer in plain.layers] != [layer.heads for layer in longer.layers]
    note = "sampled by WanPipeline with its UniPCMultistepScheduler (prediction_type"
    assert any(line.startswith(note) for line in plain.calibration.notes)
    assert "sampled by WanPipeline" in said.stderr


def test_one_line_for_bad_input(directory, paro):
    pipeline = directory / "tiny-wan"
    prompts = directory / "prompts.txt"

    def refused(*words, model=pipeline, texts=prompts):
        return paro("calibrate", model, "--prompts", texts, "-o", directory / "p", *words)

    refused(model="nobody/no-such-model").assert_refused("nobody/no-such-model", "hf download")
    refused("--latent", "2,16,16").assert_refused("--video, --size", "--latent")
    refused("--video", "5,128").assert_refused("--video", "frames,height,width")
    refused("--shift", "5").assert_refused("--shift", "the pipeline's own scheduler")
    refused("--timesteps", "900,100").assert_refused("--timesteps", "--argument timesteps=")
    refused("--argument", "nonsense=1").assert_refused("nonsense", "WanPipeline")
    refused("--argument", "nonsense").assert_refused("--argument", "NAME=VALUE")
    refused("--memory", "lots").assert_refused("--memory", "2GB")
    refused("--transformer", "transformer_2").assert_refused("transformer", "'transformer_2'")
    refused("--device", "cuda").assert_refused("device", "cpu or auto")
    refused("--image", prompts).assert_refused("image")
    (directory / "none.txt").write_text("\n \n")
    refused(texts=directory / "none.txt").assert_refused("none.txt", "at least one sentence")
    assert not list(directory.glob("p*.work"))
