"""Samples videos from the tiny video transformer: Euler steps of flow matching, optional guidance.

    python -m samples.tiny_video_dit.sample --prompt "a big red circle moving left" --output circle

writes circle.png (one row of frames a prompt) and circle.gif.
"""

from pathlib import Path
from typing import Annotated

import torch
import typer
from diffusers import FlowMatchEulerDiscreteScheduler
from PIL import Image, ImageDraw
from rich.progress import track

from .dataset import FRAME_SIZE, FRAMES
from .flow import SIGMA_SHIFT, TIMESTEPS, load_model
from .prompts import HELDOUT_PROMPTS
from .text import embed_prompt, embed_prompts

MODEL_DIR = Path(__file__).resolve().parent / "model"
LABEL_HEIGHT = 14


@torch.no_grad()
def sample_videos(
    model: torch.nn.Module,
    prompt_embeds: torch.Tensor,
    *,
    seed: int = 0,
    steps: int = 20,
    guidance: float = 2.5,
    shift: float = SIGMA_SHIFT,
) -> torch.Tensor:
    """Videos [P, 3, FRAMES, FRAME_SIZE, FRAME_SIZE] f32, nominally in [-1, 1].

    `prompt_embeds` is [P, L, 32] f32. `guidance` w mixes velocities as
    unconditional + w * (conditional - unconditional); 1 skips the unconditional evaluation.
    `model` takes (hidden_states, timestep, encoder_hidden_states, return_dict=False).
    """
    scheduler = FlowMatchEulerDiscreteScheduler(num_train_timesteps=TIMESTEPS, shift=shift)
    scheduler.set_timesteps(steps)
    count = len(prompt_embeds)
    generator = torch.Generator().manual_seed(seed)
    shape = (count, 3, FRAMES, FRAME_SIZE, FRAME_SIZE)
    videos = torch.randn(shape, generator=generator)
    unconditional = embed_prompt("").expand_as(prompt_embeds)

    for timestep in track(scheduler.timesteps, description="sampling", transient=True):
        timesteps = timestep.expand(count)
        velocity = model(videos, timesteps, prompt_embeds, return_dict=False)[0]
        if guidance != 1.0:
            base = model(videos, timesteps, unconditional, return_dict=False)[0]
            velocity = base + guidance * (velocity - base)
        videos = scheduler.step(velocity, timestep, videos, return_dict=False)[0]
    return videos


def frame_images(videos: torch.Tensor) -> list[list[Image.Image]]:
    """RGB images [P][F] of videos [P, 3, F, S, S] in [-1, 1]."""
    pixels = ((videos.clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8)
    return [
        [Image.fromarray(frame.numpy()) for frame in video.permute(1, 2, 3, 0)] for video in pixels
    ]


def write_sheet(videos: torch.Tensor, prompts: list[str], path: Path) -> None:
    """PNG with one labelled row of frames a prompt."""
    size, frames = videos.shape[-1], videos.shape[2]
    row_height = size + LABEL_HEIGHT
    sheet = Image.new("RGB", (frames * size, len(prompts) * row_height))
    draw = ImageDraw.Draw(sheet)
    for row, (images, prompt) in enumerate(zip(frame_images(videos), prompts, strict=True)):
        draw.text((2, row * row_height + 1), prompt, fill="white")
        for column, image in enumerate(images):
            sheet.paste(image, (column * size, row * row_height + LABEL_HEIGHT))
    sheet.save(path, optimize=True)


def write_gif(videos: torch.Tensor, path: Path, columns: int = 4, zoom: int = 2) -> None:
    """Looping GIF of all videos side by side, 6 frames a second."""
    size = videos.shape[-1] * zoom
    columns = min(columns, len(videos))
    rows = -(-len(videos) // columns)
    pictures = []
    for images in zip(*frame_images(videos), strict=True):
        picture = Image.new("RGB", (columns * size, rows * size))
        for index, image in enumerate(images):
            corner = (index % columns * size, index // columns * size)
            picture.paste(image.resize((size, size), Image.Resampling.NEAREST), corner)
        pictures.append(picture)
    pictures[0].save(path, save_all=True, append_images=pictures[1:], duration=167, loop=0)


def main(
    prompt: Annotated[
        list[str] | None, typer.Option(help="may be repeated; default: the held-out prompts")
    ] = None,
    model: Annotated[Path, typer.Option(help="diffusers transformer directory")] = MODEL_DIR,
    seed: Annotated[int, typer.Option(help="of the initial noise")] = 0,
    steps: Annotated[int, typer.Option(min=1, help="Euler steps")] = 20,
    guidance: Annotated[float, typer.Option(help="1 is without guidance")] = 2.5,
    shift: Annotated[float, typer.Option(help="of the scheduler's noise levels")] = SIGMA_SHIFT,
    output: Annotated[Path, typer.Option(help="path without suffix: writes .png, .gif")] = Path(
        "samples"
    ),
) -> None:
    """Sample one video a prompt; write a contact sheet and an animation."""
    prompts = prompt or list(HELDOUT_PROMPTS)
    transformer = load_model(model)
    videos = sample_videos(
        transformer, embed_prompts(prompts), seed=seed, steps=steps, guidance=guidance, shift=shift
    )
    write_sheet(videos, prompts, output.with_suffix(".png"))
    write_gif(videos, output.with_suffix(".gif"))


if __name__ == "__main__":
    typer.run(main)
