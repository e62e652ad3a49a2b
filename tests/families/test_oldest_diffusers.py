"""The other end of the range of diffusers: all tests of models with its oldest release."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from paro_trt.families.shared.diffusers_range import OLDEST
from tests.native_builds import ROOT, locked

RELEASE = ".".join(map(str, OLDEST))


@pytest.fixture(scope="module")
def oldest_diffusers() -> Path:
    """A folder for PYTHONPATH that holds that release alone; skips where it cannot be installed.

    What it depends on is the tests' own environment's.
    """
    folder = ROOT / "build" / "venvs" / f"diffusers-{RELEASE}"
    ready = folder / ".installed"
    with locked(folder):
        if not ready.exists():
            pip = [sys.executable, "-m", "pip", "install", "--quiet", "--retries", "1", "--no-deps"]
            words = [*pip, "--upgrade", "--target", str(folder), f"diffusers=={RELEASE}.*"]
            done = subprocess.run(words, capture_output=True, text=True, timeout=500)
            if done.returncode != 0:
                pytest.skip(f"diffusers {RELEASE} cannot be installed here: {done.stderr[-200:]}")
            ready.touch()
    return folder


def run(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, *arguments]
    environment = os.environ | {"PYTHONPATH": str(folder)}
    return subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env=environment)


@pytest.mark.long
def test_models_with_the_oldest_diffusers(oldest_diffusers: Path) -> None:
    asked = run(oldest_diffusers, "-c", "import diffusers; print(diffusers.__version__)")
    assert asked.stdout.startswith(f"{RELEASE}."), asked.stderr
    done = run(
        oldest_diffusers, "-m", "pytest", "tests/models", "tests/cli/test_export_scripts.py",
        "-m", "not long", "-n", "0", "-q", "-p", "no:cacheprovider",
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-4000:]
