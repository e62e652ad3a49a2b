"""samples/cpp: compiled against stubs and run, and against real headers where they are."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).resolve().parents[2]
SOURCE = ROOT / "samples" / "cpp" / "run_engine.cpp"
STUB = Path(__file__).with_name("cpp_stub")
GXX = ["g++", "-std=c++20", "-Wall", "-Wextra", "-Wpedantic", "-Wshadow", "-Wconversion", "-Werror"]

_PEAK = """
import resource, subprocess, sys
subprocess.run(sys.argv[1:])
print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)
"""
"""Runs a program and prints its largest resident size in kB."""


@pytest.fixture(scope="module")
def runner(tmp_path_factory):
    """Run the sample, compiled against the stubs, under the address sanitizer."""
    if shutil.which("g++") is None:
        pytest.skip("no g++")
    program = tmp_path_factory.mktemp("cpp") / "run_engine"
    words = [*GXX, "-fsanitize=address,undefined", "-isystem", STUB, "-o", program, SOURCE]
    subprocess.run(list(map(str, words)), check=True)

    def run(*arguments):
        words = [str(word) for word in (program, *arguments)]
        return subprocess.run(words, capture_output=True, text=True, check=False)

    run.program = program
    return run


@pytest.fixture
def case(tmp_path):
    """An engine, random inputs of three samples, and an empty folder."""
    rng = np.random.default_rng()
    (tmp_path / "in").mkdir()
    (tmp_path / "out").mkdir()
    (tmp_path / "model.engine").write_bytes(b"engine")
    latents = rng.normal(0.2, 1, (3, 3)).astype(np.float16)
    bins = rng.integers(0, 9, 3).astype(np.int32)
    np.save(tmp_path / "in" / "hidden_states.npy", latents)
    np.save(tmp_path / "in" / "mask_bin.npy", bins)
    return tmp_path, latents, bins


def arguments(folder):
    return (folder / "model.engine", "libparo_attention.so", folder / "in", folder / "out")


@pytest.mark.parametrize("batch", [1, 3], ids=["first profile", "second profile"])
def test_runs_an_engine(runner, case, batch):
    folder, latents, bins = case
    latents, bins = latents[:batch], bins[:batch]
    np.save(folder / "in" / "hidden_states.npy", latents)
    np.save(folder / "in" / "mask_bin.npy", bins)
    done = runner(*arguments(folder))
    assert done.returncode == 0, done.stderr
    np.testing.assert_array_equal(np.load(folder / "out" / "sample.npy"), latents)
    np.testing.assert_array_equal(np.load(folder / "out" / "next_bin.npy"), bins + 1)


def test_bad_input_is_one_line(runner, case):
    folder, latents, _ = case
    file = folder / "in" / "hidden_states.npy"
    content = file.read_bytes()

    def refuse(said):
        done = runner(*arguments(folder))
        assert done.returncode == 2
        assert done.stderr.startswith("error: ")
        assert done.stderr.count("\n") == 1
        assert said in done.stderr
        assert not list((folder / "out").iterdir())

    np.save(file, latents.astype(np.float32))
    refuse("hidden_states: expected <f2, got <f4")
    np.save(file, np.asfortranarray(latents))
    refuse("expected C order")
    np.save(file, np.repeat(latents, 2, axis=0))
    refuse("a shape that the engine was not built for")
    file.write_bytes(content[:-1])
    refuse("shorter or longer")
    for damaged in (b"", b"PK\3\4 something else", content[:20]):
        file.write_bytes(damaged)
        refuse("npy")
    file.unlink()
    refuse("hidden_states.npy")
    file.write_bytes(content)
    (folder / "model.engine").write_bytes(b"of another release")
    refuse("build it again")
    done = runner(folder / "model.engine", "plugin.txt", folder / "in", folder / "out")
    assert "expected a plugin library" in done.stderr
    assert runner().returncode == 2


def test_engine_file_is_mapped_and_not_copied(runner, case):
    """One of 2 GB, of the sanitizer's own memory a few hundred MB."""
    folder, _, _ = case
    os.truncate(folder / "model.engine", 2 << 30)
    done = subprocess.run(
        [sys.executable, "-c", _PEAK, *map(str, (runner.program, *arguments(folder)))],
        capture_output=True, text=True, check=True, timeout=120,
    )  # fmt: skip
    assert "build it again" in done.stderr
    assert int(done.stdout) < 500_000


def test_an_empty_or_missing_engine_is_refused(runner, case):
    folder, _, _ = case
    (folder / "model.engine").write_bytes(b"")
    assert "got none or empty" in runner(*arguments(folder)).stderr
    (folder / "model.engine").unlink()
    done = runner(*arguments(folder))
    assert done.returncode == 2
    assert "cannot be read: No such file" in done.stderr


def test_compiles_against_the_real_headers():
    """Headers of an SDK, by TENSORRT_ROOT, and CUDA's, by CUDA_HOME."""
    root = os.environ.get("TENSORRT_ROOT", "")
    cuda = os.environ.get("CUDA_HOME", "/usr/local/cuda")
    folders = [Path(root, "include"), Path(cuda, "include")]
    if not root or not (folders[1] / "cuda_runtime_api.h").is_file():
        pytest.skip("no headers: set TENSORRT_ROOT and CUDA_HOME")
    includes = [word for folder in folders for word in ("-isystem", str(folder))]
    subprocess.run([*GXX, "-fsyntax-only", *includes, str(SOURCE)], check=True)
