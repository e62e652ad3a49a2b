"""`paro_trt.export`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from os import PathLike
from typing import Any

import torch

from ..errors import ArgumentError
from ..models.live import ModelSource, open_model
from ..models.load import released_dtype
from ..models.lora import LoraFile
from ..onnx_export import Body, ExportReport, export_onnx, export_resolutions
from .arguments import PathOrStr, PlanSource, adapters, plan_of


def export(
    model: ModelSource,
    plan: PlanSource | Sequence[PlanSource],
    output: PathOrStr,
    *,
    dtype: torch.dtype | None = None,
    body: str | Body = Body.SPARSE,
    dense: bool = False,
    opset: int | None = None,
    external_data: bool | None = None,
    variant: str | None = None,
    lora: Sequence[PathOrStr | LoraFile] = (),
    progress: Callable[[str], None] | None = None,
) -> tuple[ExportReport, ...]:
    """Write a model with its plan as an ONNX file, and check what was written.

    Weights of a directory go from its files to the new one a tensor at a time: a model of any size
    takes a few GB of memory, if its weights go to a file of their own.

    Args:
        model: a directory, a diffusers transformer or a pipeline of one transformer.
        plan: made for this model. Several, one a resolution, give several files that share their
            weights and are named after `output` and their token grid.
        output: the ONNX file; it is replaced only once the new one is whole and checked.
        dtype: to load a directory in, and so the file's type; None is what the largest models of
            the family were released in, mostly bfloat16 (`families.presets`). A live model has its
            own. ONNX Runtime on a CPU needs float32.
        body: how runtimes without the plugin compute the op: "sparse", "dense" or "none".
        dense: write the model as it is, without PAROAttention, for comparison.
        opset: version of the standard operators; None chooses.
        external_data: weights in a file of their own; None: above 1.5 GB, or with several plans.
        variant: of a directory's weight files, such as "fp16"; None takes those without one, or
            the only one.
        lora: adapters to fuse into a directory's weights; LoraFile(path, scale) for another scale
            than 1. `verify` takes the same.
        progress: told what happens next.

    Returns:
        One report for each file.

    Raises:
        ModelError: a plan is of another model.
        ArgumentError: an option is out of range.
        ParoError: a file cannot be written.
    """
    several = isinstance(plan, Sequence) and not isinstance(plan, str)
    plans = [plan_of(source) for source in (plan if several else [plan])]  # type: ignore[arg-type, union-attr]
    check_external_data(external_data, len(plans))
    if dtype is None and isinstance(model, (str, PathLike)):
        dtype = released_dtype(model)
    loaded = open_model(model, dtype, variant=variant, lora=adapters(lora), weights_in_files=True)
    options: dict[str, Any] = {
        "body": _body(body), "dense_baseline": dense, "opset": opset, "progress": progress,
    }  # fmt: skip
    if len(plans) > 1:
        return export_resolutions(loaded, plans, output, **options)
    return (export_onnx(loaded, plans[0], output, external_data=external_data, **options),)


def check_external_data(external_data: bool | None, files: int) -> None:
    """Raise ArgumentError if several files shall hold their weights themselves."""
    if files > 1 and external_data is False:
        raise ArgumentError(
            "external_data (--no-external-data)",
            expected="one resolution",
            actual=f"{files}, whose files share external weights",
        )


def _body(name: str | Body) -> Body:
    try:
        return Body(name)
    except ValueError:
        known = ", ".join(body.value for body in Body)
        raise ArgumentError("body", expected=f"one of {known}", actual=repr(name)) from None
