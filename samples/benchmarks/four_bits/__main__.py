"""What 4-bit products cost in attention error and in videos.

    python -m samples.benchmarks.four_bits errors included
    python -m samples.benchmarks.four_bits errors synthetic --block-q 64
    python -m samples.benchmarks.four_bits outliers
    python -m samples.benchmarks.four_bits videos

Each command prints Markdown tables. `errors` and `videos` keep their results, and go on where they
were interrupted. Blocks are 128 x 64, as in a plan with `--density`, or 64 x 64 with `--block-q
64`, as in a plan with `--cost`. Channel affines and rotations are chosen on calibration captures,
errors are those of held-out ones.
"""

from pathlib import Path
from typing import Annotated

import typer

from ..quality.__main__ import WORK, SourceName, Work, open_source
from .errors import error_page, measure_errors
from .modes import BLOCK_Q
from .outliers import outlier_page
from .videos import measure_videos, video_page

app = typer.Typer(help=__doc__, no_args_is_help=True)


@app.command()
def errors(
    source: SourceName,
    work: Work = WORK,
    prompts: Annotated[int, typer.Option(min=1, help="held-out prompts at most")] = 5,
    block_q: Annotated[int, typer.Option(help="rows of a query block, 64 or 128")] = BLOCK_Q,
    terrain_model: Annotated[
        Path | None, typer.Option(help="the UNet's ONNX file; default: the installed package's")
    ] = None,
) -> None:
    """Relative L2 error and cosine of attention, dense and at density .3."""
    captured = open_source(source, work, terrain_model)
    path = work / f"four-bits-{source.value}-{block_q}-{prompts}.json"
    found = measure_errors(captured, prompts, block_q, path)
    print("\n".join(["", *error_page(captured.name, block_q, found)]))


@app.command()
def outliers(tokens: int = 4096, seed: int = 0) -> None:
    """Gaussian inputs with and without channel outliers, and the best that 4-bit codes reach."""
    for line in outlier_page(tokens, seed):
        print(line, flush=True)


@app.command()
def videos(
    work: Work = WORK,
    count: Annotated[int, typer.Option("-n", "--count", min=1, help="videos of each mode")] = 8,
) -> None:
    """PSNR of held-out videos of the included pipeline at density .3, against dense attention."""
    captured = open_source(SourceName.INCLUDED, work)
    print(
        "\n".join(
            ["", *video_page(measure_videos(captured, count, work / "four-bits-videos.json"))]
        )
    )


if __name__ == "__main__":
    app()
