"""Videos and images as files: mp4 by ffmpeg, png, and two side by side."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ..errors import ArgumentError, BackendUnavailableError, ParoError
from ..files import atomic_path, atomic_write

VIDEO_SUFFIX, IMAGE_SUFFIX = ".mp4", ".png"

Frames = NDArray[np.uint8]
"""uint8 [F, H, W, 3], sRGB."""

_LABEL_ROWS = 24
_SEPARATOR = 4
_WHITE, _BLACK = 255, 0
_CRF = 17
"""x264's quality: 17 can hardly be told from the frames themselves."""
_FFMPEG_PART = re.compile(r"^\[\S+ @ 0x[0-9a-f]+\] ")
"""The part of ffmpeg and its address, in front of what it says."""


def check_media_path(path: Path, *, video: bool) -> None:
    """Raise ArgumentError unless a file name's suffix suits what will be written."""
    suffix = VIDEO_SUFFIX if video else IMAGE_SUFFIX
    if path.suffix.lower() != suffix:
        what = "a video" if video else "an image"
        raise ArgumentError(
            f"-o {path}", expected=f"a file name that ends in {suffix}, for {what}",
            actual=path.suffix or "no suffix",
        )  # fmt: skip


def to_uint8(frames: NDArray[np.floating]) -> Frames:
    """Frames [F, H, W, 3] of values in 0..1 as bytes; what is outside, or NaN, is clipped to it."""
    bytes_: Frames = (np.nan_to_num(frames).clip(0, 1) * 255).round().astype(np.uint8)
    return bytes_


def write_media(path: Path, frames: Frames, fps: float) -> None:
    """Write a video (*.mp4) or, for *.png, the only frame as an image.

    The file gets its name when it is complete.

    Raises:
        ArgumentError: another suffix, or frames of another shape or number.
        BackendUnavailableError: ffmpeg is not there; for videos alone.
        ParoError: the file cannot be written.
    """
    check_media_path(path, video=path.suffix.lower() != IMAGE_SUFFIX)
    if frames.ndim != 4 or frames.shape[-1] != 3 or frames.dtype != np.uint8 or not frames.size:
        raise ArgumentError(
            "frames", expected="uint8 [F, H, W, 3]", actual=f"{frames.dtype} {list(frames.shape)}"
        )
    if path.suffix.lower() == VIDEO_SUFFIX:
        _write_video(path, frames, fps)
    elif len(frames) == 1:
        _write_image(path, frames[0])
    else:
        raise ArgumentError(
            str(path), expected="one frame for an image", actual=f"{len(frames)} frames"
        )


def side_by_side(left: Frames, right: Frames, labels: tuple[str, str]) -> Frames:
    """Two videos of one size next to each other, with a line between and their names above."""
    if left.shape != right.shape:
        raise ArgumentError(
            "right", expected=f"shape {list(left.shape)}", actual=str(list(right.shape))
        )
    frames, height, width, _ = left.shape
    shape = (frames, height + _LABEL_ROWS, 2 * width + _SEPARATOR, 3)
    joined = np.full(shape, _WHITE, np.uint8)
    joined[:, _LABEL_ROWS:, :width] = left
    joined[:, _LABEL_ROWS:, width + _SEPARATOR :] = right
    joined[:, :_LABEL_ROWS, :width] = _label(labels[0], width)
    joined[:, :_LABEL_ROWS, width + _SEPARATOR :] = _label(labels[1], width)
    return joined


def ffmpeg() -> str:
    """The ffmpeg program that imageio-ffmpeg brings or finds; BackendUnavailableError without."""
    try:
        from imageio_ffmpeg import get_ffmpeg_exe

        return str(get_ffmpeg_exe())
    except (ImportError, RuntimeError, OSError) as error:
        raise BackendUnavailableError(
            "mp4",
            expected="ffmpeg, by the package imageio-ffmpeg",
            actual=str(error).strip().splitlines()[0] if str(error) else repr(error),
            remedy="pip install --force-reinstall imageio-ffmpeg, or set IMAGEIO_FFMPEG_EXE",
        ) from error


def _write_video(path: Path, frames: Frames, fps: float) -> None:
    if not 0 < fps <= 1000:
        raise ArgumentError("fps", expected="a number above 0 and up to 1000", actual=str(fps))
    program = ffmpeg()
    # 4:2:0 chroma needs even sizes: the last row and column are repeated.
    odd = [(0, 0), *((0, size % 2) for size in frames.shape[1:3]), (0, 0)]
    padded = np.pad(frames, odd, mode="edge")
    height, width = padded.shape[1:3]
    with atomic_path(path) as temporary:
        command = [
            program, "-v", "error", "-y",
            "-f", "rawvideo", "-pix_fmt", "rgb24", "-s", f"{width}x{height}", "-r", f"{fps:g}",
            "-i", "-", "-an", "-c:v", "libx264", "-pix_fmt", "yuv420p", "-crf", str(_CRF),
            "-movflags", "+faststart", str(temporary),
        ]  # fmt: skip
        # imageio_ffmpeg.write_frames does not look at ffmpeg's exit status: a full disk would
        # leave a short file and no error.
        done = subprocess.run(command, input=padded.tobytes(), capture_output=True, check=False)
        if done.returncode != 0 or not temporary.is_file():
            raise ParoError(
                str(path),
                expected="a video that ffmpeg can write",
                actual=_reason(done) or f"exit status {done.returncode} of ffmpeg",
                remedy="check permissions and free space; this file was not changed",
            )


def _reason(done: subprocess.CompletedProcess[bytes]) -> str:
    """Why ffmpeg failed: its first line; the later ones say what followed from it."""
    said = done.stderr.decode(errors="replace").strip().splitlines()
    return _FFMPEG_PART.sub("", said[0])[:200] if said else ""


def _write_image(path: Path, frame: Frames) -> None:
    from PIL import Image

    with atomic_write(path) as file:
        Image.fromarray(frame).save(file, format="png")


def _label(text: str, width: int) -> Frames:
    """Black text on white, uint8 [rows, width, 3], cut at the width."""
    from PIL import Image, ImageDraw, ImageFont

    label = Image.new("RGB", (width, _LABEL_ROWS), (_WHITE,) * 3)
    font = ImageFont.load_default(size=14)
    ImageDraw.Draw(label).text((4, 3), text, fill=(_BLACK,) * 3, font=font)
    return np.asarray(label)
