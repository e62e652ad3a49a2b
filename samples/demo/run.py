"""The whole chain on the included model: `make demo`.

Every step is the command that a user would type, shown before it runs; then one held-out video is
sampled with dense attention and with PARO, and pictures of both are written.
"""

import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

ROOT = Path(__file__).resolve().parents[2]
MODEL = ROOT / "samples" / "tiny_video_dit" / "model"
OUTPUT = ROOT / "out" / "demo"

LATENT = "8,64,64"
SHIFT, GUIDANCE = 3.0, 2.0
PIXEL_RANGE = 2.0
PICTURED_HEADS = 4

console = Console(highlight=False)


@dataclass(frozen=True)
class Sampling:
    """One video [3, F, H, W] in [-1, 1] and how long it and one evaluation of the model took."""

    video: Any
    seconds: float
    evaluation_seconds: float


def main(
    output: Annotated[Path, typer.Option(help="Folder for all that is written.")] = OUTPUT,
    density: Annotated[float, typer.Option(help="Share of blocks to attend.")] = 0.3,
    steps: Annotated[int, typer.Option(help="Denoising steps of a video.")] = 20,
    prompt: Annotated[int, typer.Option(help="Which held-out prompt to sample.")] = 0,
    seed: Annotated[int, typer.Option(help="Of the video's noise.")] = 0,
) -> None:
    """Calibrate, export, verify and run the included model; compare a video and draw pictures."""
    started = time.perf_counter()
    output.mkdir(parents=True, exist_ok=True)
    plan, model = output / "tiny.paro.safetensors", output / "tiny.onnx"
    heldout = MODEL / "heldout_prompts.safetensors"
    guidance = ("--shift", SHIFT, "--guidance-scale", GUIDANCE)

    paro_trt("doctor")
    paro_trt(
        "calibrate", MODEL, "-o", plan, "--density", density, "--latent", LATENT, "--steps", steps,
        "--prompts", MODEL / "prompts.safetensors", "--heldout", heldout, *guidance,
    )  # fmt: skip
    paro_trt("inspect", plan)
    paro_trt("report", plan, "-o", output / "report.html")
    paro_trt("export", MODEL, "--plan", plan, "-o", model)
    paro_trt("inspect", model)
    paro_trt(
        "verify", model, "--model", MODEL, "--plan", plan, "--prompts", heldout,
        "--samples", 1, "--steps", 4, "--data-range", PIXEL_RANGE, "--impl", "cpu", *guidance,
    )  # fmt: skip
    sample_and_compare(plan, model, output, steps, prompt, seed)
    console.print(f"\n{time.perf_counter() - started:.0f} s in all; files are in {shown(output)}")
    console.print(f"open {shown(output / 'report.html')} in a browser to see the plan")


def paro_trt(*arguments: object) -> None:
    """Show a command of the command line and run it; end where it fails."""
    words = [str(argument) for argument in arguments]
    line = " ".join(shown(argument) for argument in arguments)
    console.print(f"\n$ paro-trt {line}", style="bold", markup=False, soft_wrap=True)
    done = subprocess.run([sys.executable, "-m", "paro_trt", *words], cwd=ROOT, check=False)
    if done.returncode:
        raise typer.Exit(done.returncode)


def shown(argument: object) -> str:
    """A path below the repository as seen from there, anything else as it is."""
    if isinstance(argument, Path) and argument.is_relative_to(ROOT):
        return str(argument.relative_to(ROOT))
    return str(argument)


