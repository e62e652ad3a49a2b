"""`paro-trt build`, `inspect` and `run` of engines, on stubs of TensorRT and CUDA."""

from __future__ import annotations

import subprocess
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from tests.engine.conftest import half_onnx, newest  # noqa: F401 (fixtures)

ROOT = Path(__file__).resolve().parents[2]


def test_build_inspect_run(paro, newest, half_onnx, tmp_path):  # noqa: F811, ARG001
    engine, cache = tmp_path / "a.engine", tmp_path / "timing.cache"
    options = ("--batch", "1,1,4", "--size", "text_tokens=1,8,32", "--timing-cache", cache)
    built = paro("build", half_onnx, "-o", engine, *options)
    assert built.status == 0, built.stderr
    assert "wrote" in built.stdout
    assert cache.is_file()
    assert paro("build", half_onnx, "-o", engine, *options, "--json").document()["reused"]
    shown = paro("inspect", f"{engine}.json")
    assert "SM 89 (Stub GPU)" in shown.stdout
    assert "B=1..1..4 x 4 x 2 x 16 x 16" in shown.stdout
    document = paro("inspect", f"{engine}.json", "--json").document()
    assert document["inputs"][0]["max"] == [4, 4, 2, 16, 16]
    rng = np.random.default_rng()
    inputs = {
        "hidden_states": rng.normal(0.2, 1, (2, 4, 2, 16, 16)).astype(np.float16),
        "timestep": np.array([900, 100], np.float32),
        "encoder_hidden_states": rng.normal(size=(2, 3, 16)).astype(np.float16),
        "mask_bin": np.array([0, 2], np.int32),
    }
    save_file(inputs, tmp_path / "in.safetensors")
    outputs = []
    for file in (engine, half_onnx):
        out = tmp_path / "out.safetensors"
        words = ("--inputs", tmp_path / "in.safetensors", "-o", out, "--json")
        ran = paro("run", file, *words).document()
        assert ran["backend"] == ("tensorrt" if file == engine else "ort")
        outputs.append(load_file(out)["sample"])
    np.testing.assert_array_equal(*outputs)


def test_profiles_streaming_and_memory(paro, newest, half_onnx, tmp_path):  # noqa: F811
    engine = tmp_path / "a.engine"
    options = ("--batch", "1,1,1", "--batch", "2,2,4", "--size", "text_tokens=1,8,32")
    built = paro("build", half_onnx, "-o", engine, *options, "--weight-streaming")
    assert built.status == 0, built.stderr
    assert "batches" in built.stdout
    assert "1, tuned for 1; 2 to 4, tuned for 2" in built.stdout
    assert "estimated, not measured: memory: weights" in built.stderr
    inputs = {
        "hidden_states": np.ones((3, 4, 2, 16, 16), np.float16),
        "timestep": np.full(3, 100, np.float32),
        "encoder_hidden_states": np.ones((3, 3, 16), np.float16),
        "mask_bin": np.zeros(3, np.int32),
    }
    save_file(inputs, tmp_path / "in.safetensors")
    words = ("--inputs", tmp_path / "in.safetensors", "-o", tmp_path / "out.safetensors")
    for budget in ("auto", "0.0005MB"):
        ran = paro("run", engine, *words, "--weight-streaming-budget", budget, "--no-hash")
        assert ran.status == 0, ran.stderr
    refused = paro("run", engine, *words, "--weight-streaming-budget", "some")
    refused.assert_refused("a size such as 512MB")
    paro("run", half_onnx, *words, "--weight-streaming-budget", "1GB").assert_refused("an engine's")
    assert newest.trt.executions == 2


@pytest.mark.long
def test_what_a_file_takes_of_a_gpu(paro, half_onnx, plan_file, tmp_path):  # noqa: F811
    shown = paro("doctor", "--file", half_onnx)
    assert "model.onnx on a GPU" in shown.stdout
    assert "estimated, not measured" in " ".join(shown.stdout.split())
    written = paro("report", plan_file, "-o", tmp_path / "a.html", "--file", half_onnx, "--json")
    assert any("estimated" in name for name in written.document()["memory"])
    words = ("report", plan_file, "-o", tmp_path / "b.html", "--file", tmp_path / "no.onnx")
    paro(*words).assert_refused("no such file")
    assert not (tmp_path / "b.html").exists()


@pytest.mark.long
def test_refit_on_the_command_line(paro, newest, model_dir, plan_file, tmp_path):  # noqa: F811
    half, engine = tmp_path / "half.onnx", tmp_path / "half.engine"
    words = (model_dir, "--plan", plan_file, "-o", half, "--dtype", "float16", "--body", "dense")
    assert paro("export", *words).status == 0
    assert paro("build", half, "-o", engine, "--refit").status == 0
    other = tmp_path / "other.engine"
    done = paro("refit", engine, "--weights", model_dir, "-o", other, "--json")
    assert done.document()["replaced"] > 10
    assert newest.trt.refits == 1
    assert "now " in paro("inspect", f"{other}.json").stdout


