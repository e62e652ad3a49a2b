"""`paro-trt verify`."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ..errors import ArgumentError
from . import output
from .call_arguments import call_arguments
from .choices import BackendName, DtypeName, ImplementationName
from .options import (
    ArgumentOption,
    GuidanceScale2Option,
)
from .paths import expand_home, require_file
from .policy import UNMET

if TYPE_CHECKING:
    from rich.table import Table

    from ..verification.layers import LayerCheck
    from ..verification.metrics import OutputErrors
    from ..verification.report import VerifyReport


def verify(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="An exported model or an engine.")],
    model: Annotated[
        Path | None, typer.Option(help="The model directory it was exported from.")
    ] = None,
    plan: Annotated[
        Path | None, typer.Option(help="The plan it was exported with: compare with PyTorch too.")
    ] = None,
    prompts: Annotated[
        Path | None,
        typer.Option(
            help="Prompts to sample: embeddings, by default random ones; for a pipeline a text file"
            " with a sentence a line."
        ),
    ] = None,
    pipeline: Annotated[
        str | None,
        typer.Option(
            metavar="PIPELINE",
            parser=expand_home,
            help="The pipeline of the model: compare decoded videos or images too, or alone.",
        ),
    ] = None,
    min_psnr: Annotated[
        float | None, typer.Option(help="Lowest PSNR in dB of the pipeline's pictures that passes.")
    ] = None,
    max_flicker: Annotated[
        float | None, typer.Option(help="Highest flicker of the pipeline's videos that passes.")
    ] = None,
    min_cosine: Annotated[
        float, typer.Option(help="Lowest cosine of a velocity with the dense model's that passes.")
    ] = 0.99,
    samples: Annotated[int, typer.Option(help="Prompts sampled at most.")] = 2,
    steps: Annotated[int, typer.Option(help="Denoising steps of a sample.")] = 20,
    shift: Annotated[
        float | None,
        typer.Option(help="The schedule's shift. [default: the pipeline's, else the family's]"),
    ] = None,
    guidance_scale: Annotated[
        float | None,
        typer.Option(
            help="Guidance of the samples, by default 1; other than 1 needs a negative prompt. Of a"
            " pipeline, by default its own."
        ),
    ] = None,
    guidance_scale_2: GuidanceScale2Option = None,
    argument: ArgumentOption = None,
    data_range: Annotated[
        float | None,
        typer.Option(help="Span of the samples' values for PSNR and SSIM. [default: as sampled]"),
    ] = None,
    seed: Annotated[int, typer.Option(help="Of all noise.")] = 0,
    impl: Annotated[
        ImplementationName, typer.Option(help="What computes the plan in PyTorch.")
    ] = "reference",
    backend: Annotated[
        BackendName | None,
        typer.Option(
            help="Who runs the file: ort, PAROAttention by the function in it; cpu, by the native "
            "op; tensorrt. [default: tensorrt for an engine, else ort]"
        ),
    ] = None,
    dtype: Annotated[
        DtypeName, typer.Option(help="Floating-point type that PyTorch computes in.")
    ] = "float32",
    lora: Annotated[
        list[str] | None,
        typer.Option(
            metavar="FILE[:SCALE]", parser=expand_home, help="A LoRA that was fused into the file."
        ),
    ] = None,
    layer: Annotated[
        list[str] | None,
        typer.Option(
            help="Compare the weights and constants of this layer only, a tensor at a time, and "
            "run nothing; repeatable. For models that do not fit the memory."
        ),
    ] = None,
    as_json: output.JsonOption = False,
) -> None:
    """Compare an exported model, run by a backend, with the dense model and the plan in PyTorch.

    Give the model, its pipeline, or both. Exit status 0 if every check passes, 1 if one does not.
    """
    require_file(file, "an exported model or an engine")

    import torch

    from .. import api
    from ..models.lora import parse_lora
    from ..plan import load_plan
    from ..runtime.backends import default_backend
    from ..verification.layers import verify_layers

    given = {"guidance_scale": guidance_scale, "guidance_scale_2": guidance_scale_2}
    guidance = {name: scale for name, scale in given.items() if scale is not None}
    if layer:
        if model is None:
            raise ArgumentError(
                "--layer", expected="--model, whose weights to compare", actual="none"
            )
        with output.status("comparing"):
            checks = verify_layers(
                file,
                model,
                None if plan is None else load_plan(plan),
                layer,
                lora=[parse_lora(text) for text in lora or ()],
            )
        _show_layers(file, checks, as_json)
        return
    backend = backend or default_backend(file).value
    with output.status("comparing"):
        report = api.verify(
            file,
            model,
            plan=plan,
            prompts=prompts,
            pipeline=pipeline,
            min_psnr=min_psnr,
            max_flicker=max_flicker,
            dtype=getattr(torch, dtype),
            lora=[parse_lora(text) for text in lora or ()],
            backend=backend,
            steps=steps,
            shift=shift,
            samples=samples,
            seed=seed,
            min_cosine=min_cosine,
            data_range=data_range,
            impl=impl,
            arguments=call_arguments(argument or ()),
            **guidance,
        )
    if as_json:
        output.print_json({**json.loads(report.to_json()), "backend": backend})
    else:
        _show(report, backend)
    if not report.ok:
        raise typer.Exit(UNMET)


def _show_layers(file: Path, checks: tuple[LayerCheck, ...], as_json: bool) -> None:
    ok = all(check.ok for check in checks)
    if as_json:
        layers = [{**dataclasses.asdict(check), "ok": check.ok} for check in checks]
        output.print_json({"ok": ok, "file": str(file), "layers": layers})
    else:
        made = output.table(
            f"weights of {file} against the checkpoint", "layer", "weights", "bytes", "different",
            right=("weights", "bytes"),
        )  # fmt: skip
        for check in checks:
            different = ", ".join(check.different) or "none"
            made.add_row(check.name, str(check.weights), output.file_size(check.bytes), different)
        output.results().print(made)
    if not ok:
        raise typer.Exit(UNMET)


def _show(report: VerifyReport, backend: str) -> None:
    console = output.results()
    if report.velocities:
        console.print(_velocities(report, backend), _samples(report))
    if report.pictures:
        console.print(_pictures(report))
    for failure in report.failures:
        console.print(f"failed: {failure}", style="red", soft_wrap=True)
    if report.remedy is not None:
        console.print(f"fix: {report.remedy}", soft_wrap=True)
    if report.ok:
        cosine = report.lowest_cosine
        lowest = "" if cosine is None else f": lowest cosine {cosine:.5f}"
        console.print(f"passed{lowest}", style="green")


def _velocities(report: VerifyReport, backend: str) -> Table:
    plan = f"plan {report.plan_hash[:16]}" if report.plan_hash else "dense"
    columns = ("max abs", "relative L2", "cosine")
    title = f"velocities of {report.file} ({report.model_class}, {plan}) by {backend}"
    made = output.table(title, "against", "timesteps", *columns, right=columns)
    for check in report.velocities:
        timesteps = ", ".join(f"{timestep:g}" for timestep in check.timesteps)
        made.add_row("dense model", timesteps, *_figures(check.dense))
    for check in report.velocities:
        if check.eager is not None:
            timesteps = ", ".join(f"{timestep:g}" for timestep in check.timesteps)
            made.add_row("plan in PyTorch", timesteps, *_figures(check.eager))
    return made


def _samples(report: VerifyReport) -> Table:
    quality = ("PSNR dB", "SSIM", "relative L2", "cosine")
    made = output.table("samples against the dense model", "prompt", *quality, right=quality)
    for sample in report.samples:
        errors = (f"{sample.errors.relative_l2:.2e}", f"{sample.errors.cosine:.5f}")
        made.add_row(sample.prompt, f"{sample.psnr:.2f}", _number(sample.ssim), *errors)
    return made


def _pictures(report: VerifyReport) -> Table:
    quality = ("PSNR dB", "SSIM", "flicker")
    made = output.table("pictures against the dense pipeline's", "prompt", *quality, right=quality)
    for check in report.pictures:
        figures = (_number(check.quality.ssim), _number(check.quality.flicker))
        made.add_row(check.prompt, f"{check.quality.psnr:.2f}", *figures)
    return made


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"


def _figures(errors: OutputErrors) -> tuple[str, str, str]:
    return f"{errors.max_abs:.2e}", f"{errors.relative_l2:.2e}", f"{errors.cosine:.5f}"
