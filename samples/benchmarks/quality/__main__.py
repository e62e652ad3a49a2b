"""How much block-sparse attention policies lose at equal cost.

    python -m samples.benchmarks.quality errors included
    python -m samples.benchmarks.quality drift included
    python -m samples.benchmarks.quality videos
    python -m samples.benchmarks.quality report

`errors` compares attention on captures of prompts and seeds that no policy has seen: of the
included pipeline, of synthetic fields at 8,320 tokens, or of a pretrained UNet. `drift` makes the
masks of other captures than a plan would. `videos` compares videos of the included pipeline.
`report` writes tables and figures of what has been measured; docs/method.md reads them.
"""

from datetime import datetime, timezone
from enum import Enum
from pathlib import Path
from typing import Annotated

import typer

from .included import included_source
from .measure import DRIFT_POLICIES, measure_drift, measure_errors, measure_missing
from .policies import POLICIES
from .report import write_report
from .sources import Source
from .synthetic import synthetic_source
from .videos import measure_videos

ROOT = Path(__file__).resolve().parents[3]
WORK = ROOT / "build" / "quality"

app = typer.Typer(help=__doc__, no_args_is_help=True)
Work = Annotated[Path, typer.Option(help="where captures and results are kept")]


class SourceName(str, Enum):
    """Where captures come from."""

    INCLUDED = "included"
    SYNTHETIC = "synthetic"
    TERRAIN = "terrain"


def open_source(name: SourceName, work: Path, terrain_model: Path | None = None) -> Source:
    """The named source."""
    if name is SourceName.INCLUDED:
        return included_source(work / "included")
    if name is SourceName.SYNTHETIC:
        return synthetic_source()
    from .terrain import terrain_source

    return terrain_source(terrain_model)


@app.command()
def errors(
    source: SourceName,
    work: Work = WORK,
    terrain_model: Annotated[
        Path | None, typer.Option(help="the UNet's ONNX file; default: the installed package's")
    ] = None,
) -> None:
    """Attention errors of every policy at every cost; goes on where it was interrupted."""
    captured = open_source(source, work, terrain_model)
    measure_missing(measure_errors, POLICIES, captured, work / f"errors-{source.value}.json")


@app.command()
def drift(
    source: SourceName,
    work: Work = WORK,
    terrain_model: Annotated[Path | None, typer.Option(help="as of errors")] = None,
) -> None:
    """Attention errors with masks of other captures; goes on where it was interrupted."""
    captured = open_source(source, work, terrain_model)
    measure_missing(measure_drift, DRIFT_POLICIES, captured, work / f"drift-{source.value}.json")


@app.command()
def videos(
    work: Work = WORK,
    count: Annotated[int, typer.Option("-n", min=1, help="videos of each policy and cost")] = 12,
) -> None:
    """Videos of the included pipeline under the best policies; goes on where it was interrupted."""
    measure_videos(included_source(work / "included"), count, work / "videos.json")


@app.command()
def report(
    work: Work = WORK,
    output: Annotated[
        Path | None,
        typer.Option(help="path without suffix; default docs/measurements/DATE-quality"),
    ] = None,
) -> None:
    """Write CSV, figures and a page of all that has been measured."""
    today = datetime.now(timezone.utc).strftime("%Y-%m-%d")
    write_report(work, output or ROOT / "docs" / "measurements" / f"{today}-quality")


if __name__ == "__main__":
    app()
