"""Trains the transformer by flow matching: first pictures, then videos that grow to 8 frames.

    python -m samples.tiny_wan.train --minutes 90 --from-scratch

A run is resumed from its checkpoint, also after its process was killed. Without a checkpoint, and
without --from-scratch, training continues from the pipeline's weights on whole videos only.
"""

import copy
import csv
import os
import time
from collections.abc import Sequence
from dataclasses import asdict, astuple, dataclass, fields
from pathlib import Path
from typing import Annotated

import torch
import typer
from diffusers import WanPipeline

from .build import PIPELINE_DIR, build_pipeline, save_pipeline
from .diagnose import Validation
from .flow import build_transformer, prepare_for_training, shift_sigma, velocity_errors
from .report import plot_training
from .scenes import ALL_SCENES, draw, pick_frames
from .text import embed
from .vae import LatentSpace

HERE = Path(__file__).resolve().parent
CHECKPOINT = HERE / ".checkpoints" / "train.pt"
PROMPT_DROPOUT = 0.1
WARMUP_STEPS = 60
EMA_DECAY = 0.998
DECAY_FROM = 0.75
FINAL_RATE = 0.02
LOG_EVERY_STEPS = 50
VALIDATE_EVERY_STEPS = 500
SAVE_EVERY_SECONDS = 60
LONGEST_STEP_SECONDS = 60


@dataclass(frozen=True)
class Stage:
    """Part of the curriculum, up to `until`, a share of the run.

    Steps take turns through `frames`, the number of frames of the videos of a step.
    """

    until: float
    frames: tuple[int, ...]
    frames_a_step: int = 16


# Attention is cheap on a single frame, and every sample teaches colour, shape and size; motion and
# persistence are learned on top.
CURRICULUM = (Stage(0.49, (1,)), Stage(0.77, (2,)), Stage(0.92, (4,)), Stage(1.0, (8,)))
CONTINUATION = (Stage(0.8, (8, 1, 8, 4)), Stage(1.0, (8,)))


@dataclass(frozen=True)
class LossRow:
    """One line of loss.csv. `loss`: mean over the steps with `frames` frames since the line before.

    `frames`: the most that a step of the stage has. `minutes`: on the clock.

    `colour`, `size`, `shape`: by what share the loss on held-out scenes rises when that word is
    wrong, in percent; empty between validations.
    """

    step: int
    minutes: float
    frames: int
    rate: float
    loss: float
    held_out: float | None = None
    colour: float | None = None
    size: float | None = None
    shape: float | None = None


