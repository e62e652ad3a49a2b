"""`paro-trt`: the verbs, put together."""

from __future__ import annotations

from typing import Annotated

import typer

from .. import __version__
from . import (
    bench,
    build,
    calibrate,
    doctor,
    encode,
    export,
    generate,
    inspect,
    report,
    run,
    triton,
    verify,
)
from .policy import PolicyGroup, exit_policy

app = typer.Typer(
    name="paro-trt",
    cls=PolicyGroup,
    help="PAROAttention for diffusion transformers: calibrate, export, verify and run.",
    epilog="MODEL is a diffusers transformer directory. Exit status: 0 success, 1 a defect of this "
    "program or an unmet bound, 2 bad input, 130 interrupted.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
)


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"paro-trt {__version__}")
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_print_version, is_eager=True, help="Print the version."
        ),
    ] = False,
) -> None:
    """Options of the program itself."""


app.command("doctor")(doctor.doctor)
app.command("encode")(encode.encode)
app.command("calibrate")(calibrate.calibrate)
app.command("inspect")(inspect.inspect)
app.command("report")(report.report)
app.command("export")(export.export)
app.command("build")(build.build)
app.command("verify")(verify.verify)
app.command("generate")(generate.generate)
app.command("run")(run.run)
app.command("bench")(bench.bench)
app.command("triton")(triton.triton)


def main() -> None:
    """Entry point of `paro-trt`."""
    with exit_policy():
        app()
