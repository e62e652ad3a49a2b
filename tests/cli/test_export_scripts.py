"""The scripts in export/: one a family, each from a model directory to files."""

from __future__ import annotations

import json
import runpy
import shutil
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
from safetensors.torch import save_file

from paro_trt.families.presets import PRESETS
from paro_trt.families.registry import FAMILIES
from tests.support.tiny import variants_of

SCRIPTS = Path(__file__).resolve().parents[2] / "export"


@dataclass(frozen=True)
class Ended:
    """What a script did."""

    status: int
    stdout: str
    stderr: str


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Callable[..., Ended]:
    """Runs a script of export/ in this process: another one would import torch anew each time."""

    def run(script: str, *arguments: object) -> Ended:
        path = str(SCRIPTS / f"{script}.py")
        monkeypatch.setattr(sys, "argv", [path, *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            runpy.run_path(path, run_name="__main__")
        said = capfd.readouterr()
        return Ended(int(ended.value.code or 0), said.out, said.err)

    return run


@pytest.mark.parametrize("family", [family.name for family in FAMILIES])
def test_every_family_has_a_script_and_a_preset(family: str) -> None:
    assert family in PRESETS
    text = (SCRIPTS / f"{family}.py").read_text()
    assert f'export_family("{family}", __doc__)' in text
    assert f"python export/{family}.py MODEL" in text


SIZES = ("--video", "5,128,128", "--video", "9,112,80")


def save_tiny_wan(tmp_path: Path) -> tuple[tuple[object, ...], Path]:
    """What every run of the script is told, and a file of prompts."""
    tiny = variants_of("wan")[0]
    tiny.build().save_pretrained(tmp_path / "model")
    prompts = tmp_path / "prompts.safetensors"
    made = tiny.prompts(1)
    save_file(dict(made.tensors), prompts, {"prompts": json.dumps(made.texts)})
    common = (tmp_path / "model", "-o", tmp_path / "wan.onnx", "--dtype", "float32")
    return common, prompts


@pytest.mark.long
def test_the_dense_file_again_from_the_plan(run: Callable[..., Ended], tmp_path: Path) -> None:
    common, prompts = save_tiny_wan(tmp_path)
    first = run("wan", *common, *SIZES[:2], "--prompts", prompts)
    assert first.status == 0, first.stderr
    again = run("wan", *common, *SIZES[:2], "--dense")
    assert again.status == 0, again.stderr
    assert "0 PAROAttention layers" in again.stdout


@pytest.mark.long
def test_from_prompts_to_two_files(run: Callable[..., Ended], tmp_path: Path) -> None:
    common, prompts = save_tiny_wan(tmp_path)
    first = run("wan", *common, *SIZES, "--prompts", prompts)
    assert first.status == 0, first.stderr
    assert (tmp_path / "wan-2x8x8.onnx").is_file()
    assert (tmp_path / "wan-3x7x5.onnx").is_file()
    plan = "{}-{}.paro.safetensors".format
    shutil.copy(tmp_path / plan("wan", "9x112x80"), tmp_path / plan("moved", "5x128x128"))
    other = run("wan", tmp_path / "model", "-o", tmp_path / "moved.onnx", "--video", "5,128,128")
    assert other.status == 2
    assert "the token grid 2 x 8 x 8, got 3 x 7 x 5" in other.stderr
    both = run("wan", *common, *SIZES, "--no-external-data")
    assert both.status == 2
    assert "--no-external-data" in both.stderr
    wrong = run("flux", *common)
    assert wrong.status == 2
    assert "use export/wan.py" in wrong.stderr
    missing = run("wan", *common, "--video", "9,128,128")
    assert missing.status == 2
    assert "--prompts" in missing.stderr
