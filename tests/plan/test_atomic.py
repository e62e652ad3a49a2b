"""A write that fails leaves the old file, and nothing else."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable
from pathlib import Path

import pytest

from paro_trt.errors import ParoError
from paro_trt.files import atomic_write
from paro_trt.plan import load_plan, save_plan
from tests.support.plans import small_plan


def test_complete_write(tmp_path: Path) -> None:
    path = tmp_path / "a"
    with atomic_write(path) as file:
        file.write(b"new")
        assert not path.exists(), "the name appeared before the content was complete"
    assert path.read_bytes() == b"new"
    assert list(tmp_path.iterdir()) == [path]


def test_permissions_follow_the_umask(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        with atomic_write(tmp_path / "a") as file:
            file.write(b"x")
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "a").stat().st_mode) == 0o640


def _full_disk(*_: object) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def _interrupt(*_: object) -> None:
    raise KeyboardInterrupt


@pytest.mark.parametrize("old", [None, b"old"])
@pytest.mark.parametrize(
    ("failure", "raised"), [(_full_disk, ParoError), (_interrupt, KeyboardInterrupt)]
)
def test_failure_midway(
    failure: Callable[[], None], raised: type[BaseException], old: bytes | None, tmp_path: Path
) -> None:
    path = tmp_path / "a"
    if old is not None:
        path.write_bytes(old)

    def write() -> None:
        with atomic_write(path) as file:
            file.write(b"part of the new")
            failure()

    with pytest.raises(raised):
        write()
    assert [p.read_bytes() for p in tmp_path.iterdir()] == ([] if old is None else [old])


@pytest.mark.parametrize("call", ["fsync", "replace"])
@pytest.mark.parametrize(
    ("failure", "raised"), [(_full_disk, ParoError), (_interrupt, KeyboardInterrupt)]
)
def test_failure_at_the_end_keeps_the_old_plan(
    call: str,
    failure: Callable[[], None],
    raised: type[BaseException],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    path = tmp_path / "a.paro.safetensors"
    save_plan(small_plan(seed=1), path)
    with monkeypatch.context() as patch:
        patch.setattr(*{"fsync": (os, "fsync"), "replace": (Path, "replace")}[call], failure)
        with pytest.raises(raised):
            save_plan(small_plan(seed=2), path)
    assert list(tmp_path.iterdir()) == [path]
    assert load_plan(path).content_hash() == small_plan(seed=1).content_hash()


def test_a_full_disk_is_named(tmp_path: Path) -> None:
    message = r"No space left.*nothing was changed"
    with pytest.raises(ParoError, match=message), atomic_write(tmp_path / "a"):
        _full_disk()


def test_missing_directory(tmp_path: Path) -> None:
    with pytest.raises(ParoError, match=r"existing directory.*create .*nowhere first"):
        save_plan(small_plan(), tmp_path / "nowhere" / "a")
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(ParoError, match="existing directory"):
        save_plan(small_plan(), tmp_path / "file" / "a")


def test_directory_in_place_of_a_file(tmp_path: Path) -> None:
    with pytest.raises(ParoError, match="expected a file name, got a directory"):
        save_plan(small_plan(), tmp_path)
    assert not list(tmp_path.iterdir())


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_forbidden_directory(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    try:
        with pytest.raises(ParoError, match="permissions"):
            save_plan(small_plan(), tmp_path / "a")
    finally:
        tmp_path.chmod(0o700)


def test_another_error_of_the_block_passes(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), atomic_write(tmp_path / "a"):
        _ = 1 / 0
    assert not list(tmp_path.iterdir())
