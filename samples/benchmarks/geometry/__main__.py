"""Which model has how many tokens, how large its plan gets and what PARO may gain.

    python -m samples.benchmarks.geometry

Goes through the released models of every registered family at their usual sizes, without weights,
and writes docs/families.md.
"""

import sys
from dataclasses import replace
from datetime import datetime, timezone
from pathlib import Path
from typing import Annotated

import typer
from rich.progress import track

from paro_trt.files import atomic_write

from .forecast import forecast
from .page import Row, page_text
from .releases import Pixels, Release, supported_releases
from .true_size import SETTINGS, build_layer

ROOT = Path(__file__).resolve().parents[3]
DENSITIES = (SETTINGS.density or 0.3, 0.15)
HEADS = 8
"""Of a layer whose masks are compressed for the plan's size; the others are taken to be alike."""


def row_of(release: Release, size: Pixels, seed: int) -> Row:
    """All figures of one row."""
    geometry = release.geometry(size)
    sites = release.family.sites(release.full_config())
    heads = min(HEADS, sites[0].heads)
    built = build_layer(geometry, replace(sites[0], heads=heads, kv_heads=heads), seed)
    masks = built.mask_bytes / heads * sum(site.heads for site in sites)
    affine = sum(4 * site.kv_heads * site.head_dim * 4 for site in sites)
    expected = {density: forecast(release, size, density) for density in DENSITIES}
    return Row(release, size, geometry, masks + affine + built.plan.orders.nbytes, expected)


def main(
    output: Annotated[Path, typer.Option(help="the page to write")] = ROOT / "docs" / "families.md",
    seed: Annotated[int, typer.Option(help="of the made-up masks")] = 0,
) -> None:
    """Write the page."""
    sizes = [(release, size) for release in supported_releases() for size in release.sizes]
    show = track(sizes, description="models", disable=not sys.stderr.isatty())
    rows = [row_of(release, size, seed) for release, size in show]
    today = datetime.now(timezone.utc).strftime("%Y-%m-%d")
    with atomic_write(output) as file:
        file.write(page_text(rows, today).encode())


if __name__ == "__main__":
    typer.run(main)
