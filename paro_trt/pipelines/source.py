"""Where a pipeline is on disk: a directory, an entry of the hub's cache, or one checkpoint file."""

from __future__ import annotations

import difflib
import re
from os import PathLike
from pathlib import Path

from ..errors import ModelError
from ..models.directory import CONFIG_NAME
from ..models.experts import PIPELINE_INDEX

CHECKPOINT_SUFFIX = ".safetensors"
_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")
_CACHE_ENTRY = "models--"
_KINDS = "a pipeline directory, a hub id in the local cache or a .safetensors checkpoint"


def find_pipeline(source: str | PathLike[str]) -> Path:
    """The pipeline directory, or the single checkpoint file, that `source` names.

    A hub id is looked up in the local cache; nothing is downloaded. The top directory of a cache
    entry (`models--owner--name`) stands for the snapshot of its main branch, or its only one.

    Raises:
        ModelError: there is no such pipeline on this machine.
    """
    path = Path(source)
    if path.is_file():
        return _checkpoint(path)
    if path.is_dir():
        return _directory(path)
    text = str(source)
    if not _HUB_ID.fullmatch(text):
        raise ModelError(
            text, expected=_KINDS, actual="no such file or directory", remedy=_near(path)
        )
    return _cached(text)


def _near(path: Path) -> str:
    """What to do about a path that is not there: the entry of its directory that is most like it,
    or how a pipeline comes to this machine."""
    if path.parent.is_dir():
        entries = [entry.name for entry in path.parent.iterdir()]
        if close := difflib.get_close_matches(path.name, entries, 1):
            return f"did you mean {path.parent / close[0]}?"
    return "check the path, or download the pipeline: hf download OWNER/NAME"


def _checkpoint(path: Path) -> Path:
    if path.suffix == ".gguf":
        raise ModelError(
            str(path),
            expected="floating-point weights",
            actual="a GGUF file, whose weights are quantized",
            remedy="use the model's bfloat16 or float16 weights",
        )
    if path.suffix != CHECKPOINT_SUFFIX:
        raise ModelError(str(path), expected=_KINDS, actual=f"a {path.suffix or 'plain'} file")
    return path


def _directory(path: Path) -> Path:
    if (path / PIPELINE_INDEX).is_file():
        return path
    if (path / "snapshots").is_dir():
        return _snapshot(path)
    if (path / CONFIG_NAME).is_file():
        parent = path.resolve().parent
        whole = (parent / PIPELINE_INDEX).is_file()
        raise ModelError(
            str(path),
            expected=f"a pipeline directory, which holds {PIPELINE_INDEX}",
            actual="the directory of one of its models",
            remedy=f"pass {parent}" if whole else "pass the directory of the whole pipeline",
        )
    raise ModelError(
        str(path), expected=f"{PIPELINE_INDEX} in it", actual="a directory without it",
        remedy=f"pass {_KINDS}",
    )  # fmt: skip


def _snapshot(entry: Path) -> Path:
    """The snapshot of a cache entry that its main branch names, or the only one."""
    found = sorted(path for path in (entry / "snapshots").iterdir() if path.is_dir())
    main = entry / "refs" / "main"
    named = entry / "snapshots" / main.read_text().strip() if main.is_file() else None
    chosen = named if named in found else found[0] if len(found) == 1 else None
    if chosen is not None and (chosen / PIPELINE_INDEX).is_file():
        return chosen
    complete = [str(path) for path in found if (path / PIPELINE_INDEX).is_file()]
    raise ModelError(
        str(entry),
        expected=f"a pipeline directory, which holds {PIPELINE_INDEX}",
        actual=f"a cache entry with {len(found)} snapshots, {len(complete)} of them pipelines",
        remedy=f"pass {' or '.join(complete)}" if complete else "download the whole pipeline",
    )


def _cached(hub_id: str) -> Path:
    from huggingface_hub import constants, try_to_load_from_cache

    index = try_to_load_from_cache(hub_id, PIPELINE_INDEX)
    if isinstance(index, str):
        return Path(index).parent
    entry = Path(constants.HF_HUB_CACHE) / f"{_CACHE_ENTRY}{hub_id.replace('/', '--')}"
    raise ModelError(
        hub_id,
        expected="a directory here, or a pipeline in the local cache",
        actual=f"no {PIPELINE_INDEX} in {entry}" if entry.is_dir() else "neither",
        remedy=f"hf download {hub_id}",
    )
