"""The public names of `paro_trt`, and the examples of docs/api.md, run one after the other."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

import paro_trt

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "api.md"
_FENCE = re.compile(r"^```python(?: (\w+))?\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def examples(needs: str = "") -> list[str]:
    """The code of the page that needs nothing (""), or only "tensorrt", in its order."""
    return [code for need, code in _FENCE.findall(PAGE.read_text()) if need == needs]


def test_import_is_light_and_quick() -> None:
    code = (
        "import sys, time; began = time.perf_counter(); import paro_trt; "
        "took = time.perf_counter() - began; import json; "
        "print(json.dumps([took, sorted(sys.modules)]))"
    )
    runs = [
        json.loads(subprocess.check_output([sys.executable, "-c", code], text=True, cwd=ROOT))
        for _ in range(5)
    ]
    assert min(took for took, _ in runs) < 0.05
    for heavy in ("torch", "numpy", "onnx", "onnxruntime", "diffusers", "tensorrt"):
        assert heavy not in runs[0][1]


@pytest.mark.parametrize("name", paro_trt.__all__)
def test_each_public_name_loads_and_is_described(name: str) -> None:
    value = getattr(paro_trt, name)
    assert value.__doc__
    assert f"`{name}`" in PAGE.read_text()


def test_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'calibrat'"):
        getattr(paro_trt, "calibrat")  # noqa: B009


def test_examples_run_in_order(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("samples", "README.md"):
        (tmp_path / name).symlink_to(ROOT / name)
    (tmp_path / "out").mkdir()
    monkeypatch.chdir(tmp_path)
    namespace: dict[str, object] = {}
    for code in examples():
        exec(compile(code, str(PAGE), "exec"), namespace)
    printed = capsys.readouterr().out
    assert "4 layers, density 0.30" in printed
    assert "README.md" in printed
    assert "; fix: " in printed
    assert "passed" in printed
    assert "(1, 3, 8, 64, 64)" in printed
    assert "torch.Size([1, 256, 2, 64])" in printed


def test_every_example_of_the_page_is_run_by_a_test() -> None:
    needs = {need for need, _ in _FENCE.findall(PAGE.read_text())}
    assert needs == {"", "tensorrt"}
    assert len(examples()) >= 7
