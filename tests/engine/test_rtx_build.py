"""Real engines of TensorRT for RTX, built from exported files by this package, with no GPU."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import onnx
import pytest
import torch

from paro_trt.families.registry import FAMILIES
from paro_trt.onnx_export import Body, export_onnx
from tests.support.tiny import variants_of
from tests.tensorrt.environments import Package, python_with

from .conftest import with_attention


@pytest.fixture(scope="module")
def paro_rtx(tmp_path_factory):
    """The command line in a process with this environment's packages and tensorrt_rtx."""
    folder = tmp_path_factory.mktemp("rtx-site")
    (site,) = python_with(Package.RTX).parents[1].glob("lib/python*/site-packages")
    for package in site.glob("tensorrt_rtx*"):
        (folder / package.name).symlink_to(package)

    def run(*arguments):
        return subprocess.run(
            [sys.executable, "-m", "paro_trt", *map(str, arguments)],
            capture_output=True, text=True, check=False, timeout=300,
            env={**os.environ, "PYTHONPATH": str(folder)},
        )  # fmt: skip

    return run


def build(paro_rtx, source: Path, target: Path, *options):
    return paro_rtx("build", source, "-o", target, "--tensorrt", "tensorrt_rtx", *options)


@pytest.mark.parametrize("sm", [89, pytest.param(120, marks=pytest.mark.long)])
def test_engine_of_the_function_body(paro_rtx, half_onnx, tmp_path, sm):
    target = tmp_path / "rtx.engine"
    sizes = ("--batch", "1,2,4", "--size", "text_tokens=1,8,32")
    done = build(paro_rtx, half_onnx, target, "--sm", sm, *sizes, "--json")
    assert done.returncode == 0, done.stderr
    manifest = json.loads(done.stdout)["manifest"]
    assert manifest["tensorrt"]["flavour"] == "tensorrt_rtx"
    assert manifest["gpu"] == {"sm": sm, "name": ""}
    assert manifest["plugin"] is None
    assert manifest["engine"]["bytes"] == target.stat().st_size > 10_000
    shown = paro_rtx("inspect", f"{target}.json")
    assert "by the function in the file, no plugin" in " ".join(shown.stdout.split())
    again = build(paro_rtx, half_onnx, target, "--sm", sm, *sizes, "--json")
    assert json.loads(again.stdout)["reused"]


@pytest.mark.long
@pytest.mark.parametrize("family", [family.name for family in FAMILIES])
def test_every_family_becomes_an_engine(paro_rtx, tmp_path, family, fresh_seed):
    tiny = variants_of(family)[0]
    if not tiny.available:
        pytest.skip("this diffusers has no such model")
    plan = tiny.plan(qk_bits=8, pv_bits=8, pool_dropped=True, seed=fresh_seed)
    loaded, source = tiny.loaded(fresh_seed, torch.float16), tmp_path / "tiny.onnx"
    export_onnx(loaded, plan, source, body=Body.DENSE)
    done = build(paro_rtx, source, tmp_path / "tiny.engine", "--sm", 89, "--json")
    assert done.returncode == 0, done.stderr
    manifest = json.loads(done.stdout)["manifest"]
    assert manifest["onnx"]["attention"] == len(plan.layers)
    assert manifest["engine"]["bytes"] > 100_000


def test_sparse_body_is_refused(paro_rtx, tmp_path):
    onnx.save(with_attention(body=Body.SPARSE), tmp_path / "sparse.onnx")
    onnx.save(with_attention(body=Body.NONE), tmp_path / "none.onnx")
    for name in ("sparse", "none"):
        done = build(paro_rtx, tmp_path / f"{name}.onnx", tmp_path / "a.engine", "--sm", 89)
        assert done.returncode == 2
        assert "--body dense" in done.stderr
    assert not list(tmp_path.glob("*.engine*"))


def test_what_the_real_parser_refuses_is_said(paro_rtx, tmp_path):
    model = with_attention()
    model.graph.node[-1].op_type = "BitwiseOr"
    onnx.save(model, tmp_path / "bad.onnx")
    done = build(paro_rtx, tmp_path / "bad.onnx", tmp_path / "a.engine", "--sm", 89)
    assert done.returncode == 2
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert "parser of TensorRT for RTX 1.7" in line
