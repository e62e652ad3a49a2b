"""What the scripts in export/ share: plans for the wanted resolutions, then one file for each."""

# Without `from __future__ import annotations`: typer reads those of a local function.
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ..errors import ArgumentError, ModelError
from ..families.presets import DEFAULT_DENSITY, PRESETS
from .choices import BodyName, DtypeName
from .paths import ForceOption, Kind, check_output, require_file
from .policy import run_script
from .sizes import VIDEO_HELP, parse_video_size, size_text

if TYPE_CHECKING:
    from ..models.load import LoadedModel
    from ..plan import Grid, ParoPlan


def export_family(family: str, description: str) -> None:
    """Run a script of export/: its command line, and the errors of the program's own policy.

    Args:
        family: the family's name; its defaults are `PRESETS[family]`.
        description: the script's help.
    """
    preset = PRESETS[family]

    def main(
        model: Annotated[Path, typer.Argument(help="Directory of the transformer.")],
        output: Annotated[Path, typer.Option("-o", "--output", help="The ONNX file.")],
        video: Annotated[
            list[str] | None,
            typer.Option(
                metavar="F,H,W",
                help=f"{VIDEO_HELP} Several give several files that share "
                f"their weights. [default: {size_text(preset.size)}]",
            ),
        ] = None,
        prompts: Annotated[
            Path | None, typer.Option(help="Prompt file; calibrates the plans that are missing.")
        ] = None,
        density: Annotated[
            float, typer.Option(help="Share of blocks that new plans attend.")
        ] = DEFAULT_DENSITY,
        dtype: Annotated[
            DtypeName, typer.Option(help="Floating-point type of the file.")
        ] = preset.dtype,
        body: Annotated[
            BodyName, typer.Option(help="How the file runs without the plugin.")
        ] = "sparse",
        opset: Annotated[
            int | None, typer.Option(help="18 to 25. [default: 20; 22 for bfloat16]")
        ] = None,
        external_data: Annotated[
            bool | None,
            typer.Option(
                "--external-data/--no-external-data",
                help="Weights in a file of their own. [default: above 1.5 GB, or with several "
                "--video]",
            ),
        ] = None,
        dense: Annotated[bool, typer.Option("--dense", help="Baseline without PARO.")] = False,
        force: ForceOption = False,
    ) -> None:
        import torch

        from .. import api
        from ..models.live import open_model

        check_output(output, Kind.ONNX, force=force)
        sizes = [parse_video_size("--video", text) for text in video or [size_text(preset.size)]]
        api.check_external_data(external_data, len(sizes))
        loaded = open_model(model, getattr(torch, dtype))
        _require_family(loaded, family)
        plans = [_plan(loaded, size, output, prompts, density) for size in sizes]
        reports = api.export(
            loaded,
            plans,
            output,
            body=body,
            dense=dense,
            opset=opset,
            external_data=external_data,
            progress=typer.echo,
        )
        for report in reports:
            megabytes = (report.bytes + report.external_bytes) / 1e6
            layers = len(report.layers)
            typer.echo(f"{report.path}: {layers} PAROAttention layers, {megabytes:.1f} MB")

    main.__doc__ = description
    run_script(main)


def _require_family(loaded: "LoadedModel", family: str) -> None:
    if loaded.family.name != family:
        raise ModelError(
            str(loaded.path),
            expected=f"a model of the family {family}",
            actual=f"{loaded.identity.class_name}, of {loaded.family.name}",
            remedy=f"use export/{loaded.family.name}.py",
        )


def _plan(
    loaded: "LoadedModel",
    pixels: tuple[int, int, int],
    output: Path,
    prompts: Path | None,
    density: float,
) -> "ParoPlan":
    """The plan next to the output file; calibrated if there is none."""
    from .. import api
    from ..models.resolution import latent_size
    from ..plan import load_plan
    from .progress import StageBars

    size = latent_size(loaded.family, loaded.config, *pixels)
    name = "x".join(map(str, pixels))
    path = output.with_name(f"{output.stem}-{name}.paro.safetensors")
    if path.is_file():
        plan = load_plan(path)
        _require_grid(path, plan.grid, loaded.family.grid(loaded.config, size))
        return plan
    if prompts is None:
        raise ArgumentError(
            str(path),
            expected="a plan, or --prompts to calibrate one",
            actual="neither",
            remedy="docs/adding-a-model.md describes the prompt file",
        )
    frames, height, width = pixels
    with StageBars() as bars:
        return api.calibrate(
            loaded,
            require_file(prompts, "a prompt file"),
            output=path,
            num_frames=frames,
            height=height,
            width=width,
            density=density,
            progress=bars,
        )


def _require_grid(path: Path, actual: "Grid", expected: "Grid") -> None:
    if actual != expected:
        raise ModelError(
            str(path),
            expected=f"a plan of the token grid {_tokens(expected)}",
            actual=_tokens(actual),
            remedy="a plan serves one resolution: remove the file, and --prompts makes another",
        )


def _tokens(grid: "Grid") -> str:
    return f"{grid.frames} x {grid.height} x {grid.width}"
