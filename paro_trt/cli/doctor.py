"""`paro-trt doctor`."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from .. import __version__
from . import output
from .engine_memory import engine_memory
from .policy import BAD_INPUT

if TYPE_CHECKING:
    from ..doctor import Diagnosis


def doctor(
    file: Annotated[
        Path | None,
        typer.Option("--file", help="An exported model or an engine: what it takes of a GPU."),
    ] = None,
    as_json: output.JsonOption = False,
) -> None:
    """Say what is here, which backends will run, what is missing and the command that fixes it.

    Exit status 0 if calibrate, export, verify and run work on this machine's CPU, else 2.
    """
    from ..doctor import examine

    memory = {} if file is None else engine_memory(file)
    with output.status("looking at this machine"):
        diagnosis = examine()
    if as_json:
        output.print_json(
            {"paro_trt": __version__, "cpu_chain": diagnosis.cpu_chain, **asdict(diagnosis)}
            | ({"file": memory} if file is not None else {})
        )
    else:
        show(diagnosis)
        if file is not None:
            output.print_facts(f"{file.name} on a GPU, at batch 1", memory)
    if not diagnosis.cpu_chain:
        raise typer.Exit(BAD_INPUT)


def show(diagnosis: Diagnosis) -> None:
    """Print a diagnosis as tables."""
    from rich.text import Text

    output.print_facts(f"paro-trt {__version__} on this machine", _machine(diagnosis))
    components = output.table("What is here", "component", "found", "for")
    for part in diagnosis.components:
        mark = ("yes", "green") if part.present else ("no", "yellow")
        components.add_row(part.name, Text.assemble(mark, f"  {part.detail}"), part.purpose)
    backends = output.table("What will run", "backend", "state", "what it is")
    for backend in diagnosis.backends:
        style = {"runs": "green", "missing": "red"}.get(backend.state.value, "dim")
        backends.add_row(backend.name, Text(backend.state.value, style=style), backend.detail)
    console = output.results()
    console.print(components, backends)
    for part in diagnosis.missing:
        line = f"missing: {part.name} ({part.detail}); fix: {part.remedy}"
        console.print(line, style="red", soft_wrap=True)
    for part in diagnosis.missing_for_engines:
        line = f"for TensorRT engines: {part.name} ({part.detail}): {part.remedy}"
        console.print(line, style="yellow", soft_wrap=True)
    for line in diagnosis.mismatches:
        console.print(line, style="yellow", soft_wrap=True)
    if diagnosis.cpu_chain:
        console.print("The whole chain (calibrate, export, verify, run) works on this CPU.")


def _machine(diagnosis: Diagnosis) -> dict[str, object]:
    machine = diagnosis.machine
    facts: dict[str, object] = {
        "processor": machine["cpu"],
        "usable cores": machine["cores"],
        "instruction sets": ", ".join(machine["features"]) or "none of those known to help",
    }
    if "memory_bytes" in machine:
        sizes = (machine["memory_bytes"], machine["memory_available_bytes"])
        facts["memory"] = "{}, {} available".format(*map(output.file_size, sizes))
    gpus = [
        f"{gpu['name']}, SM {gpu['sm']}, {output.file_size(gpu['memory'])}"
        for gpu in machine["gpus"]
    ]
    facts["NVIDIA driver"] = machine["driver"] or "none found (needed for TensorRT engines only)"
    facts["NVIDIA GPUs"] = "; ".join(gpus) or "none found (needed for TensorRT engines only)"
    return facts
