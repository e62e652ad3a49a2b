"""`paro-trt refit`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ..errors import ArgumentError
from . import output
from .paths import ForceOption, Kind, check_output, expand_home, require_file

if TYPE_CHECKING:
    from ..models.lora import LoraFile


def refit(
    engine: Annotated[
        Path, typer.Argument(metavar="OUT.engine", help="An engine of paro-trt build --refit.")
    ],
    weights: Annotated[
        list[str],
        typer.Option(
            metavar="DIR|FILE[:SCALE]",
            parser=expand_home,
            help="The model's directory, and LoRA files to fuse into it: repeat the option.",
        ),
    ],
    target: Annotated[
        Path | None,
        typer.Option("-o", "--output", help="The engine to write. [default: replace OUT.engine]"),
    ] = None,
    no_hash: Annotated[
        bool, typer.Option("--no-hash", help="Do not compare the file with its manifest's hash.")
    ] = False,
    force: ForceOption = False,
    as_json: output.JsonOption = False,
) -> None:
    """Replace the weights of an engine's linear layers, without building it again."""
    require_file(engine, "an engine that paro-trt build --refit wrote")
    if target is not None:
        check_output(target, Kind.ENGINE, force=force)
    model, adapters = _directory_and_adapters(weights)

    from ..runtime.refit import refit as run_refit

    with output.status(f"refitting {engine.name}"):
        report = run_refit(engine, model, target, lora=adapters, check_hash=not no_hash)
    if as_json:
        output.print_json({"file": str(report.path), "replaced": report.replaced,
                           "unused": list(report.unused)})  # fmt: skip
        return
    facts: dict[str, object] = {"replaced": f"{report.replaced} weights of linear layers"}
    if report.unused:
        shown = ", ".join(report.unused[:3]) + (", ..." if len(report.unused) > 3 else "")
        facts["not in the engine"] = f"{len(report.unused)}, which nothing in it uses: {shown}"
    facts[output.NEXT] = output.command_line(
        "run", report.path, "--inputs", "IN.safetensors", "-o", "OUT.safetensors"
    )
    output.print_facts(f"wrote {report.path}", facts)


def _directory_and_adapters(weights: list[str]) -> tuple[Path, list[LoraFile]]:
    from ..models.lora import parse_lora

    directories = [Path(text) for text in weights if Path(text).is_dir()]
    adapters = [parse_lora(text) for text in weights if not Path(text).is_dir()]
    if len(directories) != 1:
        raise ArgumentError(
            "--weights",
            expected="one directory of a model; LoRA files change its weights, which an engine "
            "does not give back",
            actual=f"{len(directories)} directories among {', '.join(weights)}"[:200],
            remedy="pass --weights MODEL --weights LORA.safetensors:1.0",
        )
    for adapter in adapters:
        require_file(adapter.path, "a directory of a model, or a LoRA file")
    return directories[0], adapters
