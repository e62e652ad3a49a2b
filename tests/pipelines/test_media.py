"""Videos and images that were written are read back; a write that fails leaves nothing."""

from __future__ import annotations

import resource
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from imageio_ffmpeg import count_frames_and_secs, read_frames
from PIL import Image

from paro_trt.errors import ArgumentError, BackendUnavailableError, ParoError
from paro_trt.pipelines.media import side_by_side, to_uint8, write_media


def picture(frames: int, height: int, width: int) -> np.ndarray:
    """A gradient that moves, uint8 [frames, height, width, 3]."""
    time, rows, columns = np.ogrid[:frames, :height, :width]
    red = (rows * 255 // height + 0 * columns + 10 * time) % 256
    green = (columns * 255 // width + 0 * rows + 0 * time) % 256
    return np.stack(np.broadcast_arrays(red, green, 0 * red + 60), axis=-1).astype(np.uint8)


def read_video(path: Path) -> tuple[dict, np.ndarray]:
    """What ffmpeg says of a video, and its frames."""
    reader = read_frames(str(path))
    about = next(reader)
    width, height = about["size"]
    return about, np.stack(
        [np.frombuffer(frame, np.uint8).reshape(height, width, 3) for frame in reader]
    )


@pytest.mark.parametrize(("height", "width"), [(64, 96), (33, 47)])
def test_a_video_is_what_was_given(height: int, width: int, tmp_path: Path) -> None:
    frames, path = picture(7, height, width) // 4 + 80, tmp_path / "out.mp4"
    write_media(path, frames, fps=12.5)
    about, back = read_video(path)
    assert about["fps"] == 12.5
    assert about["codec"] == "h264"
    assert about["pix_fmt"].startswith("yuv420p")
    assert back.shape == (7, height + height % 2, width + width % 2, 3)
    assert count_frames_and_secs(str(path))[0] == 7
    error = np.abs(back[:, :height, :width].astype(int) - frames)
    assert error.mean() < 3
    assert list(tmp_path.iterdir()) == [path]


def test_an_image_is_exact(tmp_path: Path) -> None:
    frames, path = picture(1, 33, 47), tmp_path / "out.png"
    write_media(path, frames, fps=1)
    assert np.array_equal(np.asarray(Image.open(path)), frames[0])


def test_values_are_clipped_and_rounded() -> None:
    values = np.array([-1.0, 0.0, 0.5, 1.0, 2.0, np.nan], np.float32)
    assert to_uint8(values).tolist() == [0, 0, 128, 255, 255, 0]


def test_side_by_side_keeps_both_and_names_them() -> None:
    left, right = picture(2, 32, 40), 255 - picture(2, 32, 40)
    joined = side_by_side(left, right, ("dense", "density 0.30"))
    label = joined.shape[1] - 32
    assert np.array_equal(joined[:, label:, :40], left)
    assert np.array_equal(joined[:, label:, -40:], right)
    assert (joined[:, :, 40:-40] == 255).all()
    assert (joined[0, :label, :40] < 100).any()
    with pytest.raises(ArgumentError, match="shape"):
        side_by_side(left, right[:, :-1], ("a", "b"))


def test_what_cannot_be_written_is_refused(tmp_path: Path) -> None:
    frames = picture(2, 16, 16)
    for path, given, fps, message in (
        ("a.avi", frames, 10, r"ends in \.mp4"),
        ("a.png", frames, 10, "one frame for an image"),
        ("a.mp4", frames, 0, "fps"),
        ("a.mp4", frames[0], 10, "uint8"),
        ("a.mp4", frames.astype(np.float32), 10, "uint8"),
        ("a.mp4", frames[:0], 10, "uint8"),
    ):
        with pytest.raises(ArgumentError, match=message):
            write_media(tmp_path / path, given, fps)
    with pytest.raises(ParoError, match="No such file"):
        write_media(tmp_path / "none" / "a.mp4", frames, 10)
    assert list(tmp_path.iterdir()) == []


def test_a_missing_ffmpeg_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("IMAGEIO_FFMPEG_EXE", str(tmp_path / "none"))
    with pytest.raises((BackendUnavailableError, ParoError), match=r"imageio-ffmpeg|ffmpeg"):
        write_media(tmp_path / "a.mp4", picture(2, 16, 16), 10)
    monkeypatch.delenv("IMAGEIO_FFMPEG_EXE")
    monkeypatch.setitem(sys.modules, "imageio_ffmpeg", None)
    with pytest.raises(BackendUnavailableError, match="pip install"):
        write_media(tmp_path / "a.mp4", picture(2, 16, 16), 10)
    assert list(tmp_path.iterdir()) == []


def test_the_error_is_the_cause_that_ffmpeg_names_first(tmp_path: Path, monkeypatch) -> None:
    program = tmp_path / "ffmpeg"
    program.write_text(
        "#!/bin/sh\n"
        "echo '[out#0/mp4 @ 0x55f0aed0c5c0] Could not write header: No space left on device' >&2\n"
        "echo '[out#0/mp4 @ 0x55f0aed0c5c0] Nothing was written into output file.' >&2\n"
        "exit 228\n"
    )
    program.chmod(0o755)
    monkeypatch.setenv("IMAGEIO_FFMPEG_EXE", str(program))
    with pytest.raises(ParoError, match="got Could not write header: No space left on device;"):
        write_media(tmp_path / "a.mp4", picture(2, 16, 16), 10)
    assert list(tmp_path.iterdir()) == [program]


def test_a_full_disk_leaves_the_old_file(tmp_path: Path) -> None:
    """A limit on the size of files ends ffmpeg as a full disk does: in the middle."""
    path = tmp_path / "a.mp4"
    path.write_bytes(b"old")
    code = (
        "import resource, sys, numpy as np\n"
        "from pathlib import Path\n"
        "from paro_trt.errors import ParoError\n"
        "from paro_trt.pipelines.media import write_media\n"
        "noise = np.random.default_rng(0).integers(0, 255, (30, 64, 64, 3), dtype=np.uint8)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (20000, 20000))\n"
        "try: write_media(Path(sys.argv[1]), noise, 10)\n"
        "except ParoError as error: print(error)\n"
    )
    said = subprocess.check_output([sys.executable, "-c", code, str(path)], text=True)
    assert "free space" in said
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]
    assert resource.getrlimit(resource.RLIMIT_FSIZE)[0] != 20000