def sample_and_compare(
    plan_file: Path, model_file: Path, output: Path, steps: int, prompt: int, seed: int
) -> None:
    """Sample one video by each runner from the same noise, print the table, draw the pictures."""
    from attention_maps import head_stories, write_maps
    from paro_trt.calibration.embeddings_source import EmbeddingsSource, Schedule
    from paro_trt.cli.sizes import parse_size
    from paro_trt.models.apply import geometry_of
    from paro_trt.models.denoise import seeded_noise
    from paro_trt.models.load import load_model
    from paro_trt.models.prompts import load_prompts
    from paro_trt.plan import load_plan
    from paro_trt.runtime import Backend, open_session
    from paro_trt.runtime.velocity import session_velocity
    from pictures import panels, write_animation, write_sheet

    prompts = load_prompts(MODEL / "heldout_prompts.safetensors")
    text = prompts.texts[prompt]
    console.print(f'\nSampling "{text}", {steps} steps', style="bold")
    loaded, plan = load_model(MODEL), load_plan(plan_file)
    conditioning, negative = prompts.rows([prompt]), prompts.negative_rows([prompt])
    geometry = geometry_of(plan)
    shape = loaded.family.latent_shape(loaded.config, geometry)
    noise = seeded_noise((1, *shape), seed)
    dense = sample("dense", loaded.velocity(geometry), noise, conditioning, negative, steps)
    paro: dict[str, Sampling] = {}
    for title, backend in (("PARO, plain file", Backend.ORT), ("PARO, native op", Backend.CPU)):
        with open_session(model_file, backend) as session:
            velocity = session_velocity(session)
            paro[title] = sample(title, velocity, noise, conditioning, negative, steps)
    console.print(comparison(plan, plan_file, dense, paro))

    videos = panels(dense.video, paro["PARO, native op"].video)
    title = f'"{text}", density {plan.density():.2f}, 8 bits'
    write_sheet(videos, title, output / "videos.png")
    write_animation(videos, output / "videos.gif")
    middle = steps // 2
    size = parse_size("--latent", LATENT)
    source = EmbeddingsSource(loaded, prompts, size, Schedule(steps, SHIFT, GUIDANCE))
    call = source.record(prompt, seed, {middle}, lambda _step: None)[middle]
    stories = head_stories(loaded, plan, call)
    write_maps(stories[:PICTURED_HEADS], output / "attention.png")


def sample(
    name: str,
    velocity: Any,
    noise: Any,
    conditioning: Any,
    negative: Any,
    steps: int,
) -> Sampling:
    """Denoise with guidance."""
    from rich.progress import Progress

    from paro_trt.models.denoise import TIMESTEPS, denoise

    first = noise.new_tensor([float(TIMESTEPS)])
    velocity(noise, first, conditioning)  # the first evaluation allocates; it is not timed
    with Progress(console=Console(stderr=True)) as progress:
        task = progress.add_task(name, total=steps)

        def on_step(_step: int, _timestep: float, _latents: Any) -> None:
            progress.advance(task)

        started = time.perf_counter()
        video = denoise(
            velocity, noise, conditioning, steps=steps, shift=SHIFT,
            guidance_scale=GUIDANCE, negative=negative, on_step=on_step,
        )  # fmt: skip
        seconds = time.perf_counter() - started
    evaluations = steps if GUIDANCE == 1.0 else 2 * steps
    return Sampling(video[0], seconds, seconds / evaluations)


def comparison(plan: Any, plan_file: Path, dense: Sampling, paro: Mapping[str, Sampling]) -> Table:
    """The demo's one table: dense attention, then each way to run the exported file."""
    from paro_trt.cli.output import file_size
    from paro_trt.cli.plan_document import mean_over_heads
    from paro_trt.verification.metrics import output_errors, psnr, ssim

    table = Table(title="PARO in ONNX Runtime against the dense model in PyTorch, on this CPU")
    table.add_column("what", style="cyan")
    for column in ("dense", *paro):
        table.add_column(column, justify="right")

    def of_plan(name: str, of_dense: str, value: str) -> None:
        table.add_row(name, of_dense, *(value for _ in paro))

    of_plan("density of blocks", "1", f"{plan.density():.3f}")
    of_plan("attention mass in them", "1", f"{mean_over_heads(plan, 'mass'):.3f}")
    of_plan("plan file", "", file_size(plan_file.stat().st_size))
    for layer in plan.layers:
        error = plan.calibration.measured[f"heldout_error.{layer.name}"]
        of_plan(f"error of {layer.name}", "0", f"{error:.3f}")
    pairs = [(run.video[None], dense.video[None]) for run in paro.values()]
    cosines = [output_errors(*pair).cosine for pair in pairs]
    table.add_row("video: cosine", "1", *(f"{cosine:.5f}" for cosine in cosines))
    table.add_row("video: PSNR", "", *(f"{psnr(*pair, PIXEL_RANGE):.2f} dB" for pair in pairs))
    table.add_row("video: SSIM", "1", *(f"{ssim(*pair, PIXEL_RANGE):.4f}" for pair in pairs))
    runs = (dense, *paro.values())
    milliseconds = [f"{1000 * run.evaluation_seconds:.0f} ms" for run in runs]
    table.add_row("one evaluation of the model", *milliseconds)
    table.add_row("the whole video", *(f"{run.seconds:.1f} s" for run in runs))
    table.add_row("speed", "1", *(f"{dense.seconds / run.seconds:.2f}" for run in paro.values()))
    share = plan.calibration.measured.get("attention_share")
    if share is not None:
        table.caption = f"attention is {share:.0%} of the dense model's time here"
    return table


if __name__ == "__main__":
    typer.run(main)
