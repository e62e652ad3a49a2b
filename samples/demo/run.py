"""The whole chain on the included pipeline: `make demo`.

Every step is the command that a user would type, shown before it runs. Each writes its own result;
the last one draws what reordering does to the attention of a few heads.
"""

import shlex
import subprocess
import sys
import time
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

ROOT = Path(__file__).resolve().parents[2]
SAMPLE = ROOT / "samples" / "tiny_wan"
OUTPUT = ROOT / "out" / "demo"

SIZE = ("--video", "7,64,64")
GUIDANCE_SCALE = 3.0
PICTURED_HEADS = 4

console = Console(highlight=False)


def main(
    pipeline: Annotated[Path, typer.Option(help="The pipeline.")] = SAMPLE / "pipeline",
    output: Annotated[Path, typer.Option(help="Folder for all that is written.")] = OUTPUT,
    density: Annotated[float, typer.Option(help="Share of blocks to attend.")] = 0.3,
    steps: Annotated[int, typer.Option(help="Denoising steps of a video.")] = 20,
    seed: Annotated[int, typer.Option(help="Of the videos' noise.")] = 0,
) -> None:
    """Calibrate, generate, export, generate from the file; compare each with the dense model."""
    started = time.perf_counter()
    output.mkdir(parents=True, exist_ok=True)
    plan, model = output / "tiny.paro.safetensors", output / "tiny.onnx"
    heldout = SAMPLE / "heldout_prompts.txt"
    prompt = heldout.read_text(encoding="utf-8").splitlines()[0]
    sampling = ("--steps", steps, "--guidance-scale", GUIDANCE_SCALE)
    compared = ("--prompt", prompt, "--seed", seed, "--compare", "--fps", 8, *sampling)

    paro_trt("doctor")
    paro_trt(
        "calibrate", pipeline, "--prompts", SAMPLE / "prompts.txt", "--heldout", heldout,
        "-o", plan, "--density", density, *SIZE, *sampling,
    )  # fmt: skip
    paro_trt("inspect", plan)
    paro_trt("report", plan, "-o", output / "report.html")
    paro_trt("generate", pipeline, "--plan", plan, "-o", output / "plan.mp4", *compared)
    paro_trt("export", pipeline, "--plan", plan, "-o", model, "--dtype", "float32")
    paro_trt("inspect", model)
    paro_trt(
        "generate", pipeline, "--onnx", model, "--backend", "cpu", "-o", output / "file.mp4",
        *compared,
    )  # fmt: skip
    draw_attention(pipeline, plan, prompt, steps, output / "attention.png")
    console.print(f"\n{time.perf_counter() - started:.0f} s in all; files are in {shown(output)}")
    console.print(f"open {shown(output / 'report.html')} in a browser to see the plan")


def paro_trt(*arguments: object) -> None:
    """Show a command of the command line and run it; end where it fails."""
    words = [str(argument) for argument in arguments]
    line = shlex.join(shown(argument) for argument in arguments)
    console.print(f"\n$ paro-trt {line}", style="bold", markup=False, soft_wrap=True)
    done = subprocess.run([sys.executable, "-m", "paro_trt", *words], cwd=ROOT, check=False)
    if done.returncode:
        raise typer.Exit(done.returncode)


def draw_attention(pipeline: Path, plan_file: Path, prompt: str, steps: int, path: Path) -> None:
    """Attention of the heads that gain most by their order, in the middle of a dense run."""
    from attention_maps import head_stories, write_maps
    from paro_trt.pipelines.calibrate import source_of
    from paro_trt.pipelines.open import open_pipeline
    from paro_trt.pipelines.request import Request
    from paro_trt.plan import load_plan

    console.print(f"\nAttention in step {steps // 2} of {steps}", style="bold")
    request = Request(
        prompt, num_frames=7, height=64, width=64, steps=steps, guidance_scale=GUIDANCE_SCALE
    )
    source = source_of(open_pipeline(pipeline), [prompt], request)
    call = source.record(0, 0, {steps // 2}, lambda _step: None)[steps // 2]
    stories = head_stories(source.loaded, load_plan(plan_file), call)
    write_maps(stories[:PICTURED_HEADS], path)


def shown(argument: object) -> str:
    """Files of this checkout relative to it."""
    if isinstance(argument, Path) and argument.is_relative_to(ROOT):
        return str(argument.relative_to(ROOT))
    return str(argument)


if __name__ == "__main__":
    typer.run(main)
