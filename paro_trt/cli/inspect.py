"""`paro-trt inspect`."""

from __future__ import annotations

from enum import Enum
from pathlib import Path
from typing import Annotated

import typer

from ..errors import ParoError
from . import output
from .paths import require_file


class Content(Enum):
    """What a file holds, judged by its first bytes."""

    SAFETENSORS = "safetensors"
    JSON = "json"
    PROTOBUF = "protobuf"


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
    content = content_of(file)
    if content is Content.SAFETENSORS:
        from ..plan import load_plan
        from .plan_document import describe_plan
        from .plan_tables import show_plan

        plan = load_plan(file)
        output.print_json(describe_plan(plan, file)) if as_json else show_plan(plan, file, heads)
    elif content is Content.PROTOBUF:
        from ..onnx_file.describe import describe_onnx
        from .onnx_tables import show_onnx

        document = describe_onnx(file)
        output.print_json(document) if as_json else show_onnx(document)
    else:
        from ..engine import read_manifest
        from .engine_tables import show_engine

        manifest = read_manifest(file)
        output.print_json(manifest.to_json()) if as_json else show_engine(manifest, file)


def content_of(path: Path) -> Content:
    """What a file holds.

    Raises:
        ParoError: the file is nothing that this package writes.
    """
    with path.open("rb") as file:
        start = file.read(16)
    # safetensors: eight bytes of header length, then the header, a JSON object.
    if start[8:9] == b"{":
        return Content.SAFETENSORS
    if start.lstrip()[:1] == b"{":
        return Content.JSON
    # ONNX: every writer puts field 1 (ir_version), a varint, first.
    if start[:1] == b"\x08":
        return Content.PROTOBUF
    raise ParoError(
        str(path),
        expected="a plan (safetensors), an ONNX model or an engine manifest (JSON)",
        actual=f"a file that begins with {start[:8].hex(' ')}" if start else "an empty file",
    )
