"""Attention of a pretrained diffusion UNet of 2-D pictures, `adaptive-terrain-diffusion`.

Its wheel carries an ONNX file. The attention at 1,024 tokens (32 x 32, two heads of 32 channels)
in nine places is read by making queries, keys and values outputs of the graph.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import NamedTuple

import numpy as np
import onnx
import onnxruntime
import torch
from torch import Tensor

from paro_trt.errors import ArgumentError
from paro_trt.plan import Grid, TextLayout

from .sources import LayerCall, Source, Split

PACKAGE = "terrain_diffusion"
WEIGHTS = "weights/terrain_consistency_unet_difficulty100.onnx"
GRID = Grid(1, 32, 32)
HEADS = 2
SIGMAS = (80.0, 10.0, 1.0, 0.2)
"""Noise levels that are captured: the first two are the first half of the schedule."""

PICTURES = {Split.CALIBRATION: 3, Split.VALIDATION: 1, Split.HELDOUT: 4, Split.RESEEDED: 4}
"""Pictures of each split, each of another difficulty and seed; reseeded ones have the
difficulties of those held out."""

DIFFICULTIES = {
    Split.CALIBRATION: 10,
    Split.VALIDATION: 25,
    Split.HELDOUT: 17,
    Split.RESEEDED: 17,
}
"""Of the first picture; the next is 15 more difficult."""


class _Site(NamedTuple):
    """Names of the tensors of one attention: queries and keys [2 B, D, S], values."""

    query: str
    key: str
    value: str


def find_model() -> Path:
    """The ONNX file of the installed package.

    Raises:
        ArgumentError: it is not installed.
    """
    found = importlib.util.find_spec(PACKAGE)
    path = Path(found.origin).parent / WEIGHTS if found and found.origin else None
    if path is None or not path.exists():
        raise ArgumentError(
            "--terrain-model",
            expected="the ONNX file of adaptive-terrain-diffusion",
            actual="no such package here",
            remedy="pip install --no-deps adaptive-terrain-diffusion (its own requirement, "
            "onnxruntime-gpu, would take the place of onnxruntime)",
        )
    return path


def terrain_source(path: Path | None = None) -> Source:
    """Captures of the nine layers while pictures are made of noise.

    Raises:
        ArgumentError: the file is not there, or has no such attention.
    """
    session, sites = _tapped(path or find_model())
    calls: dict[Split, list[LayerCall]] = {split: [] for split in Split}
    for number, split in enumerate(Split):
        for index in range(PICTURES[split]):
            difficulty = DIFFICULTIES[split] + 15 * index
            calls[split] += _picture(session, sites, index, difficulty, 1000 * number + index)
    return Source("pretrained UNet", GRID, TextLayout(), tuple(range(GRID.tokens // 128)), calls)


def _picture(
    session: onnxruntime.InferenceSession,
    sites: list[_Site],
    index: int,
    difficulty: int,
    seed: int,
) -> list[LayerCall]:
    """Captures of one picture: noise, and the denoised picture with less and less noise on it."""
    noise = np.random.default_rng(seed)
    clean = np.zeros((1, 1, 128, 128), dtype=np.float32)
    names = ["denoised", *(name for site in sites for name in site)]
    calls = []
    for step, sigma in enumerate(SIGMAS):
        noisy = clean + sigma * noise.standard_normal(clean.shape).astype(np.float32)
        feeds = {
            "noisy": noisy,
            "sigma": np.array([sigma], dtype=np.float32),
            "difficulty": np.array([difficulty], dtype=np.float32),
        }
        clean, *tensors = session.run(names, feeds)
        for layer in range(len(sites)):
            query, key, value = (_tokens(x) for x in tensors[3 * layer : 3 * layer + 3])
            # The graph scales queries and keys.
            half = int(step >= len(SIGMAS) // 2)
            calls.append(LayerCall(layer, half, index, query, key, value, 1.0))
    return calls


def _tokens(x: np.ndarray) -> Tensor:
    """[H, D, S] -> [S, H, D]."""
    return torch.from_numpy(x).permute(2, 0, 1).contiguous()


def _tapped(path: Path) -> tuple[onnxruntime.InferenceSession, list[_Site]]:
    """A session that also returns the inputs of every attention at 1,024 tokens."""
    model = onnx.load(path)
    shapes = {
        info.name: [dim.dim_value for dim in info.type.tensor_type.shape.dim]
        for info in onnx.shape_inference.infer_shapes(model).graph.value_info
    }
    maker = {name: node for node in model.graph.node for name in node.output}
    user = {name: node for node in model.graph.node for name in node.input}
    sites = []
    for node in model.graph.node:
        if node.op_type != "Softmax" or shapes[node.output[0]][-1] != GRID.tokens:
            continue
        query, key = maker[node.input[0]].input
        sites.append(_Site(query, key, user[node.output[0]].input[1]))
    if not sites:
        raise ArgumentError(
            str(path), expected=f"attention over {GRID.tokens} tokens", actual="none"
        )
    for name in (name for site in sites for name in site):
        model.graph.output.append(
            onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None)
        )
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    return session, sites
