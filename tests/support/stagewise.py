"""Compares an exported file with its model, stage by stage, at any bit width.

Two correct implementations sum in another order, so that now and then a number near a rounding
edge gets another code. That moves the output by a code's step, far more than rounding does: no
tolerance on the whole model's output is both safe and sharp. So the model is given the file's own
attention outputs, layer by layer. Each piece of the model between two attentions then starts from
the file's numbers and differs by floating-point rounding alone, and each attention is held against
the reference on the file's own query, key and value, by the tolerance policy of `numerics`.
Everything that the file computes is in one of these pieces.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import onnx
import torch
from torch import Tensor

from paro_trt.models.apply import ParoTransformer
from paro_trt.op.spec import DOMAIN, OP_TYPE, AttentionConfig, AttentionInputs
from paro_trt.runtime.onnxruntime_session import OrtSession
from paro_trt.runtime.session import Arrays
from paro_trt.runtime.velocity import session_velocity

from .numerics import compare

FLOAT32_TOLERANCE = 4e-5
"""Of float32 sums in another order, in units of the largest number: a few hundred roundings."""

_PARTS = ("query", "key", "value", "output")


def expose_attention(path: Path, exposed: Path) -> None:
    """Copy an exported file so that each PAROAttention's tensors are outputs too.

    Args:
        path: the file.
        exposed: the copy, weights inside; the new outputs are "<layer>/query", key, value, output.
    """
    model = onnx.load(path)
    for node in [node for node in model.graph.node if node.domain == DOMAIN]:
        layer = node.name.removesuffix(f"/{OP_TYPE}")
        for part, name in zip(_PARTS, (*node.input[:3], node.output[0]), strict=True):
            alias = f"{layer}/{part}"
            model.graph.node.append(onnx.helper.make_node("Identity", [name], [alias]))
            model.graph.output.append(onnx.ValueInfoProto(name=alias))
    onnx.save(model, exposed)


def assert_equal_sums(subject: str, actual: Tensor, expected: Tensor) -> None:
    """AssertionError unless two float32 tensors differ by rounding alone."""
    error = float((actual - expected).abs().max())
    allowed = FLOAT32_TOLERANCE * float(expected.abs().max())
    assert error <= allowed, f"{subject}: error {error:.3e}, allowed {allowed:.3e}"


class StagewiseComparison:
    """Asserts that an exported float32 file computes what the planned model does.

    Args:
        path: the file.
        planned: the model with its plan; its layers are replaced.
        exposed: where `expose_attention` may write.
    """

    def __init__(self, path: Path, planned: ParoTransformer, exposed: Path) -> None:
        expose_attention(path, exposed)
        self._session = _RecordingSession(exposed, threads=1)
        self._velocity = session_velocity(self._session)
        self._stages = [
            _Stage(site.name, layer)
            for site, layer in zip(planned.sites, planned.layers, strict=True)
        ]
        planned.layers = torch.nn.ModuleList(self._stages)
        self._planned = planned

    def check(self, latents: Tensor, timestep: Tensor, conditioning: Mapping[str, Tensor]) -> None:
        """Compare on inputs as of `ParoTransformer.velocity`; an AssertionError names the stage."""
        actual = self._velocity(latents, timestep, conditioning)
        for stage in self._stages:
            stage.found = {
                part: torch.from_numpy(self._session.outcome[f"{stage.name}/{part}"])
                for part in _PARTS
            }
        expected = self._planned.velocity(latents, timestep, conditioning)
        assert_equal_sums("the output", actual, expected)

    def __enter__(self) -> StagewiseComparison:
        return self

    def __exit__(self, *_: object) -> None:
        self._session.close()


class _RecordingSession(OrtSession):
    """Keeps all outputs of the last run."""

    outcome: Arrays

    def _execute(self, inputs: Arrays) -> Arrays:
        self.outcome = super()._execute(inputs)
        return self.outcome


class _Stage(torch.nn.Module):
    """In place of a layer's attention: checks the file's, and hands it to the model."""

    def __init__(self, name: str, layer: Any) -> None:
        super().__init__()
        self.name, self.layer = name, layer
        self.found: dict[str, Tensor] = {}

    def forward(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        token_order: Tensor,
        mask_bin: Tensor,
        key_length: Tensor,
        scale: float,
    ) -> Tensor:
        """The file's output [B, S, H, D]; arguments as of PlannedAttention."""
        for part, expected in (("query", query), ("key", key), ("value", value)):
            assert_equal_sums(f"{part} of {self.name}", self.found[part], expected)
        layer, found = self.layer, self.found
        inputs = AttentionInputs(
            found["query"], found["key"], found["value"], token_order, layer.head_order,
            layer.block_mask, layer.tile_order, layer.channel_affine, mask_bin, key_length,
            layer.fine_mask, layer.corrected_heads, layer.dynamic_blocks, layer.rotation,
        )  # fmt: skip
        config = AttentionConfig(
            scale=scale,
            block_q=layer.block_q,
            block_k=layer.block_k,
            qk_bits=layer.qk_bits,
            pv_bits=layer.pv_bits,
            pool_dropped=bool(layer.pool_dropped),
            fine_summaries=layer.fine_mask is not None,
            mean_correction=layer.corrected_heads is not None,
            routing=layer.dynamic_blocks is not None,
            smoothing=layer.rotation is not None,
        )
        comparison = compare(found["output"], inputs, config)
        assert comparison.ok, f"attention of {self.name}: {comparison}"
        return found["output"]
