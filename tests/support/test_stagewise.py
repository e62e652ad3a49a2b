"""The comparison of files with models: right files pass whatever the seed, spoiled ones do not."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray

from paro_trt.models.apply import ParoTransformer
from paro_trt.onnx_export import export_onnx
from tests.support.stagewise import StagewiseComparison
from tests.support.tiny import variants_of

TINY = variants_of("wan")[0]
PLAN = TINY.plan(qk_bits=8, pv_bits=8, pool_dropped=True, density=0.3)


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("exported") / "tiny.onnx"
    export_onnx(TINY.loaded(), PLAN, path)
    return path


def compare(path: Path, exposed: Path, seed: int) -> None:
    loaded = TINY.loaded()
    planned = ParoTransformer(loaded.model, loaded.family, PLAN)
    with StagewiseComparison(path, planned, exposed) as comparison:
        comparison.check(*TINY.inputs(2, seed))


def test_right_file_passes(exported, tmp_path, fresh_seed):
    compare(exported, tmp_path / "exposed.onnx", fresh_seed)


def change_constant(
    model: onnx.ModelProto, index: int, change: Callable[[NDArray], NDArray]
) -> None:
    """Of the last PAROAttention, the input of this index."""
    node = next(node for node in reversed(model.graph.node) if node.op_type == "PAROAttention")
    tensor = next(entry for entry in model.graph.initializer if entry.name == node.input[index])
    changed = np.ascontiguousarray(change(onnx.numpy_helper.to_array(tensor)))
    model.graph.initializer.append(onnx.numpy_helper.from_array(changed, "spoiled"))
    node.input[index] = "spoiled"


def swap_head_orders(model: onnx.ModelProto) -> None:
    change_constant(model, 4, lambda orders: (orders + 1) % 6)


def swap_bins(model: onnx.ModelProto) -> None:
    change_constant(model, 5, lambda masks: masks[::-1])


def swap_heads_of_the_affine(model: onnx.ModelProto) -> None:
    change_constant(model, 7, lambda affine: affine[:, ::-1])


def scale_logits(model: onnx.ModelProto) -> None:
    node = next(node for node in model.graph.node if node.op_type == "PAROAttention")
    next(entry for entry in node.attribute if entry.name == "scale").f *= 1.1


def forget_pooling(model: onnx.ModelProto) -> None:
    node = next(node for node in model.graph.node if node.op_type == "PAROAttention")
    next(entry for entry in node.attribute if entry.name == "pool_dropped").i = 0


def swap_query_and_key(model: onnx.ModelProto) -> None:
    node = next(node for node in model.graph.node if node.op_type == "PAROAttention")
    node.input[0], node.input[1] = node.input[1], node.input[0]


def use_the_first_attention_twice(model: onnx.ModelProto) -> None:
    first, last = (node for node in model.graph.node if node.op_type == "PAROAttention")
    for node in model.graph.node:
        for index, name in enumerate(node.input):
            if name == last.output[0]:
                node.input[index] = first.output[0]


@pytest.mark.parametrize(
    ("spoil", "stage"),
    [
        (swap_head_orders, "attention of blocks.1"),
        (swap_bins, "attention of blocks.1"),
        (swap_heads_of_the_affine, "attention of blocks.1"),
        (scale_logits, "attention of blocks.0"),
        (forget_pooling, "attention of blocks.0"),
        (swap_query_and_key, "query of blocks.0"),
        (use_the_first_attention_twice, "the output"),
    ],
)
def test_spoiled_file_is_caught(exported, tmp_path, fresh_seed, spoil, stage):
    model = onnx.load(exported)
    spoil(model)
    path = tmp_path / "spoiled.onnx"
    onnx.save(model, path)
    with pytest.raises(AssertionError, match=stage):
        compare(path, tmp_path / "exposed.onnx", fresh_seed)