def test_refit_of_what_is_none(paro, newest, half_onnx, model_dir, tmp_path):  # noqa: F811, ARG001
    engine = tmp_path / "a.engine"
    assert paro("build", half_onnx, "-o", engine).status == 0
    refit = ("refit", engine, "--weights", model_dir)
    paro(*refit).assert_refused("paro-trt build --refit")
    (tmp_path / "style.safetensors").write_bytes(b"")
    only = ("refit", engine, "--weights", f"{tmp_path / 'style.safetensors'}:0.5")
    paro(*only).assert_refused("pass --weights MODEL --weights LORA.safetensors")
    paro(*refit, "--weights", tmp_path / "none.safetensors").assert_refused("no such file")
    paro("refit", tmp_path / "no.engine", "--weights", model_dir).assert_refused("no such file")
    built = paro("build", half_onnx, "-o", tmp_path / "b.engine", "--refit")
    built.assert_refused("weights of linear layers by their names")
    assert not (tmp_path / "b.engine").exists()


@pytest.mark.long
def test_verify_an_engine(paro, newest, model_dir, plan_file, prompts_file, tmp_path):  # noqa: F811, ARG001
    half, engine = tmp_path / "half.onnx", tmp_path / "half.engine"
    words = (model_dir, "--plan", plan_file, "-o", half, "--dtype", "float16")
    assert paro("export", *words).status == 0
    assert paro("build", half, "-o", engine, "--batch", "1,2,2").status == 0
    options = ("--prompts", prompts_file, "--samples", "1", "--steps", "2", "--min-cosine", "0.5")
    report = paro("verify", engine, "--model", model_dir, *options, "--json").document()
    assert report["file"] == str(engine)
    assert report["velocities"]


def test_print_trtexec_builds_nothing(paro, half_onnx, tmp_path):  # noqa: F811
    target = tmp_path / "a.engine"
    words = ("--batch", "1,2,4", "--level", "3", "--workspace", "2048", "--max-aux-streams", "1")
    flags = ("--weight-streaming", "--profiling", "--timing-cache", "t.cache", "--print-trtexec")
    shown = paro("build", half_onnx, "-o", target, *words, *flags)
    assert shown.status == 0, shown.stderr
    lines = [line.strip().removesuffix(" \\") for line in shown.stdout.splitlines()]
    assert lines[0] == "trtexec"
    assert set(lines) >= {
        f"--onnx={half_onnx}", f"--saveEngine={target}", "--stronglyTyped",
        "--optShapes=hidden_states:2x4x2x16x16,timestep:2,encoder_hidden_states:2x512x16,mask_bin:2",
        "--builderOptimizationLevel=3", "--memPoolSize=workspace:2048", "--maxAuxStreams=1",
        "--allowWeightStreaming", "--profilingVerbosity=detailed", "--timingCacheFile=t.cache",
    }  # fmt: skip
    assert any(line.startswith("--dynamicPlugins=") for line in lines)
    profiles = ("--batch", "1,1,1", "--batch", "2,2,4", "--refit", "--print-trtexec")
    shown = paro("build", half_onnx, "-o", target, *profiles)
    words = [line.strip().removesuffix(" \\") for line in shown.stdout.splitlines()]
    # trtexec reads a profile's three options right after its number.
    second = words.index("--profile=1")
    assert words.index("--profile=0") == second - 4
    assert words[second + 3].startswith("--maxShapes=hidden_states:4x")
    assert "--refit" in words
    assert not list(tmp_path.iterdir())


def test_export_scripts_are_the_same_command(half_onnx, tmp_path):  # noqa: F811
    words = ["sh", ROOT / "export" / "trtexec.sh", half_onnx, tmp_path / "a.engine"]
    done = subprocess.run(
        [*map(str, words), "--dry-run"], capture_output=True, text=True, cwd=ROOT, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "trtexec" in done.stdout
    assert f"--onnx={half_onnx}" in done.stdout


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--batch", "1,2"), "--batch"),
        (("--batch", "2,1,4"), "1 <= min <= opt <= max"),
        (("--batch", "1,1,2", "--batch", "2,2,4"), "pass ranges that do not overlap"),
        (("--size", "text_tokens"), "NAME=MIN,OPT,MAX"),
        (("--size", "K=1,1,1"), "size K"),
        (("--level", "9"), "builder_level"),
        (("--sm", "89"), "GPU in this machine"),
        (("--tensorrt", "tensorrt_rtx"), "pass --sm"),
        (("--dense",), "leave out --dense"),
    ],
)
def test_bad_options(paro, newest, half_onnx, tmp_path, options, said):  # noqa: F811, ARG001
    paro("build", half_onnx, "-o", tmp_path / "a.engine", *options).assert_refused(said)
    assert not list(tmp_path.glob("a.engine*"))


def test_bad_files(paro, half_onnx, tmp_path):  # noqa: F811
    target = tmp_path / "a.engine"
    paro("build", tmp_path / "none.onnx", "-o", target).assert_refused("no such file")
    paro("build", half_onnx, "-o", tmp_path / "no" / "a.engine").assert_refused("mkdir -p")
    (tmp_path / "junk.onnx").write_bytes(b"\x08junk")
    paro("build", tmp_path / "junk.onnx", "-o", target).assert_refused("junk.onnx")
    paro("build", half_onnx, "-o", target).assert_refused("pip install tensorrt")
    paro("inspect", half_onnx)
    (tmp_path / "m.json").write_text("{")
    paro("inspect", tmp_path / "m.json").assert_refused("manifest: expected JSON")
    assert not target.exists()
