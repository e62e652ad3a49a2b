"""`paro-trt triton`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ..errors import ArgumentError
from . import output
from .paths import require_file
from .sizes import parse_budget


def triton(
    engine: Annotated[Path, typer.Argument(metavar="OUT.engine", help="An engine.")],
    repository: Annotated[
        Path, typer.Option("-o", "--output", help="The model repository, made if it is missing.")
    ],
    name: Annotated[
        str | None, typer.Option(help="Of the model. [default: the engine's file name]")
    ] = None,
    instances: Annotated[int, typer.Option(min=1, help="Execution contexts on each GPU.")] = 1,
    gpus: Annotated[str | None, typer.Option(help="GPUs, such as 0,1. [default: all]")] = None,
    queue_delay: Annotated[
        int, typer.Option(min=0, help="Microseconds a request may wait to share a batch.")
    ] = 0,
    cuda_graphs: Annotated[
        bool, typer.Option("--cuda-graphs", help="Capture and replay CUDA graphs.")
    ] = False,
    weight_streaming_budget: Annotated[
        str | None,
        typer.Option(
            metavar="SIZE|auto",
            help="Weights on the GPU, such as 8GB; the server's Python needs this package.",
        ),
    ] = None,
    as_json: output.JsonOption = False,
) -> None:
    """Write a model repository for Triton Inference Server."""
    require_file(engine, "an engine that paro-trt build wrote")

    from ..engine.triton import TritonOptions, write_repository

    options = TritonOptions(
        name=name or engine.name.partition(".")[0],
        instances=instances,
        gpus=_gpus(gpus),
        max_queue_delay_us=queue_delay,
        cuda_graphs=cuda_graphs,
        weight_streaming_budget=None
        if weight_streaming_budget is None
        else parse_budget(weight_streaming_budget),
    )
    written = write_repository(engine, repository, options)
    schema = "parsed by Triton's schema" if written.checked else (
        "not checked: pip install 'paro-trt[triton]' to check it by Triton's schema"
    )  # fmt: skip
    if as_json:
        output.print_json({"config": str(written.config), "checked": written.checked,
                           "command": written.command})  # fmt: skip
    else:
        facts = {"config": f"{written.config} ({schema})", "serve": written.command}
        output.print_facts(f"wrote {repository / options.name}", facts)


def _gpus(text: str | None) -> tuple[int, ...]:
    parts = [] if text is None else text.split(",")
    if not all(part.strip().isdecimal() for part in parts):
        raise ArgumentError("--gpus", expected="numbers such as 0,1", actual=repr(text)[:80])
    return tuple(int(part) for part in parts)
