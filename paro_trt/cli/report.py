"""`paro-trt report`."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from . import output
from .engine_memory import engine_memory
from .paths import ForceOption, Kind, check_output, require_file


def report(
    plan: Annotated[Path, typer.Argument(metavar="PLAN", help="The plan to show.")],
    target: Annotated[Path, typer.Option("-o", "--output", help="The HTML page to write.")],
    file: Annotated[
        Path | None,
        typer.Option(
            "--file", help="The plan's exported model or engine: print what it takes of a GPU."
        ),
    ] = None,
    force: ForceOption = False,
    as_json: output.JsonOption = False,
) -> None:
    """Write a plan as one self-contained HTML page that works without a network."""
    check_output(target, Kind.PAGE, force=force, reads=(plan,))
    require_file(plan, "a plan file")
    memory = {} if file is None else engine_memory(file)

    from ..plan import load_plan
    from ..report import write_report

    with output.status("drawing the plan"):
        # A page is UTF-8 text; bytes of a name that are not become question marks.
        name = os.fsencode(plan.name).decode(errors="replace")
        written = write_report(load_plan(plan), name, plan.stat().st_size, target)
    before, after = written.before, written.after
    if as_json:
        output.print_json(
            {
                "file": str(target),
                "bytes": written.bytes,
                "cells_before": [before.rows, before.columns],
                "cells_after": [after.rows, after.columns],
            }
            | ({"memory": memory} if file is not None else {})
        )
        return
    facts = {
        "size": output.file_size(written.bytes),
        "pictures": f"{before.rows} x {before.columns} cells before the reorder, "
        f"{after.rows} x {after.columns} after",
        **memory,
        "next": "open it in a browser; it needs no network",
    }
    output.print_facts(f"wrote {target}", facts)
