"""Does the method work? Block-sparse attention policies at equal density on the included model.

    python -m samples.benchmarks.quality

Each policy replaces every self-attention of the model in full sampling runs of held-out prompts
and is compared with dense attention: PSNR and SSIM of the videos (same noise), and the error of
attention outputs on the dense runs' own inputs. Whatever a policy has to learn beforehand it
learns from the calibration prompts. Writes OUTPUT.md, .csv and .png; finished configurations are
kept under --work, so that an interrupted run goes on where it stopped.
"""

import platform
import sys
from dataclasses import replace
from datetime import datetime, timezone
from pathlib import Path
from typing import Annotated

import torch
import typer
from rich.console import Console

from paro_trt.errors import ArgumentError

from .bench import (
    FIRST_SEED,
    FULL,
    QUICK,
    Bench,
    Extent,
    fingerprint,
    measure_missing,
    stored_results,
)
from .report import terminal_table, write_csv, write_page, write_plot

ROOT = Path(__file__).resolve().parents[3]
MODEL = ROOT / "samples" / "tiny_video_dit" / "model"


def facts(bench: Bench, extent: Extent) -> list[tuple[str, str]]:
    """How it was measured."""
    run, sampling = bench.run, extent.sampling
    grid = run.geometry.grid
    return [
        ("command", f"`python -m samples.benchmarks.quality {' '.join(sys.argv[1:])}`"),
        ("date", datetime.now(timezone.utc).strftime("%Y-%m-%d %H:%M UTC")),
        (
            "hardware",
            f"{torch.get_num_threads()} threads of {processor()}, torch {torch.__version__}",
        ),
        ("weights", f"SHA-256 {bench.weights}"),
        (
            "shape",
            f"{len(run.sites)} layers x {run.sites[0].heads} heads of {run.sites[0].head_dim}, "
            f"{grid.frames} x {grid.height} x {grid.width} = {grid.tokens} tokens, "
            f"blocks {run.settings.block_q} x {run.settings.block_k}",
        ),
        (
            "videos",
            f"{extent.prompts_per_seed} held-out prompts under each of the seeds "
            f"{list(extent.seeds)}, other prompts each time; {sampling.steps} Euler steps, "
            f"shift {sampling.shift:g}, guidance {sampling.guidance_scale:g}; "
            "quantized: the first seed only",
        ),
        (
            "calibration",
            f"{extent.calibration_prompts} other prompts, {run.settings.bins} bins, captured steps "
            f"{list(run.recorded_steps())}",
        ),
        (
            "attention error",
            f"all layers at steps {list(sampling.probed_steps)} of each dense run, with the prompt",
        ),
        (
            "density",
            "attended blocks / all blocks; summary tokens of pooled policies come on top: "
            f"(1 - density) x {grid.tokens // run.settings.block_k} keys a query",
        ),
    ]


def processor() -> str:
    """The processor's name, as the system gives it."""
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def main(
    model: Annotated[Path, typer.Option(help="the included model")] = MODEL,
    output: Annotated[
        Path | None,
        typer.Option(help="path without suffix; default docs/measurements/DATE-quality"),
    ] = None,
    seeds: Annotated[int, typer.Option(min=1, help="two videos each")] = len(FULL.seeds),
    quick: Annotated[bool, typer.Option("--quick", help="one prompt, one density")] = False,
    report_only: Annotated[
        bool, typer.Option("--report-only", help="write what has been measured so far")
    ] = False,
    work: Annotated[Path, typer.Option(help="where finished configurations are kept")] = ROOT
    / "build"
    / "quality",
) -> None:
    """Measure every configuration and write the report."""
    extent = QUICK if quick else replace(FULL, seeds=tuple(range(FIRST_SEED, FIRST_SEED + seeds)))
    today = datetime.now(timezone.utc).strftime("%Y-%m-%d")
    output = output or ROOT / "docs" / "measurements" / f"{today}-quality"
    output.parent.mkdir(parents=True, exist_ok=True)
    bench = Bench(model, extent)
    finished = work / fingerprint(bench.weights, extent)
    if not report_only:
        measure_missing(bench, finished)
    results = stored_results(extent, finished)
    measured = sum(1 for _ in finished.glob("*.json"))
    if not results:
        raise ArgumentError("--report-only", expected=f"results in {finished}", actual="none")
    Console().print(terminal_table(results))
    plot = output.with_suffix(".png")
    write_csv(results, bench.tokens, output.with_suffix(".csv"))
    write_plot(results, plot)
    progress = ("measured", f"{measured} of {len(extent.pairs())} configurations x seeds")
    write_page(results, [*facts(bench, extent), progress], plot, output.with_suffix(".md"))


if __name__ == "__main__":
    typer.run(main)
