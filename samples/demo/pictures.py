"""Videos side by side: a sheet of frames and an animation."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

DIFFERENCE_GAIN = 5
SHEET_ZOOM, ANIMATION_ZOOM = 2, 4
GAP = 6
CAPTION_HEIGHT, LABEL_WIDTH = 26, 132
FRAME_MILLISECONDS = 167
BACKGROUND, INK = (24, 24, 28), (235, 235, 235)


def panels(dense: Tensor, paro: Tensor) -> dict[str, NDArray[np.uint8]]:
    """Captions and pixels [F, H, W, 3] of two videos [3, F, H, W] in [-1, 1] and how they differ.

    Equal pixels are mid-grey in the difference.
    """
    difference = (paro - dense) * DIFFERENCE_GAIN
    return {
        "dense": _pixels(dense),
        "PARO": _pixels(paro),
        f"difference x{DIFFERENCE_GAIN}": _pixels(difference),
    }


def write_sheet(shown: Mapping[str, NDArray[np.uint8]], title: str, path: Path) -> None:
    """PNG: one row a panel, one column a frame."""
    frames, height, width = next(iter(shown.values())).shape[:3]
    step_x, step_y = width * SHEET_ZOOM + GAP, height * SHEET_ZOOM + GAP
    size = (LABEL_WIDTH + frames * step_x, 2 * CAPTION_HEIGHT + len(shown) * step_y)
    sheet, draw = _canvas(size)
    draw.text((GAP, 4), title, fill=INK, font=_font(15))
    for frame in range(frames):
        corner = (LABEL_WIDTH + frame * step_x, CAPTION_HEIGHT + 6)
        draw.text(corner, f"frame {frame + 1}", fill=INK, font=_font(12))
    for row, (caption, video) in enumerate(shown.items()):
        top = 2 * CAPTION_HEIGHT + row * step_y
        draw.text((GAP, top + height * SHEET_ZOOM // 2 - 8), caption, fill=INK, font=_font(14))
        for frame, image in enumerate(video):
            sheet.paste(_zoomed(image, SHEET_ZOOM), (LABEL_WIDTH + frame * step_x, top))
    sheet.save(path, optimize=True)


def write_animation(shown: Mapping[str, NDArray[np.uint8]], path: Path) -> None:
    """Looping GIF: one column a panel."""
    frames, height, width = next(iter(shown.values())).shape[:3]
    step = width * ANIMATION_ZOOM + GAP
    size = (GAP + len(shown) * step, CAPTION_HEIGHT + height * ANIMATION_ZOOM + GAP)
    pictures = []
    for frame in range(frames):
        picture, draw = _canvas(size)
        for column, (caption, video) in enumerate(shown.items()):
            left = GAP + column * step
            draw.text((left, 4), caption, fill=INK, font=_font(15))
            picture.paste(_zoomed(video[frame], ANIMATION_ZOOM), (left, CAPTION_HEIGHT))
        pictures.append(picture)
    rest, duration = pictures[1:], FRAME_MILLISECONDS
    pictures[0].save(path, save_all=True, append_images=rest, duration=duration, loop=0)


def _pixels(video: Tensor) -> NDArray[np.uint8]:
    scaled = ((video.clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8)
    return scaled.permute(1, 2, 3, 0).numpy()


def _canvas(size: tuple[int, int]) -> tuple[Image.Image, ImageDraw.ImageDraw]:
    image = Image.new("RGB", size, BACKGROUND)
    return image, ImageDraw.Draw(image)


def _zoomed(image: NDArray[np.uint8], zoom: int) -> Image.Image:
    height, width = image.shape[:2]
    picture = Image.fromarray(image)
    return picture.resize((width * zoom, height * zoom), Image.Resampling.NEAREST)


def _font(size: int) -> ImageFont.ImageFont | ImageFont.FreeTypeFont:
    return ImageFont.load_default(size)
