"""What engines of released models take of a GPU's memory, by the package's own estimate.

    python -m samples.benchmarks.engine_memory "Wan 2.1 1.3B" "Flux.1"

Exports one layer of each kind at the model's true size, with random weights, and estimates its
activations, which do not grow with the number of layers. Weights are the whole model's parameters.
Prints rows of the table in docs/tensorrt.md. Nothing is measured.
"""

from __future__ import annotations

import inspect
import sys
import tempfile
from dataclasses import fields, replace
from pathlib import Path

import diffusers
import numpy as np
import torch

from paro_trt.engine import BuildSettings, SizeRange
from paro_trt.engine.estimate import memory_of_file
from paro_trt.engine.gpu_memory import fits
from paro_trt.engine.manifest import MemoryRecord
from paro_trt.families.base import AttentionSite
from paro_trt.models.load import load_model
from paro_trt.onnx_export import Body, export_onnx
from paro_trt.plan import LayerPlan

from .geometry.releases import Pixels, Release, supported_releases
from .geometry.true_size import build_layer

HEADS = 2
"""Of the layer whose masks are made; the other heads repeat them."""

_LAYERS = ("num_layers", "num_single_layers", "num_refiner_layers")
_ITEM_SIZE = 2
"""Bytes of a bfloat16 weight; the few that stay float32 are not told apart."""


def widened(layer: LayerPlan, site: AttentionSite) -> LayerPlan:
    """A layer's plan with the heads of the true one."""
    times = site.heads // HEADS
    changed: dict[str, object] = {"name": site.name, "heads": layer.heads * times}
    for entry in fields(layer):
        value = getattr(layer, entry.name)
        if isinstance(value, np.ndarray):
            axis = {"head_order": 0}.get(entry.name, 1)
            changed[entry.name] = np.concatenate([value] * times, axis=axis)
    return replace(layer, **changed)  # type: ignore[arg-type]


def layer_memory(release: Release, size: Pixels, folder: Path) -> MemoryRecord:
    """Estimated memory of one layer of each kind, at batch 1."""
    model_class = getattr(diffusers, release.class_name)
    known = inspect.signature(model_class.__init__).parameters
    one = replace(release, config={**release.config, **{n: 1 for n in _LAYERS if n in known}})
    model = model_class(**one.config)
    model.save_pretrained(folder / "model")
    del model
    loaded = load_model(folder / "model", torch.bfloat16, weights_in_files=True)
    sites = one.family.sites(one.full_config())
    narrow = replace(sites[0], heads=HEADS, kv_heads=HEADS)
    plan = build_layer(one.geometry(size), narrow, 0).plan
    layers = tuple(widened(plan.layers[0], site) for site in sites)
    plan = replace(plan, layers=layers, model=loaded.identity)
    export_onnx(loaded, plan, folder / "layer.onnx", body=Body.NONE, external_data=True)
    settings = BuildSettings(sizes={"B": SizeRange(1, 1, 1)})
    memory, said = memory_of_file(folder / "layer.onnx", settings)
    print(f"{release.name} {size}: {said}", file=sys.stderr)
    return memory


def row(release: Release, size: Pixels) -> str:
    """One line of the table."""
    with torch.device("meta"):
        whole = getattr(diffusers, release.class_name)(**release.config)
    weights = _ITEM_SIZE * sum(entry.numel() for entry in whole.parameters())
    with tempfile.TemporaryDirectory() as folder:
        memory = layer_memory(release, size, Path(folder))
    assert memory.activations is not None
    workspace = "?" if memory.plugin_workspace is None else f"{memory.plugin_workspace / 1e9:.2f}"
    cells = [
        release.name, " x ".join(map(str, size)), f"{weights / 1e9:.1f}",
        f"{memory.activations / 1e9:.1f}", workspace, fits(weights + memory.activations),
        fits(weights + 2 * memory.activations), fits(memory.activations + weights // 4),
    ]  # fmt: skip
    return f"| {' | '.join(cells)} |"


def main(names: list[str]) -> None:
    """Print a row for each size of the releases that are named, or of all."""
    for release in supported_releases():
        if not names or release.name in names:
            for size in release.sizes:
                print(row(release, size), flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
