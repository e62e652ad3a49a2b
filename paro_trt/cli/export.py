"""`paro-trt export`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from . import output
from .choices import BodyName, DtypeName
from .paths import ForceOption, Kind, check_output, expand_home, require_file

if TYPE_CHECKING:
    from ..onnx_export import ExportReport


def export(
    model: Annotated[
        Path, typer.Argument(metavar="MODEL", help="Diffusers transformer directory.")
    ],
    plan: Annotated[
        list[Path],
        typer.Option(
            help="The plan to apply, made for this model. Several, one a resolution, give several "
            "files that share their weights."
        ),
    ],
    target: Annotated[Path, typer.Option("-o", "--output", help="The ONNX file to write.")],
    dtype: Annotated[
        DtypeName | None,
        typer.Option(
            help="Floating-point type of the file. ONNX Runtime on a CPU needs float32. [default: "
            "what the family's largest models were released in, mostly bfloat16]"
        ),
    ] = None,
    body: Annotated[
        BodyName,
        typer.Option(
            help="How runtimes without the plugin compute the op: a loop over listed blocks, the "
            "mask expanded, or not at all."
        ),
    ] = "sparse",
    dense: Annotated[
        bool, typer.Option("--dense", help="The model as it is, without PARO: a baseline.")
    ] = False,
    opset: Annotated[
        int | None, typer.Option(help="Of the standard operators. [default: 20; 22 for bfloat16]")
    ] = None,
    external_data: Annotated[
        bool | None,
        typer.Option(
            "--external-data/--no-external-data",
            help="Weights in a file of their own. [default: above 1.5 GB, or with several plans]",
        ),
    ] = None,
    variant: Annotated[
        str | None,
        typer.Option(
            help="Of the weight files, such as fp16. [default: those without one, or the only one]"
        ),
    ] = None,
    lora: Annotated[
        list[str] | None,
        typer.Option(
            metavar="FILE[:SCALE]",
            parser=expand_home,
            help="A LoRA to fuse into the weights; repeatable.",
        ),
    ] = None,
    force: ForceOption = False,
    as_json: output.JsonOption = False,
) -> None:
    """Write the model with its plan as one ONNX file, and check what was written.

    A file is of its plan's size. Where positions are in seconds (LTX-Video 25, LTX-2 24 frames a
    second, Cosmos), it is of one frame rate, which `inspect` shows.
    """
    check_output(target, Kind.ONNX, force=force, reads=plan)
    for file in plan:
        require_file(file, "a plan file")

    import torch

    from .. import api
    from ..models.lora import parse_lora

    with output.status("loading the model") as say:
        reports = api.export(
            model,
            plan,
            target,
            dtype=None if dtype is None else getattr(torch, dtype),
            body=body,
            dense=dense,
            opset=opset,
            external_data=external_data,
            variant=variant,
            lora=[parse_lora(text) for text in lora or ()],
            progress=say,
        )
    if as_json:
        documents = [_describe(report) for report in reports]
        output.print_json(documents[0] if len(documents) == 1 else {"files": documents})
        return
    for report, file in zip(reports, plan, strict=True):
        output.print_facts(f"wrote {report.path}", _facts(report, model, file, dtype))


def _describe(report: ExportReport) -> dict[str, Any]:
    return {
        "file": str(report.path),
        "bytes": report.bytes,
        "external_bytes": report.external_bytes,
        "opset": report.opset,
        "nodes": report.nodes,
        "paro_attention": list(report.layers),
        "body": report.body.value,
    }


def _facts(report: ExportReport, model: Path, plan: Path, dtype: str | None) -> dict[str, object]:
    size = output.file_size(report.bytes)
    if report.external_bytes:
        size += f" + {output.file_size(report.external_bytes)} of weights next to it"
    count = len(report.layers)
    return {
        "size": size,
        "opset": report.opset,
        "nodes": report.nodes,
        "PAROAttention": f"{count} nodes, body: {report.body.value}" if count else "none: dense",
        "checked": "full ONNX check"
        + (", attributes and constants equal to the plan's" if count else ""),
        output.NEXT: _next(report, model, ("--plan", plan) if count else (), dtype),
    }


def _next(
    report: ExportReport, model: Path, plan: tuple[str | Path, ...], dtype: str | None
) -> str:
    """Checked on a CPU where ONNX Runtime can; a file in 16 bits is for an engine."""
    if dtype == "float32":
        return output.command_line("verify", report.path, "--model", model, *plan)
    return output.command_line("build", report.path, "-o", report.path.with_suffix(".engine"))
