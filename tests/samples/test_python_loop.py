"""samples/python: its loop on stubs of TensorRT and CUDA, against a loop of the test's own."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import numpy as np
import pytest
import typer
from denoising_loop import OPTIONS, Prompts, denoised
from safetensors.numpy import load_file, save_file
from typer.testing import CliRunner

from paro_trt.cli.policy import exit_policy
from paro_trt.engine import BuildSettings, SizeRange
from paro_trt.engine.build import build_engine
from paro_trt.runtime.onnxruntime_session import OrtSession
from tests.engine.conftest import half_onnx, newest  # noqa: F401 (fixtures)

SCRIPT = Path(__file__).resolve().parents[2] / "samples" / "python" / "denoise.py"


@pytest.fixture(scope="module")
def script():
    spec = importlib.util.spec_from_file_location("samples_python_denoise", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def engine_file(newest, half_onnx, tmp_path):  # noqa: F811, ARG001
    path = tmp_path / "model.engine"
    sizes = {"B": SizeRange(1, 2, 2), "text_tokens": SizeRange(1, 6, 32)}
    build_engine(half_onnx, path, BuildSettings(sizes=sizes))
    return path


def run(script, *words, status=0):
    """Standard output; standard error where it must refuse."""
    app = typer.Typer()
    app.command()(script.main)

    def call():
        with exit_policy():
            app([str(word) for word in words], standalone_mode=False)

    outer = typer.Typer()
    outer.command()(call)
    done = CliRunner().invoke(outer, [])
    assert done.exit_code == status, done.output
    return done.stderr if status else done.stdout


def test_every_prompt_in_the_reference_loop(
    script,
    newest,  # noqa: F811
    engine_file,
    half_onnx,  # noqa: F811
    tmp_path,
    fresh_seed,
):
    prompts, out = Prompts.random(tmp_path / "p.safetensors", fresh_seed), tmp_path / "out"
    words = (engine_file, "--prompts", prompts.path, "-o", out, "--contexts", 2, *OPTIONS)
    said = run(script, *words)
    assert len(said.splitlines()) == 3
    with OrtSession(half_onnx, threads=1) as session:

        def velocity(latents, timestep, text, mask_bin):
            inputs = {
                "hidden_states": latents[None],
                "timestep": np.array([timestep], np.float32),
                "encoder_hidden_states": text[None],
                "mask_bin": np.array([mask_bin], np.int32),
            }
            return session.run(inputs)["sample"][0]

        for index in range(3):
            actual = load_file(out / f"{index:04d}.safetensors")["latents"]
            expected = denoised(velocity, prompts, index)
            assert np.abs(expected).max() > 100, "bins and timesteps count in this model"
            np.testing.assert_allclose(actual, expected, rtol=1e-6, atol=1e-3)
    assert newest.trt.contexts == 2
    assert "cuGraphLaunch" in newest.cuda.calls
    assert not newest.cuda.allocations


def test_a_restart_keeps_what_is_there(script, engine_file, tmp_path, fresh_seed):
    prompts, out = Prompts.random(tmp_path / "p.safetensors", fresh_seed), tmp_path / "out"
    out.mkdir()
    save_file({"latents": np.zeros(1, np.float32)}, out / "0001.safetensors")
    said = run(script, engine_file, "--prompts", prompts.path, "-o", out, *OPTIONS)
    assert [line.split()[0][-16:] for line in said.splitlines()] == [
        "0000.safetensors",
        "0002.safetensors",
    ]
    assert load_file(out / "0001.safetensors")["latents"].shape == (1,)


@pytest.mark.usefixtures("newest")
def test_bad_input_is_one_line(script, engine_file, tmp_path, fresh_seed):
    prompts = Prompts.random(tmp_path / "p.safetensors", fresh_seed)
    words = ("--prompts", prompts.path, "-o", tmp_path / "out", *OPTIONS)
    assert "paro-trt build makes one" in run(script, tmp_path / "none", *words, status=2)
    save_file({"encoder_hidden_states": prompts.texts}, prompts.path)
    assert "expected a negative prompt" in run(script, engine_file, *words, status=2)
    save_file({"text": prompts.texts, "negative.text": prompts.negative}, prompts.path)
    said = run(script, engine_file, *words, status=2)
    assert "encoder_hidden_states missing" in said
    assert said.count("\n") == 1
    prompts.path.write_bytes(b"nothing")
    assert "a safetensors file" in run(script, engine_file, *words, status=2)
    assert not list((tmp_path / "out").glob("*"))


@pytest.mark.usefixtures("newest")
@pytest.mark.timeout(60)
def test_a_failed_video_leaves_its_context_to_the_next(
    script, engine_file, tmp_path, fresh_seed, monkeypatch
):
    prompts = Prompts.random(tmp_path / "p.safetensors", fresh_seed)
    save_file({"text": prompts.texts, "negative.text": prompts.negative}, prompts.path)
    shutdown = script.ThreadPoolExecutor.shutdown
    # Cancelling comes too late: all three are tried, with one context.
    monkeypatch.setattr(
        script.ThreadPoolExecutor, "shutdown", lambda pool, **_: shutdown(pool, wait=True)
    )
    words = (engine_file, "--prompts", prompts.path, "-o", tmp_path / "out", *OPTIONS)
    assert "encoder_hidden_states missing" in run(script, *words, status=2)
