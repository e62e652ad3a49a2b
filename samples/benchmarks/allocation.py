"""`--allocate measured` against `layer` on the included pipeline, at one cost.

    python -m samples.benchmarks.allocation plans
    python -m samples.benchmarks.allocation errors
    python -m samples.benchmarks.allocation videos

`plans` calibrates, `errors` compares predictions on held-out calls, `videos` compares held-out
videos. Each needs what comes before it, keeps its results, and goes on where it was interrupted;
the last two print Markdown tables. Plans run on the CPU backend.
"""

from __future__ import annotations

import json
import statistics
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import typer
from rich.progress import track
from torch import Tensor

import paro_trt
from paro_trt.calibration import Allocation, Target
from paro_trt.calibration.pipeline_source import PipelineSource
from paro_trt.files import atomic_write
from paro_trt.models.live import open_model
from paro_trt.verification.metrics import psnr
from samples.tiny_wan.scenes import CALIBRATION_SCENES, HELDOUT_SCENES

from .quality.__main__ import ROOT
from .quality.included import STEPS, call_arguments, included_pipeline
from .quality.rendering import rendered
from .quality.report import mean_and_error

app = typer.Typer(help=__doc__, no_args_is_help=True)
WORK = ROOT / "build" / "allocation"
Work = Annotated[Path, typer.Option(help="where plans and results are kept")]

COST = 0.2
PROMPTS = [scene.prompt for scene in CALIBRATION_SCENES[:4]]
COMMON = {
    "cost": COST,
    "candidate_orders": ("fhw", "tile8x4x2", "tile8x2x4", "tile8x4x4"),
    "time_attention": False,
}
"""Orders do not depend on the allocation: four keep the runs short."""

LAYER = "layer"
PLANS: Mapping[str, Mapping[str, Any]] = {
    LAYER: {"bins": 1, "captured_steps": 4},
    "layer with two bins": {"bins": 2, "captured_steps": 2},
    "measured": {"allocation": Allocation.MEASURED},
    "measured for sm_89 with 4-bit values": {
        "allocation": Allocation.MEASURED, "time_target": Target.SM_89, "pv_bits": 4,
    },
}  # fmt: skip
"""Settings of each plan; the first is what others are compared with. Measured effects have two
bins."""

HELDOUT_STEPS = (1, 3, 6, 8, 10)
ERROR_SEED, VIDEO_SEED = 900, 9000
"""The first of the held-out calls and of the videos."""


@dataclass(frozen=True)
class PlanPsnr:
    """One video under a plan; psnr in dB against dense attention."""

    plan: str
    video: int
    psnr: float


@dataclass(frozen=True)
class PredictionError:
    """One held-out call under a plan: squares of the error and of the dense prediction, both times
    the square of the sampler's step."""

    plan: str
    prompt: int
    step: int
    error: float
    energy: float


@app.command()
def plans(
    work: Work = WORK,
    names: Annotated[
        list[str] | None, typer.Option("--plan", help=f"one of {', '.join(PLANS)}; default: all")
    ] = None,
) -> None:
    """Make the plans that are not there."""
    if unknown := [name for name in names or () if name not in PLANS]:
        raise typer.BadParameter(
            f"{unknown[0]!r} is none of {', '.join(PLANS)}", param_hint="--plan"
        )
    work.mkdir(parents=True, exist_ok=True)
    pipe = included_pipeline()
    for name in track(names or PLANS, description="plans"):
        if not (path := plan_path(work, name)).exists():
            settings = {**COMMON, **call_arguments(STEPS), **PLANS[name]}
            paro_trt.calibrate(pipe, PROMPTS, output=path, **settings)
        print(f"{name}: {path}", flush=True)


@app.command()
def errors(work: Work = WORK, prompts: int = 5) -> None:
    """Error of the prediction on held-out calls, weighted by the square of the sampler's step."""
    path, made = work / "errors.json", _made(work)
    pipe = included_pipeline()
    found = [PredictionError(**x) for x in _load(path)]
    texts = [scene.prompt for scene in HELDOUT_SCENES[:prompts]]
    source = PipelineSource(pipe, open_model(pipe), texts, call_arguments(STEPS))
    steps = np.diff([*source.timesteps, 0.0]) / 1000
    for prompt in track(range(len(texts)), description="held-out prompts"):
        missing = [
            name for name in made if (name, prompt) not in {(x.plan, x.prompt) for x in found}
        ]
        if not missing:
            continue
        calls = source.record(prompt, ERROR_SEED + prompt, HELDOUT_STEPS, lambda _: None)
        dense = {step: _predicted(pipe, call) for step, call in calls.items()}
        for name in missing:
            with planned(pipe, plan_path(work, name)):
                for step, call in calls.items():
                    change = float((_predicted(pipe, call) - dense[step]).square().sum())
                    energy, weight = float(dense[step].square().sum()), float(steps[step] ** 2)
                    found.append(
                        PredictionError(name, prompt, step, weight * change, weight * energy)
                    )
            _save(found, path)
    print("\n".join(["", *error_table(found)]))


