"""A tiny random model on disk and the command line, in this process and in its own."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from typer.testing import CliRunner

from paro_trt.cli.app import app
from tests.support.tiny_wan import LATENT_SHAPE, TEXT_DIM, TEXT_TOKENS, tiny_wan

LATENT = ",".join(map(str, LATENT_SHAPE[1:]))
QUICK = ("--block-q", "64", "--steps", "4", "--captured-steps", "1", "--latent", LATENT)
"""Options of a calibration that takes seconds."""

WIDTH = "120"
"""Columns of the tables, so that hashes are not folded whatever terminal runs the tests."""


@dataclass(frozen=True)
class Outcome:
    """How a command ended."""

    status: int
    stdout: str
    stderr: str

    def document(self) -> dict[str, Any]:
        """The JSON document on stdout, after success."""
        assert self.status == 0, self.stderr
        return json.loads(self.stdout)

    def assert_refused(self, *words: str, status: int = 2, begin: str = "error: ") -> None:
        """One line on stderr that begins so and holds the words; nothing on stdout."""
        assert self.status == status, self.stdout + self.stderr
        lines = [line for line in self.stderr.splitlines() if line.startswith(begin)]
        assert len(lines) == 1, self.stderr
        assert self.stderr.rstrip().endswith(lines[0])
        assert "Traceback" not in self.stderr
        assert self.stdout.strip() == ""
        missing = [word for word in words if word not in lines[0]]
        assert not missing, lines[0]


Paro = Callable[..., Outcome]


@pytest.fixture(scope="session")
def paro() -> Paro:
    """Run the command line in this process."""

    def invoke(*arguments: object) -> Outcome:
        words = [str(argument) for argument in arguments]
        result = CliRunner().invoke(app, words, env={"COLUMNS": WIDTH})
        if result.exception and not isinstance(result.exception, SystemExit):
            raise result.exception
        return Outcome(result.exit_code, result.stdout, result.stderr)

    return invoke


@pytest.fixture(scope="session")
def paro_process() -> Paro:
    """Run the command line in a process of its own."""

    def invoke(*arguments: object) -> Outcome:
        command = [sys.executable, "-m", "paro_trt", *map(str, arguments)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        return Outcome(done.returncode, done.stdout, done.stderr)

    return invoke


@pytest.fixture(scope="session")
def model_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A saved model of two layers and 128 tokens."""
    path = tmp_path_factory.mktemp("tiny") / "model"
    tiny_wan(seed=1).save_pretrained(path)
    return path


@pytest.fixture(scope="session")
def prompts_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two prompts."""
    path = tmp_path_factory.mktemp("prompts") / "prompts.safetensors"
    write_prompts(path, channels=TEXT_DIM)
    return path


@pytest.fixture(scope="session")
def plan_file(
    paro: Paro, model_dir: Path, prompts_file: Path, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """A plan that the command line made for the model."""
    path = tmp_path_factory.mktemp("plan") / "tiny.paro.safetensors"
    outcome = paro("calibrate", model_dir, "-o", path, "--prompts", prompts_file, *QUICK)
    assert outcome.status == 0, outcome.stderr
    return path


@pytest.fixture(scope="session")
def export_summary(
    paro: Paro, model_dir: Path, plan_file: Path, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Any]:
    """What `export --json` says of the model with its plan."""
    path = tmp_path_factory.mktemp("onnx") / "tiny.onnx"
    return paro(
        "export", model_dir, "--plan", plan_file, "-o", path, "--dtype", "float32", "--json"
    ).document()


@pytest.fixture(scope="session")
def onnx_file(export_summary: dict[str, Any]) -> Path:
    """The file that it wrote."""
    return Path(export_summary["file"])


@pytest.fixture
def another_model(model_dir: Path, tmp_path: Path) -> Path:
    """A model of the same weights whose config, and so whose identity, differs."""
    path = tmp_path / "another"
    shutil.copytree(model_dir, path)
    change_config(path, eps=2e-6)
    return path


def write_prompts(path: Path, *, channels: int, count: int = 2) -> None:
    """A prompt file of random embeddings offset from zero."""
    embeds = torch.randn(count, TEXT_TOKENS, channels) + 0.2
    texts = json.dumps([f"prompt {index}" for index in range(count)])
    save_file({"prompt_embeds": embeds}, path, metadata={"prompts": texts})


def change_config(directory: Path, **changes: object) -> None:
    """Rewrite entries of a model's config.json."""
    path = directory / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))
