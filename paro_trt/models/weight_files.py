"""Which files of a transformer's directory are its weights: looked at before it is judged."""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import ModelError
from .contents import read_json_object, refuse_foreign

STEM = "diffusion_pytorch_model"
WEIGHTS_NAME = f"{STEM}.safetensors"
_WHOLE = re.compile(rf"{STEM}(?:\.(?P<variant>[\w-]+?))?\.safetensors")
_INDEX = re.compile(rf"{STEM}\.safetensors\.index(?:\.(?P<variant>[\w-]+))?\.json")
_SHARD = re.compile(r"-\d{5}-of-\d{5}")

_PICKLED = (".bin", ".pt", ".pth", ".ckpt")
ADAPTER_FILES = ("pytorch_lora_weights.safetensors", "adapter_model.safetensors")


@dataclass
class _Saved:
    """A checkpoint in a directory: one file, an index of shards, or, by mistake, both."""

    whole: Path | None = None
    index: Path | None = None


def weight_files(directory: Path, variant: str | None = None) -> tuple[Path, ...]:
    """The model's weight file, or the shards that its index lists.

    Args:
        directory: of the transformer.
        variant: such as "fp16", as diffusers names files; None takes those without a variant, or
            the only variant there is.

    Raises:
        ModelError: files are missing, of another format, or of several checkpoints.
    """
    saved = _saved(directory)
    chosen = _choose(directory, saved, variant)
    files = _files_of(chosen)
    for file in files:
        if not file.is_file():
            raise ModelError(
                str(file),
                expected="a safetensors weight file",
                actual="a link to a file that is gone" if file.is_symlink() else "no such file",
                remedy=f"copy every weight file; {chosen.index.name} lists the shards"
                if chosen.index
                else "copy or download it again",
            )
        refuse_foreign(file, "a safetensors weight file")
    return files


def only_variant(directory: Path) -> str | None:
    """The variant that a directory's weights have where no others are there; else None."""
    saved = _saved(directory)
    return next(iter(saved)) or None if len(saved) == 1 else None


def _saved(directory: Path) -> dict[str, _Saved]:
    """What is there, by variant; "" for none."""
    found: dict[str, _Saved] = {}
    for file in sorted(directory.iterdir()):
        whole, index = _WHOLE.fullmatch(file.name), _INDEX.fullmatch(file.name)
        match = whole or index
        if match is None or _SHARD.search(file.name):
            continue
        entry = found.setdefault(match["variant"] or "", _Saved())
        if whole:
            entry.whole = file
        else:
            entry.index = file
    return found


def _choose(directory: Path, saved: dict[str, _Saved], variant: str | None) -> _Saved:
    if variant is not None:
        if variant in saved:
            return saved[variant]
        there = ", ".join(sorted(filter(None, saved))) or "none"
        raise ModelError(
            str(directory), expected=f"weights of the variant {variant[:40]}",
            actual=f"variants: {there}",
        )  # fmt: skip
    if "" in saved:
        return saved[""]
    if not saved:
        _explain_absence(directory)
    if len(saved) > 1:
        names = sorted((entry.whole or entry.index).name for entry in saved.values())  # type: ignore[union-attr]
        raise ModelError(
            str(directory),
            expected=f"{WEIGHTS_NAME}, or one variant of it",
            actual=", ".join(names),
            remedy="name the variant, or keep the files of one",
        )
    return next(iter(saved.values()))


def _files_of(saved: _Saved) -> tuple[Path, ...]:
    if saved.index is None:
        return (saved.whole,) if saved.whole is not None else ()
    shards = tuple(_shards(saved.index))
    if saved.whole is None or saved.whole in shards:
        return shards
    left = [shard for shard in shards if shard.exists()]
    if not left:
        return (saved.whole,)
    return _newer(saved.whole, saved.index, shards, left)


def _newer(
    whole: Path, index: Path, shards: tuple[Path, ...], left: list[Path]
) -> tuple[Path, ...]:
    """Of two checkpoints the one that was written after the other, with a warning.

    Raises:
        ModelError: their times do not tell.
    """
    wrote = whole.stat().st_mtime_ns
    times = [file.stat().st_mtime_ns for file in (index, *left)]
    both = f"{whole.name}, and {index.name} with {len(left)} shards"
    if wrote > max(times):
        warnings.warn(f"{index.parent} has {both}; the whole file is newer, taken", stacklevel=2)
        return (whole,)
    if wrote < min(times) and len(left) == len(shards):
        warnings.warn(f"{index.parent} has {both}; the shards are newer, taken", stacklevel=2)
        return shards
    raise ModelError(
        str(index.parent),
        expected="one checkpoint, whole or in shards",
        actual=f"{both}, of which neither is the newer",
        remedy="remove the one that is out of date",
    )


def _shards(index: Path) -> Iterator[Path]:
    weight_map: Any = read_json_object(index).get("weight_map")
    names = set(weight_map.values()) if _is_weight_map(weight_map) else ()
    if not names:
        raise ModelError(
            f"{index}: weight_map",
            expected="an object from tensor names to file names in the same directory",
            actual=repr(weight_map)[:80],
        )
    for name in sorted(names):
        yield index.parent / name


def _is_weight_map(value: object) -> bool:
    return isinstance(value, dict) and all(
        isinstance(name, str) and name.endswith(".safetensors") and Path(name).name == name
        for name in value.values()
    )


def _explain_absence(directory: Path) -> None:
    """ModelError that names what lies there instead of the weights."""
    files = sorted(file.name for file in directory.iterdir())
    pickled = [name for name in files if name.endswith(_PICKLED)]
    shards = [name for name in files if name.startswith(STEM) and _SHARD.search(name)]
    adapters = [name for name in files if name in ADAPTER_FILES]
    quantized = [name for name in files if name.endswith(".gguf")]
    others = [name for name in files if name.endswith(".safetensors")]
    if shards and not pickled:
        actual = f"{len(shards)} shards without their index"
        remedy = f"copy {WEIGHTS_NAME}.index.json too"
    elif pickled:
        actual = f"pickled weights, {pickled[0]}"
        remedy = (
            "convert them where you trust them: CLASS.from_pretrained(DIRECTORY, "
            "use_safetensors=False).save_pretrained(DIRECTORY)"
        )
    elif quantized and not others:
        actual = f"a GGUF file, whose weights are quantized, {quantized[0]}"
        remedy = "use the checkpoint in bfloat16 or float16"
    elif adapters:
        actual = f"a LoRA adapter, {adapters[0]}"
        remedy = "pass the model's directory, and the adapter by --lora"
    elif others:
        actual = others[0]
        remedy = "rename it if it was saved by diffusers, else convert it: diffusers' "
        remedy += "CLASS.from_single_file(FILE).save_pretrained(DIRECTORY)"
    else:
        there = f", but {', '.join(files[:4])}" if files else ""
        actual, remedy = f"no such file{there}", "copy every weight file"
    raise ModelError(
        str(directory / WEIGHTS_NAME),
        expected="a safetensors weight file",
        actual=actual,
        remedy=remedy,
    )
