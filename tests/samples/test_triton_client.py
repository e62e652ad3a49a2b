"""samples/triton: the client against a stub of the server that speaks its real protocol.

The stub reads the config.pbtxt that `paro-trt triton` writes: repository and client agree.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from denoising_loop import OPTIONS, Prompts, denoised
from safetensors.numpy import load_file, save_file

from paro_trt.engine import BuildSettings, SizeRange
from paro_trt.engine.build import build_engine
from paro_trt.engine.triton import TritonOptions, write_repository
from tests.engine.conftest import half_onnx, newest  # noqa: F401 (fixtures)
from tests.tensorrt.environments import tritonclient_folder

ROOT = Path(__file__).resolve().parents[2]
CLIENT = ROOT / "samples" / "triton" / "client.py"
STAND_IN = Path(__file__).with_name("triton_stub.py")


@pytest.fixture
def environment():
    """Of processes that import tritonclient and nothing of this project."""
    return {**os.environ, "PYTHONPATH": str(tritonclient_folder())}


@pytest.fixture
def url(environment, newest, half_onnx, tmp_path):  # noqa: F811, ARG001
    """Of a server of one repository."""
    sizes = {"B": SizeRange(1, 2, 2), "text_tokens": SizeRange(1, 6, 32)}
    build_engine(half_onnx, tmp_path / "a.engine", BuildSettings(sizes=sizes))
    written = write_repository(tmp_path / "a.engine", tmp_path / "repo", TritonOptions("wan"))
    words = [sys.executable, str(STAND_IN), str(written.config)]
    server = subprocess.Popen(words, env=environment, stdout=subprocess.PIPE, text=True)
    try:
        yield f"localhost:{int(server.stdout.readline())}"
    finally:
        server.kill()
        server.wait()


@pytest.fixture
def client(environment, tmp_path):
    def run(*words):
        command = [sys.executable, str(CLIENT), *map(str, words), "-o", str(tmp_path / "out")]
        return subprocess.run(
            command, env=environment, capture_output=True, text=True, timeout=120, check=False
        )

    return run


def velocity(latents, timestep, text, mask_bin):
    """The stub's model."""
    offset = np.float32(timestep) / 1000 + mask_bin + text.astype(np.float32).mean()
    return latents / 2 + offset.astype(np.float16)


def test_every_prompt_through_the_server(client, url, tmp_path, fresh_seed):
    prompts = Prompts.random(tmp_path / "p.safetensors", fresh_seed)
    done = client("wan", "--url", url, "--prompts", prompts.path, "--parallel", 3, *OPTIONS)
    assert done.returncode == 0, done.stderr
    for index in range(3):
        actual = load_file(tmp_path / "out" / f"{index:04d}.safetensors")["latents"]
        expected = denoised(velocity, prompts, index)
        # The server's sum of a mean may round to the other float16.
        np.testing.assert_allclose(actual, expected, atol=0.02 * np.abs(expected).max())
        assert np.abs(actual - denoised(velocity, prompts, (index + 1) % 3)).max() > 0.1


def test_bad_input_is_one_line(client, url, tmp_path, fresh_seed):
    prompts = Prompts.random(tmp_path / "p.safetensors", fresh_seed)
    common = ("--prompts", prompts.path, *OPTIONS)

    def refused(name, address, said):
        done = client(name, "--url", address, *common)
        assert done.returncode == 1
        assert done.stderr.startswith("error: ")
        assert done.stderr.count("\n") == 1
        assert said in done.stderr
        assert not list((tmp_path / "out").glob("*"))

    refused("flux", url, "unknown model flux")
    refused("wan", "localhost:1", "UNAVAILABLE")
    save_file({"text": prompts.texts, "negative.text": prompts.negative}, prompts.path)
    refused("wan", url, "text: the model takes hidden_states")
    save_file({"encoder_hidden_states": prompts.texts}, prompts.path)
    refused("wan", url, "pass --guidance-scale 1")
