"""Samples videos with the pipeline, judges them, and writes a sheet and an animation.

    python -m samples.tiny_wan.sample --output samples/tiny_wan/heldout

writes heldout.png (a row of frames a prompt), heldout.gif and heldout.md (the judge's table) for
the held-out prompts.
"""

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import torch
import typer
from diffusers import WanPipeline
from PIL import Image, ImageDraw

from .build import PIPELINE_DIR
from .judge import judge, table
from .scenes import FRAME_SIZE, FRAMES, HELDOUT_SCENES, scene_of

LABEL_HEIGHT = 14
STEPS = 20
GUIDANCE = 3.0


def sample_video(
    pipeline: WanPipeline, prompt: str, seed: int, steps: int = STEPS, guidance: float = GUIDANCE
) -> torch.Tensor:
    """One video [3, 8, 64, 64] f32 in [-1, 1]."""
    frames = pipeline(
        prompt,
        height=FRAME_SIZE,
        width=FRAME_SIZE,
        # The VAE does not compress time; for such a VAE, WanPipeline makes one frame more.
        num_frames=FRAMES - 1,
        num_inference_steps=steps,
        guidance_scale=guidance,
        generator=torch.Generator().manual_seed(seed),
        output_type="pt",
    ).frames[0]
    return frames.movedim(0, 1).float() * 2 - 1


def frame_images(videos: torch.Tensor) -> list[list[Image.Image]]:
    """RGB images [P][F] of videos [P, 3, F, H, W] in [-1, 1]."""
    pixels = ((videos.clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8)
    return [
        [Image.fromarray(frame.numpy()) for frame in video.permute(1, 2, 3, 0)] for video in pixels
    ]


def write_sheet(videos: torch.Tensor, prompts: Sequence[str], path: Path) -> None:
    """PNG with one labelled row of frames a prompt."""
    size, frames = videos.shape[-1], videos.shape[2]
    row_height = size + LABEL_HEIGHT
    sheet = Image.new("RGB", (frames * size, len(prompts) * row_height))
    pen = ImageDraw.Draw(sheet)
    for row, (images, prompt) in enumerate(zip(frame_images(videos), prompts, strict=True)):
        pen.text((2, row * row_height + 1), prompt, fill="white")
        for column, image in enumerate(images):
            sheet.paste(image, (column * size, row * row_height + LABEL_HEIGHT))
    sheet.save(path, optimize=True)


def write_gif(videos: torch.Tensor, path: Path, columns: int = 5, zoom: int = 2) -> None:
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
    pipeline: Annotated[Path, typer.Option(help="diffusers pipeline directory")] = PIPELINE_DIR,
    seed: Annotated[
        int, typer.Option(help="of the first prompt's noise; the next has seed + 1")
    ] = 0,
    steps: Annotated[int, typer.Option(min=1, help="denoising steps")] = STEPS,
    guidance: Annotated[float, typer.Option(help="1 is without guidance")] = GUIDANCE,
    bf16: Annotated[bool, typer.Option(help="transformer in bfloat16")] = True,
    output: Annotated[Path, typer.Option(help="path without suffix: .png, .gif, .md")] = Path(
        "samples"
    ),
) -> None:
    """Sample one video a prompt and judge it."""
    try:
        scenes = [scene_of(text) for text in prompt] if prompt else list(HELDOUT_SCENES)
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint="--prompt") from None
    # BF16 halves the time on CPUs that have it; the VAE costs little and keeps its precision.
    dtypes = {"transformer": torch.bfloat16, "default": torch.float32}
    pipe = WanPipeline.from_pretrained(pipeline, torch_dtype=dtypes if bf16 else None)
    pipe.set_progress_bar_config(disable=True)
    start = time.monotonic()
    videos = torch.stack(
        [
            sample_video(pipe, scene.prompt, seed + index, steps, guidance)
            for index, scene in enumerate(scenes)
        ]
    )
    print(f"{(time.monotonic() - start) / len(scenes):.1f} s a video")
    found = table(
        [judge(video, scene) for video, scene in zip(videos, scenes, strict=True)], scenes
    )
    print(found)
    write_sheet(videos, [scene.prompt for scene in scenes], output.with_suffix(".png"))
    write_gif(videos, output.with_suffix(".gif"))
    output.with_suffix(".md").write_text(found, encoding="utf-8")


if __name__ == "__main__":
    typer.run(main)