@app.command()
def videos(
    work: Work = WORK,
    count: Annotated[int, typer.Option("-n", "--count", min=1, help="videos of each plan")] = 8,
) -> None:
    """PSNR of held-out videos against dense attention of the same prompt and seed."""
    path, made = work / "videos.json", _made(work)
    pipe = included_pipeline()
    found = [PlanPsnr(**x) for x in _load(path)]
    for video in track(range(count), description="videos"):
        missing = [name for name in made if (name, video) not in {(x.plan, x.video) for x in found}]
        dense = rendered(pipe, video, VIDEO_SEED + video, STEPS) if missing else torch.empty(0)
        for name in missing:
            with planned(pipe, plan_path(work, name)):
                picture = planned_video(pipe, video)
            found.append(PlanPsnr(name, video, psnr(picture, dense, 1.0)))
            _save(found, path)
    print("\n".join(["", *video_table(found)]))


def plan_path(work: Path, name: str) -> Path:
    """Where a plan is kept."""
    return work / f"{name.replace(' ', '-')}.paro.safetensors"


@contextmanager
def planned(pipe: Any, plan: Path) -> Iterator[None]:
    """The pipeline with a plan in its transformer."""
    paro_trt.apply(pipe, paro_trt.load_plan(plan), impl="cpu")
    try:
        yield
    finally:
        paro_trt.remove(pipe)


def planned_video(pipe: Any, video: int) -> Tensor:
    """As `rendered`, by the pipeline as it is."""
    frames = pipe(
        HELDOUT_SCENES[video % len(HELDOUT_SCENES)].prompt,
        generator=torch.Generator().manual_seed(VIDEO_SEED + video),
        output_type="pt",
        **call_arguments(STEPS),
    ).frames
    return torch.as_tensor(frames).float().transpose(1, 2)


def error_table(found: Sequence[PredictionError]) -> list[str]:
    """Markdown: a plan a row."""
    sums: dict[str, list[float]] = defaultdict(lambda: [0.0, 0.0, 0])
    for x in found:
        of_plan = sums[x.plan]
        sums[x.plan] = [of_plan[0] + x.error, of_plan[1] + x.energy, of_plan[2] + 1]
    lines = ["| plan | held-out calls | error of the prediction |", "|---|---|---|"]
    for name, (error, energy, calls) in sums.items():
        lines.append(f"| {name} | {calls} | {(error / energy) ** 0.5:.4f} |")
    return lines


def video_table(found: Sequence[PlanPsnr]) -> list[str]:
    """Markdown: a video a row, means, and each plan less the first on the same videos."""
    at = {(x.plan, x.video): x.psnr for x in found}
    names = list(dict.fromkeys(x.plan for x in found))
    lines = [f"| video | {' | '.join(names)} |", "|---|" + "---|" * len(names)]
    for video in sorted({x.video for x in found}):
        texts = [f"{at[name, video]:.2f}" if (name, video) in at else "" for name in names]
        lines.append(f"| {video} | {' | '.join(texts)} |")
    means, changes = [], []
    for name in names:
        own = {video: value for (plan, video), value in at.items() if plan == name}
        means.append(f"{statistics.fmean(own.values()):.2f}")
        change = [value - at[LAYER, video] for video, value in own.items() if (LAYER, video) in at]
        mean, spread = mean_and_error([] if name == LAYER else change)
        error = f" ± {spread:.2f}" if spread is not None else ""
        better = f"{error}, {sum(x > 0 for x in change)} of {len(change)} better"
        changes.append("" if mean is None else f"{mean:+.2f}{better}")
    return [
        *lines,
        f"| mean | {' | '.join(means)} |",
        f"| less {LAYER} | {' | '.join(changes)} |",
    ]


def _predicted(pipe: Any, call: Any) -> Tensor:
    with torch.no_grad():
        return pipe.transformer(**call.to("cpu"))[0].double()


def _made(work: Path) -> list[str]:
    """The plans that are there."""
    found = [name for name in PLANS if plan_path(work, name).exists()]
    if not found:
        raise typer.BadParameter(f"no plans in {work}; run `plans` first", param_hint="--work")
    return found


def _load(path: Path) -> list[dict[str, Any]]:
    return list(json.loads(path.read_text())) if path.exists() else []


def _save(found: Sequence[Any], path: Path) -> None:
    with atomic_write(path) as file:
        file.write(json.dumps([asdict(x) for x in found]).encode())


if __name__ == "__main__":
    app()
