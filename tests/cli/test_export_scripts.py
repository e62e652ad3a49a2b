"""The scripts in export/: one a family, each from a model directory to files."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from safetensors.torch import save_file

from paro_trt.models.registry import FAMILIES
from paro_trt.testing.tiny import variants_of

SCRIPTS = Path(__file__).resolve().parents[2] / "export"


def run(script: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, SCRIPTS / f"{script}.py", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


@pytest.mark.parametrize("family", [family.name for family in FAMILIES])
def test_every_family_has_a_script(family: str) -> None:
    text = (SCRIPTS / f"{family}.py").read_text()
    assert f'ScriptDefaults("{family}"' in text
    assert f"python export/{family}.py MODEL" in text


def test_from_prompts_to_two_files_and_again_from_the_plans(tmp_path: Path) -> None:
    tiny = variants_of("wan")[0]
    tiny.build().save_pretrained(tmp_path / "model")
    prompts = tmp_path / "prompts.safetensors"
    made = tiny.prompts(1)
    save_file(dict(made.tensors), prompts, {"prompts": json.dumps(made.texts)})
    common = (tmp_path / "model", "-o", tmp_path / "wan.onnx", "--dtype", "float32")
    sizes = ("--video", "5,128,128", "--video", "9,112,80")
    first = run("wan", *common, *sizes, "--prompts", prompts)
    assert first.returncode == 0, first.stderr
    assert (tmp_path / "wan-2x8x8.onnx").is_file()
    assert (tmp_path / "wan-3x7x5.onnx").is_file()
    again = run("wan", *common, "--video", "5,128,128", "--dense")
    assert again.returncode == 0, again.stderr
    assert "0 PAROAttention layers" in again.stdout
    wrong = run("flux", *common)
    assert wrong.returncode == 2
    assert "use export/wan.py" in wrong.stderr
    missing = run("wan", *common, "--video", "9,128,128")
    assert missing.returncode == 2
    assert "--prompts" in missing.stderr
