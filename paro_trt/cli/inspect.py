"""`paro-trt inspect`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ..errors import ParoError
from ..file_kinds import FileKind, file_kind
from . import output
from .paths import require_file


def inspect(
    file: Annotated[
        Path, typer.Argument(metavar="FILE", help="A plan, an ONNX model or an engine manifest.")
    ],
    heads: Annotated[
        bool, typer.Option("--heads", help="Of a plan: a line for each head.")
    ] = False,
    as_json: output.JsonOption = False,
) -> None:
    """Show what a file holds. The content decides the file's kind, not its name."""
    require_file(file, "a plan, an ONNX model or an engine manifest")
    kind = file_kind(file)
    if kind in (FileKind.PLAN, FileKind.TENSORS):
        from ..plan import load_plan
        from .plan_document import describe_plan
        from .plan_tables import show_plan

        plan = load_plan(file)
        output.print_json(describe_plan(plan, file)) if as_json else show_plan(plan, file, heads)
    elif kind is FileKind.ONNX:
        from ..onnx_file.describe import describe_onnx
        from .onnx_tables import show_onnx

        document = describe_onnx(file)
        output.print_json(document) if as_json else show_onnx(document)
    elif kind is FileKind.JSON:
        from ..engine import read_manifest
        from .engine_tables import show_engine

        manifest = read_manifest(file)
        output.print_json(manifest.to_json()) if as_json else show_engine(manifest, file)

    else:
        with file.open("rb") as opened:
            start = opened.read(8)
        raise ParoError(
            str(file),
            expected="a plan (safetensors), an ONNX model or an engine manifest (JSON)",
            actual=f"a file that begins with {start.hex(' ')}" if start else "an empty file",
        )
