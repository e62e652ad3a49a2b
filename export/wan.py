"""Export a Wan transformer (diffusers format) with its PAROAttention plan to ONNX.

    python export/wan.py MODEL PLAN.paro.safetensors -o wan.onnx --dtype float16

The plan fixes the resolution: calibrate one plan for each. The file runs in ONNX Runtime as it
is, and in TensorRT with the PAROAttention plugin.
"""

from enum import Enum
from pathlib import Path
from typing import Annotated

import torch
import typer

from paro_trt.cli.policy import exit_policy
from paro_trt.models.load import load_model
from paro_trt.onnx_export import Body, export_onnx
from paro_trt.plan import load_plan


class DType(str, Enum):
    """Floating-point type of weights, latents and conditioning."""

    FLOAT32 = "float32"
    FLOAT16 = "float16"
    BFLOAT16 = "bfloat16"


def main(
    model: Annotated[Path, typer.Argument(help="Directory of the transformer.")],
    plan: Annotated[Path, typer.Argument(help="Plan made by paro-trt calibrate.")],
    output: Annotated[Path, typer.Option("-o", "--output", help="The ONNX file.")],
    dtype: Annotated[DType, typer.Option(help="float16 or float32 for ONNX Runtime.")] = (
        DType.FLOAT32
    ),
    body: Annotated[Body, typer.Option(help="How the file runs without the plugin.")] = Body.SPARSE,
    opset: Annotated[int | None, typer.Option(help="18 to 25; 20, or 25 for bfloat16.")] = None,
    external_data: Annotated[
        bool | None, typer.Option(help="Weights beside the file; default above 1.5 GB.")
    ] = None,
    dense: Annotated[bool, typer.Option("--dense", help="Baseline without PARO.")] = False,
) -> None:
    """Write OUTPUT and check it against the plan."""
    with exit_policy():
        report = export_onnx(
            load_model(model, getattr(torch, dtype.value)),
            load_plan(plan),
            output,
            body=body,
            dense_baseline=dense,
            opset=opset,
            external_data=external_data,
            progress=typer.echo,
        )
        size = (report.bytes + report.external_bytes) / 1e6
        typer.echo(f"{report.path}: {len(report.layers)} PAROAttention layers, {size:.1f} MB")


if __name__ == "__main__":
    typer.run(main)
