"""Models that cannot be traced give one clear error, whatever the exporter raises."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from paro_trt.errors import ModelError
from paro_trt.onnx_export import export_onnx
from tests.support.tiny import variants_of

TINY = variants_of("wan")[0]


def of_one_batch(latents: torch.Tensor, stock: torch.Tensor) -> torch.Tensor:
    return stock * torch.ones(len([0] * latents.shape[0]), 1, 1, 1, 1)


def branching(latents: torch.Tensor, stock: torch.Tensor) -> torch.Tensor:
    return stock if latents.sum() > 0 else -stock


def refused(latents: torch.Tensor, stock: torch.Tensor) -> torch.Tensor:
    raise ModelError("the latents", expected="others", actual=f"{latents.ndim} axes {stock.ndim}")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (of_one_batch, r"tracing WanTransformer3DModel: .*static shape of 2.*adding-a-model\.md"),
        (branching, r"tracing WanTransformer3DModel: .*got .*data-dependent.*adding-a-model\.md"),
        (refused, r"^the latents: expected others"),
    ],
)
def test_model_that_cannot_be_traced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: Callable[..., Any], message: str
) -> None:
    family, stock = type(TINY.family), type(TINY.family).forward

    def forward(self: Any, model: Any, geometry: Any, latents: Any, *rest: Any) -> Any:
        return (change(latents, *stock(self, model, geometry, latents, *rest)),)

    monkeypatch.setattr(family, "forward", forward)
    with pytest.raises(ModelError, match=message) as info:
        export_onnx(TINY.loaded(), TINY.plan(), tmp_path / "x.onnx")
    assert "\n" not in str(info.value)
    assert list(tmp_path.iterdir()) == []
