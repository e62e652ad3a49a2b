"""`paro-trt`: the verbs, put together."""

from __future__ import annotations

import os
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
    refit,
    report,
    run,
    triton,
    verify,
)
from .choices import ShellName
from .policy import HELP_OPTIONS, PolicyCommand, PolicyGroup, run_program

PROGRAM, _COMPLETE = "paro-trt", "_PARO_TRT_COMPLETE"

app = typer.Typer(
    name=PROGRAM,
    cls=PolicyGroup,
    help="PAROAttention for diffusion transformers: calibrate, export, verify and run.",
    epilog="MODEL is a diffusers transformer directory. Exit status: 0 success, 1 a defect of this "
    "program or an unmet bound, 2 bad input, 130 interrupted.",
    no_args_is_help=True,
    add_completion=False,
    context_settings={"help_option_names": list(HELP_OPTIONS)},
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)


def _print_completion(shell: str | None) -> None:
    if shell is not None:
        from typer._completion_shared import get_completion_script

        typer.echo(get_completion_script(prog_name=PROGRAM, complete_var=_COMPLETE, shell=shell))
        raise typer.Exit


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
    show_completion: Annotated[
        ShellName | None,
        typer.Option(
            callback=_print_completion,
            is_eager=True,
            help="Print what completes verbs and options in a shell; "
            'bash: eval "$(paro-trt --show-completion bash)".',
        ),
    ] = None,
) -> None:
    """Options of the program itself."""


app.command("doctor")(doctor.doctor)
app.command("encode")(encode.encode)
app.command("calibrate")(calibrate.calibrate)
app.command("inspect")(inspect.inspect)
app.command("report")(report.report)
app.command("export")(export.export)
app.command("build")(build.build)
app.command("refit")(refit.refit)
app.command("verify")(verify.verify)
app.command("generate")(generate.generate)
app.command("run")(run.run)
app.command("bench")(bench.bench)
app.command("triton")(triton.triton)
for verb in app.registered_commands:
    verb.cls = PolicyCommand


def run_verbs() -> None:
    """Run the command line as the process."""
    if _COMPLETE in os.environ:
        from typer._completion_classes import completion_init

        completion_init()
    run_program(app)
