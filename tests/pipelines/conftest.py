"""Complete tiny pipelines of random weights on disk: a WanPipeline and a FluxPipeline."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

from paro_trt.onnx_export import export_onnx
from paro_trt.plan import ParoPlan
from tests.cli.conftest import paro  # noqa: F401 (a fixture)
from tests.support.pipelines import pipeline_of

VIDEO = {"height": 128, "width": 128, "num_frames": 5}
"""Pixels of the Wan pipeline's 2 x 8 x 8 tokens."""


def wan_pipeline(**parts: Any) -> Any:
    """A WanPipeline, some of its parts exchanged."""
    pipe = pipeline_of("wan").build()
    if not parts:
        return pipe
    made = type(pipe)(**(pipe.components | parts))
    made.set_progress_bar_config(disable=True)
    return made


def cache_entry(pipeline: Path, cache: Path, hub_id: str, revision: str = "0" * 40) -> Path:
    """Put a copy of a pipeline into a hub cache as its main branch; the entry's directory."""
    entry = cache / f"models--{hub_id.replace('/', '--')}"
    shutil.copytree(pipeline, entry / "snapshots" / revision)
    (entry / "refs").mkdir(exist_ok=True)
    (entry / "refs" / "main").write_text(revision)
    return entry


@pytest.fixture
def hub_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty hub cache in place of the user's."""
    from huggingface_hub import constants

    path = tmp_path / "hub"
    path.mkdir()
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(path))
    return path


@pytest.fixture(scope="session")
def wan_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A saved WanPipeline."""
    path = tmp_path_factory.mktemp("wan") / "pipeline"
    wan_pipeline().save_pretrained(path)
    return path


@pytest.fixture(scope="session")
def flux_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A saved FluxPipeline."""
    path = tmp_path_factory.mktemp("flux") / "pipeline"
    pipeline_of("flux-dev").build().save_pretrained(path)
    return path


@pytest.fixture(scope="session")
def plan() -> ParoPlan:
    """Of the Wan pipeline's transformer and size."""
    return pipeline_of("wan").tiny.plan(density=0.4, bins=2)


@pytest.fixture(scope="session")
def onnx_file(plan: ParoPlan, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The Wan pipeline's transformer with the plan, exported."""
    path = tmp_path_factory.mktemp("onnx") / "tiny.onnx"
    export_onnx(pipeline_of("wan").tiny.loaded(), plan, path)
    return path
