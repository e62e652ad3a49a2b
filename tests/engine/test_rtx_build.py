"""Real engines of TensorRT for RTX, built from exported files by this package, with no GPU."""

from __future__ import annotations

import json
import os
import subprocess

import onnx
import pytest
import torch

from paro_trt.onnx_export import Body
from tests.support.family_files import EVERY_FAMILY, export_tiny
from tests.support.tiny import all_variants
from tests.tensorrt.environments import rtx_python

from .conftest import with_attention


@pytest.fixture
def paro_rtx(plugin_folder):
    """The command line in a process of its own."""
    python = rtx_python()

    def run(*arguments, plugin=True):
        folder = plugin_folder if plugin else plugin_folder / "nowhere"
        return subprocess.run(
            [str(python), "-m", "paro_trt", *map(str, arguments)],
            capture_output=True, text=True, check=False, timeout=300,
            env={**os.environ, "PARO_LIBRARY_DIR": str(folder)},
        )  # fmt: skip

    return run


def check_built(built, layers):
    """Around the plugin, and neither TensorRT nor the plugin complains."""
    assert built.complaints == []
    assert "[paro]" not in built.said
    assert built.manifest["plugin"]["name"].startswith("paro-emulated")
    assert built.manifest["onnx"]["attention"] == layers
    assert built.manifest["engine"]["bytes"] == built.path.stat().st_size > 100_000


@pytest.mark.parametrize("family", EVERY_FAMILY)
def test_every_family_becomes_an_engine_around_the_plugin(build_with_rtx, family_file, family):
    file = family_file(family)
    layers = sum(node.op_type == "PAROAttention" for node in onnx.load(file).graph.node)
    check_built(build_with_rtx(file, 89), layers)


@pytest.mark.parametrize("sm", [86, 120])
def test_other_gpus_and_a_free_batch(build_with_rtx, family_file, sm):
    built = build_with_rtx(family_file("wan"), sm, sizes={"B": (1, 2, 4)})
    check_built(built, 1)
    assert built.manifest["gpu"] == {"sm": sm, "name": ""}
    assert built.manifest["inputs"][0]["max"][0] == 4


@pytest.mark.long
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize(
    "tiny", [pytest.param(tiny, id=tiny.name) for tiny in all_variants() if tiny.available]
)
def test_every_variant_becomes_an_engine(build_with_rtx, tmp_path, tiny, dtype, fresh_seed):
    export_tiny(tiny, dtype, tmp_path / "tiny.onnx", fresh_seed)
    check_built(
        build_with_rtx(tmp_path / "tiny.onnx", 89), len(tiny.family.sites(tiny.full_config))
    )


def build(paro_rtx, source, target, *options, plugin=True):
    words = ("build", source, "-o", target, "--tensorrt", "tensorrt_rtx", "--sm", 89)
    return paro_rtx(*words, *options, plugin=plugin)


def test_command_line_uses_the_plugin_and_the_manifest_says_so(paro_rtx, half_onnx, tmp_path):
    target = tmp_path / "rtx.engine"
    sizes = ("--batch", "1,2,4", "--size", "text_tokens=1,8,32")
    done = build(paro_rtx, half_onnx, target, *sizes, "--json")
    assert done.returncode == 0, done.stderr
    manifest = json.loads(done.stdout)["manifest"]
    assert manifest["tensorrt"]["flavour"] == "tensorrt_rtx"
    assert manifest["plugin"]["name"].startswith("paro-emulated")
    again = build(paro_rtx, half_onnx, target, *sizes, "--json")
    assert json.loads(again.stdout)["reused"]


def test_function_body_only_where_it_is_asked_for(paro_rtx, half_onnx, tmp_path):
    target = tmp_path / "rtx.engine"
    refused = build(paro_rtx, half_onnx, target, plugin=False)
    assert refused.returncode == 2
    assert "make plugin" in refused.stderr
    assert "--function-body" in refused.stderr
    assert not target.exists()
    sizes = ("--batch", "1,2,4", "--size", "text_tokens=1,8,32")
    done = build(paro_rtx, half_onnx, target, *sizes, "--function-body", "--json", plugin=False)
    assert done.returncode == 0, done.stderr
    manifest = json.loads(done.stdout)["manifest"]
    assert manifest["plugin"] is None
    assert manifest["engine"]["bytes"] == target.stat().st_size > 10_000
    shown = paro_rtx("inspect", f"{target}.json")
    assert "by the function in the file, no plugin" in " ".join(shown.stdout.split())


def test_sparse_body_is_refused(paro_rtx, tmp_path):
    onnx.save(with_attention(body=Body.SPARSE), tmp_path / "sparse.onnx")
    onnx.save(with_attention(body=Body.NONE), tmp_path / "none.onnx")
    for name in ("sparse", "none"):
        source = tmp_path / f"{name}.onnx"
        done = build(paro_rtx, source, tmp_path / "a.engine", "--function-body")
        assert done.returncode == 2
        assert "--body dense" in done.stderr
    assert not list(tmp_path.glob("*.engine*"))


def test_what_the_real_parser_refuses_is_said(paro_rtx, tmp_path):
    model = with_attention()
    model.graph.node[-1].op_type = "BitwiseOr"
    onnx.save(model, tmp_path / "bad.onnx")
    done = build(paro_rtx, tmp_path / "bad.onnx", tmp_path / "a.engine")
    assert done.returncode == 2
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert "parser of TensorRT for RTX 1.7" in line


def test_a_gpu_without_kernels_is_refused_by_name(paro_rtx, half_onnx, tmp_path):
    done = build(paro_rtx, half_onnx, tmp_path / "a.engine", "--sm", 75)
    assert done.returncode == 2
    assert "SM 80 or later" in done.stderr


def test_a_package_imported_before_is_told(half_onnx, tmp_path):
    code = "import sys, tensorrt_rtx; from paro_trt.cli import main; sys.exit(main())"
    words = ["build", half_onnx, "-o", tmp_path / "a.engine", "--tensorrt", "tensorrt_rtx"]
    done = subprocess.run(
        [str(rtx_python()), "-c", code, *map(str, words), "--sm", "89"],
        capture_output=True, text=True, check=False, timeout=300,
    )  # fmt: skip
    assert done.returncode == 2
    assert "imported by paro_trt first" in done.stderr
