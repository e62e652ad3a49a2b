"""The public names of `paro_trt`, and the examples of docs/api.md, run one after the other."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

import paro_trt
from tests.engine.conftest import newest  # noqa: F401 (a fixture)
from tests.support.pipelines import pipeline_of

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "api.md"
_FENCE = re.compile(r"^```python(?: (\w+))?\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def examples() -> list[tuple[str, str]]:
    """What each example needs, "", "pipeline" or "tensorrt", and its code; in the page's order."""
    return _FENCE.findall(PAGE.read_text())


def test_import_is_light_and_quick() -> None:
    code = (
        "import sys, time; began = time.process_time(); import paro_trt; "
        "took = time.process_time() - began; import json; "
        "print(json.dumps([took, sorted(sys.modules)]))"
    )
    runs = [
        json.loads(subprocess.check_output([sys.executable, "-c", code], text=True, cwd=ROOT))
        for _ in range(5)
    ]
    # Processor time, since a busy machine makes every import slow.
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


@pytest.mark.long
def test_examples_run_in_order(
    request: pytest.FixtureRequest,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """TensorRT and CUDA are stubs with the names of the real bindings; the pipeline is tiny."""
    for name in ("samples", "README.md"):
        (tmp_path / name).symlink_to(ROOT / name)
    (tmp_path / "out").mkdir()
    monkeypatch.chdir(tmp_path)
    namespace: dict[str, object] = {}
    for needs, code in examples():
        if needs == "tensorrt":
            request.getfixturevalue("newest")
        if needs == "pipeline" and "PIPELINE" not in namespace:
            namespace["PIPELINE"] = pipeline_of("wan").build()
        exec(compile(code, str(PAGE), "exec"), namespace)
    printed = capsys.readouterr().out
    for said in (
        "5 layers, density 0.30",
        "README.md",
        "; fix: ",
        "passed",
        "(1, 16, 8, 16, 16)",
        "'out/ball.mp4', 'out/ball.dense.mp4'",
        " s a step",
        "torch.Size([1, 256, 2, 64])",
        "['hidden_states', 'timestep', 'encoder_hidden_states', 'mask_bin']",
    ):
        assert said in printed
    assert [needs for needs, _ in examples()].count("tensorrt") == 1