class Trainer:
    """Model, average, optimizers and random state, with everything a checkpoint holds."""

    def __init__(
        self,
        pipeline: WanPipeline,
        stages: tuple[Stage, ...],
        seed: int,
        rate: float,
        earlier: Sequence[LossRow] = (),
    ) -> None:
        self.pipeline, self.stages, self.peak_rate = pipeline, stages, rate
        self.generator = torch.Generator().manual_seed(seed)
        self.space = LatentSpace(pipeline.vae)
        self.text = embed(
            pipeline.tokenizer, pipeline.text_encoder, [s.prompt for s in ALL_SCENES] + [""]
        )
        self.numbers = {scene: index for index, scene in enumerate(ALL_SCENES)}
        self.model = prepare_for_training(pipeline.transformer.float())
        self.average = copy.deepcopy(self.model).requires_grad_(False)
        self.optimizers = _optimizers(self.model, rate)
        self.step, self.seconds = 0, 0.0
        self.rows = list(earlier)
        # Steps and minutes of the runs that this one continues.
        self.first = self.rows[-1] if self.rows else LossRow(0, 0.0, 0, 0.0, 0.0)

    def save(self, path: Path) -> None:
        """Writes the checkpoint under a temporary name first: a killed process loses a minute."""
        state = {
            "model": self.model.state_dict(),
            "average": self.average.state_dict(),
            "optimizers": [optimizer.state_dict() for optimizer in self.optimizers],
            "generator": self.generator.get_state(),
            "stages": [asdict(stage) for stage in self.stages],
            "first": asdict(self.first),
            "step": self.step,
            "seconds": self.seconds,
            "rows": [asdict(row) for row in self.rows],
        }
        path.parent.mkdir(parents=True, exist_ok=True)
        unfinished = path.with_suffix(".tmp")
        torch.save(state, unfinished)
        os.replace(unfinished, path)

    def load(self, path: Path) -> None:
        state = torch.load(path, weights_only=True)
        self.model.load_state_dict(state["model"])
        self.average.load_state_dict(state["average"])
        for optimizer, part in zip(self.optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(part)
        self.generator.set_state(state["generator"])
        self.stages = tuple(Stage(**stage) for stage in state["stages"])
        self.first = LossRow(**state["first"])
        self.step, self.seconds = state["step"], state["seconds"]
        self.rows = [LossRow(**row) for row in state["rows"]]

    def stage_at(self, progress: float) -> Stage:
        """The stage at `progress`, a share of the run."""
        return next((stage for stage in self.stages if progress < stage.until), self.stages[-1])

    def train_step(self, progress: float) -> tuple[int, float, float]:
        """One optimizer step at `progress`; returns number of frames, loss and learning rate."""
        stage = self.stage_at(progress)
        length = stage.frames[self.step % len(stage.frames)]
        batch_size = stage.frames_a_step // length
        rate = self.peak_rate * min(1.0, (self.step + 1) / WARMUP_STEPS) * _rate_factor(progress)
        frames = pick_frames(length, self.generator)
        videos, scenes = draw(batch_size, self.generator, frames)
        latents = self.space.encode(videos)
        text = self.text[[self.numbers[scene] for scene in scenes]]
        dropped = torch.rand(batch_size, generator=self.generator) < PROMPT_DROPOUT
        text[dropped] = self.text[-1]
        # Levels spread over the batch: one draw an interval of equal probability.
        offsets = torch.rand(batch_size, generator=self.generator)
        sigma = shift_sigma((torch.arange(batch_size) + offsets) / batch_size)
        noise = torch.randn(latents.shape, generator=self.generator)
        with torch.autocast("cpu", torch.bfloat16):
            errors = velocity_errors(self.model, latents, text, noise, sigma, frames)
            loss = errors.mean()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        for optimizer in self.optimizers:
            for group in optimizer.param_groups:
                group["lr"] = rate
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        self.step += 1
        self._update_average()
        return length, loss.item(), rate

    @torch.no_grad()
    def _update_average(self) -> None:
        decay = min(EMA_DECAY, (1 + self.step) / (10 + self.step))
        torch._foreach_lerp_(
            list(self.average.parameters()), list(self.model.parameters()), 1 - decay
        )


def _optimizers(model: torch.nn.Module, rate: float) -> list[torch.optim.Optimizer]:
    """Muon for the matrices of the blocks, AdamW for everything else."""
    matrices = [
        parameter
        for name, parameter in model.blocks.named_parameters()
        if parameter.ndim == 2 and "scale_shift" not in name
    ]
    chosen = {id(parameter) for parameter in matrices}
    rest = [parameter for parameter in model.parameters() if id(parameter) not in chosen]
    return [
        torch.optim.Muon(
            matrices, lr=rate, weight_decay=0.01, ns_steps=4, adjust_lr_fn="match_rms_adamw"
        ),
        torch.optim.AdamW(rest, lr=rate, betas=(0.9, 0.98), weight_decay=0.01),
    ]


def _rate_factor(progress: float) -> float:
    """Factor of the learning rate: 1, and from `DECAY_FROM` on linearly down to `FINAL_RATE`."""
    left = min(1.0, (1 - progress) / (1 - DECAY_FROM))
    return FINAL_RATE + (1 - FINAL_RATE) * left


def run(trainer: Trainer, minutes: float, max_steps: int, checkpoint: Path) -> None:
    """Trains until the run has `minutes` or `max_steps` in all, whichever comes first."""
    losses: list[float] = []
    validations: dict[int, Validation] = {}
    last = saved = time.monotonic()
    while trainer.seconds < minutes * 60 and trainer.step < max_steps:
        progress = max(trainer.seconds / (minutes * 60), trainer.step / max_steps)
        length, loss, rate = trainer.train_step(progress)
        frames = max(trainer.stage_at(progress).frames)
        if length == frames:
            losses.append(loss)
        if trainer.step % LOG_EVERY_STEPS == 0:
            found: dict[str, float] = {}
            if trainer.step % VALIDATE_EVERY_STEPS == 0:
                if frames not in validations:
                    validations[frames] = Validation(trainer.space, frames)
                found = validations[frames].measure(trainer.average, trainer.text, trainer.numbers)
            row = LossRow(
                trainer.first.step + trainer.step,
                trainer.first.minutes + trainer.seconds / 60,
                frames,
                rate,
                sum(losses) / max(1, len(losses)),
                **found,
            )
            losses.clear()
            trainer.rows.append(row)
            words = "".join(f"  {name} {value:.3g}" for name, value in found.items())
            place = f"{row.minutes:6.1f} min  step {row.step}  {frames} frames"
            print(f"{place}  loss {row.loss:.4f}{words}", flush=True)
        now = time.monotonic()
        # A process that was stopped for a while did not train in that time.
        trainer.seconds += min(now - last, LONGEST_STEP_SECONDS)
        last = now
        if now - saved > SAVE_EVERY_SECONDS:
            trainer.save(checkpoint)
            saved = now
    trainer.save(checkpoint)


def read_rows(path: Path) -> list[LossRow]:
    """The lines of a loss.csv; none where there is no such file."""
    if not path.exists():
        return []
    with path.open(newline="") as file:
        return [
            LossRow(
                **{
                    name: int(value) if name in ("step", "frames") else float(value)
                    for name, value in line.items()
                    if value
                }
            )
            for line in csv.DictReader(file)
        ]


def export(trainer: Trainer, output: Path) -> None:
    """Writes the pipeline with the averaged weights, and loss.csv and loss.png next to it."""
    transformer = build_transformer()
    transformer.load_state_dict(trainer.average.state_dict())
    trainer.pipeline.transformer = transformer
    save_pipeline(trainer.pipeline, output)
    with (output.parent / "loss.csv").open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow([field.name for field in fields(LossRow)])
        writer.writerows(
            [f"{value:.5g}" if isinstance(value, float) else value for value in astuple(row)]
            for row in trainer.rows
        )
    plot_training(trainer.rows, output.parent / "loss.png")


def main(
    minutes: Annotated[float, typer.Option(help="of the run in all; 0 only exports")] = 60.0,
    steps: Annotated[int, typer.Option(min=1, help="most optimizer steps")] = 1_000_000,
    seed: Annotated[int, typer.Option(help="of weights, videos, noise and noise levels")] = 0,
    rate: Annotated[
        float, typer.Option(help="peak learning rate; default 3e-3, or 5e-4 to continue")
    ] = 0.0,
    from_scratch: Annotated[
        bool, typer.Option(help="random weights, the whole curriculum")
    ] = False,
    threads: Annotated[int, typer.Option(min=1, help="CPU threads")] = 1,
    compiled: Annotated[
        bool,
        typer.Option("--compile/--no-compile", help="needs a C++ compiler, saves half the time"),
    ] = True,
    checkpoint: Annotated[Path, typer.Option(help="resumed from if it exists")] = CHECKPOINT,
    output: Annotated[
        Path, typer.Option(help="pipeline directory; curves go to its parent")
    ] = PIPELINE_DIR,
) -> None:
    """Train by flow matching on scenes, then write the pipeline."""
    torch.set_num_threads(threads)
    torch.manual_seed(seed)
    if from_scratch:
        pipeline, stages, rate = build_pipeline(), CURRICULUM, rate or 3e-3
        earlier: list[LossRow] = []
    else:
        pipeline, stages, rate = (
            WanPipeline.from_pretrained(PIPELINE_DIR),
            CONTINUATION,
            rate or 5e-4,
        )
        earlier = read_rows(PIPELINE_DIR.parent / "loss.csv")
    trainer = Trainer(pipeline, stages, seed, rate, earlier)
    if compiled:
        for block in trainer.model.blocks:
            block.compile(dynamic=False)
    if checkpoint.exists():
        trainer.load(checkpoint)
        print(f"resuming at step {trainer.step}, minute {trainer.seconds / 60:.1f}")
    if minutes > 0:
        run(trainer, minutes, steps, checkpoint)
    export(trainer, output)


if __name__ == "__main__":
    typer.run(main)
