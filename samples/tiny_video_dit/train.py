"""Trains the tiny video transformer by flow matching; resumes from its checkpoint if there is one.

    python -m samples.tiny_video_dit.train --minutes 90 --seed 0

The learning rate and the frame sizes follow the share of the allotted minutes (or steps) used, so
a slower machine runs the same schedule with fewer steps. Interrupt it at any time: --minutes 0
exports what the last checkpoint holds.
"""

import copy
import csv
import math
import os
import time
from contextlib import nullcontext
from dataclasses import asdict, astuple, dataclass, fields
from pathlib import Path
from typing import Annotated

import torch
import typer
from rich.progress import Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from .dataset import sample_batch
from .flow import build_model, shift_sigma, velocity_errors
from .report import plot_losses
from .text import embed_prompt, embed_prompts

HERE = Path(__file__).resolve().parent
PROMPT_DROPOUT = 0.1
WARMUP_STEPS = 100
EMA_DECAY = 0.995
LOG_EVERY_STEPS = 20


@dataclass(frozen=True)
class Stage:
    """Part of the curriculum: up to `until`, a share of the run, frames of this size."""

    until: float
    frame_size: int
    batch_size: int


CURRICULUM = (Stage(0.65, 32, 8), Stage(1.0, 64, 2))


@dataclass(frozen=True)
class LossRow:
    """One line of loss.csv: `loss` is the mean over the steps since the line before."""

    step: int
    minutes: float
    frame_size: int
    learning_rate: float
    loss: float


class Trainer:
    """Model, average, optimizer and random state, with everything a checkpoint holds."""

    def __init__(self, seed: int, peak_rate: float) -> None:
        torch.manual_seed(seed)
        self.generator = torch.Generator().manual_seed(seed)
        self.model = build_model().train()
        self.average = copy.deepcopy(self.model).requires_grad_(False)
        self.peak_rate = peak_rate
        self.optimizer = torch.optim.AdamW(
            self.model.parameters(), lr=peak_rate, betas=(0.9, 0.98), weight_decay=0.01
        )
        self.step = 0
        self.seconds = 0.0
        self.rows: list[LossRow] = []

    def save(self, path: Path) -> None:
        state = {
            "model": self.model.state_dict(),
            "average": self.average.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "generator": self.generator.get_state(),
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
        self.optimizer.load_state_dict(state["optimizer"])
        self.generator.set_state(state["generator"])
        self.step, self.seconds = state["step"], state["seconds"]
        self.rows = [LossRow(**row) for row in state["rows"]]

    def train_step(self, stage: Stage, progress: float, bf16: bool) -> tuple[float, float]:
        """One optimizer step; returns its loss and learning rate."""
        rate = self.peak_rate * min(1.0, (self.step + 1) / WARMUP_STEPS) * _cosine(progress)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        batch = sample_batch(stage.batch_size, self.generator, size=stage.frame_size)
        embeds = embed_prompts([scene.prompt for scene in batch.scenes])
        dropped = torch.rand(stage.batch_size, generator=self.generator) < PROMPT_DROPOUT
        embeds[dropped] = embed_prompt("")
        # Levels spread over the batch: one draw an interval of equal probability.
        offsets = torch.rand(stage.batch_size, generator=self.generator)
        sigma = shift_sigma((torch.arange(stage.batch_size) + offsets) / stage.batch_size)
        noise = torch.randn(batch.videos.shape, generator=self.generator)

        with torch.autocast("cpu", torch.bfloat16) if bf16 else nullcontext():
            loss = velocity_errors(self.model, batch.videos, embeds, noise, sigma).mean()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.step += 1
        self._update_average()
        return loss.item(), rate

    @torch.no_grad()
    def _update_average(self) -> None:
        decay = min(EMA_DECAY, (1 + self.step) / (10 + self.step))
        torch._foreach_lerp_(
            list(self.average.parameters()), list(self.model.parameters()), 1 - decay
        )


def _cosine(progress: float) -> float:
    """Factor of the learning rate: 1 at the start, 0.02 at the end."""
    return 0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * progress))


def _stage_at(progress: float) -> Stage:
    return next((stage for stage in CURRICULUM if progress < stage.until), CURRICULUM[-1])


def run(trainer: Trainer, minutes: float, max_steps: int, bf16: bool, checkpoint: Path) -> None:
    """Trains until `minutes` of training time or `max_steps`, whichever comes first."""
    losses: list[float] = []
    last = saved = time.monotonic()
    columns = (*Progress.get_default_columns()[:3], TimeElapsedColumn(), TimeRemainingColumn())
    with Progress(TextColumn("{task.fields[note]}"), *columns) as bar:
        task = bar.add_task("training", total=1.0, note="")
        while trainer.seconds < minutes * 60 and trainer.step < max_steps:
            progress = max(trainer.seconds / (minutes * 60), trainer.step / max_steps)
            stage = _stage_at(progress)
            loss, rate = trainer.train_step(stage, progress, bf16)
            losses.append(loss)
            now = time.monotonic()
            trainer.seconds += now - last
            last = now
            if trainer.step % LOG_EVERY_STEPS == 0:
                mean = sum(losses) / len(losses)
                losses.clear()
                trainer.rows.append(
                    LossRow(trainer.step, trainer.seconds / 60, stage.frame_size, rate, mean)
                )
                note = f"step {trainer.step} size {stage.frame_size} loss {mean:.4f}"
                bar.update(task, completed=progress, note=note)
            if now - saved > 120:
                trainer.save(checkpoint)
                saved = now
    trainer.save(checkpoint)


def export(trainer: Trainer, output: Path) -> None:
    """Writes the averaged weights in fp16 and the loss curve."""
    model = copy.deepcopy(trainer.average)
    for parameter in model.parameters():
        parameter.data = parameter.data.half()
    model.save_pretrained(output / "model")
    with (output / "loss.csv").open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow([field.name for field in fields(LossRow)])
        writer.writerows(
            [format(value, ".5g") if isinstance(value, float) else value for value in astuple(row)]
            for row in trainer.rows
        )
    plot_losses(trainer.rows, output / "loss.png")


def main(
    minutes: Annotated[float, typer.Option(help="training time; 0 only exports")] = 55.0,
    steps: Annotated[int, typer.Option(min=1, help="most optimizer steps")] = 1_000_000,
    seed: Annotated[int, typer.Option(help="of weights, videos, noise and noise levels")] = 0,
    rate: Annotated[float, typer.Option(help="peak learning rate")] = 2e-3,
    bf16: Annotated[bool, typer.Option(help="autocast to bfloat16")] = True,
    threads: Annotated[int, typer.Option(min=1, help="CPU threads")] = 2,
    checkpoint: Annotated[Path, typer.Option(help="resumed from if it exists")] = (
        HERE / ".checkpoints" / "train.pt"
    ),
    output: Annotated[Path, typer.Option(help="receives model/, loss.csv, loss.png")] = HERE,
) -> None:
    """Train by flow matching on synthetic moving shapes, then export."""
    torch.set_num_threads(threads)
    trainer = Trainer(seed, rate)
    if checkpoint.exists():
        trainer.load(checkpoint)
    if minutes > 0:
        run(trainer, minutes, steps, bf16, checkpoint)
    export(trainer, output)


if __name__ == "__main__":
    typer.run(main)
