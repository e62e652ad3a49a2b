"""Reading safetensors weights: every name and shape is checked before anything is allocated."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from torch import Tensor

from ..errors import ModelError

WEIGHTS_NAME = "diffusion_pytorch_model.safetensors"
INDEX_NAME = WEIGHTS_NAME + ".index.json"
LARGEST_JSON = 64 << 20
"""Bytes of JSON read at most; the index of a 100-billion-parameter model has a tenth of it."""


def read_json_object(path: Path) -> dict[str, Any]:
    """The JSON object in a file; ModelError if missing, too large or anything else."""
    expected = f"a JSON object of at most {LARGEST_JSON} bytes"
    try:
        with path.open("rb") as file:
            text = file.read(LARGEST_JSON + 1)
        if len(text) > LARGEST_JSON:
            raise ModelError(str(path), expected=expected, actual="a larger file")
        value = json.loads(text)
    except OSError as error:
        raise ModelError(
            str(path), expected="a readable file", actual=error.strerror or str(error)
        ) from error
    except (ValueError, RecursionError) as error:
        raise ModelError(str(path), expected=expected, actual=first_line(error)) from error
    if not isinstance(value, dict):
        raise ModelError(str(path), expected=expected, actual=f"a JSON {type(value).__name__}")
    return value


def weight_files(directory: Path) -> tuple[Path, ...]:
    """The model's weight file, or the shards its index lists; ModelError names what is missing."""
    index = directory / INDEX_NAME
    if not index.exists():
        names: Iterable[Any] = (WEIGHTS_NAME,)
    else:
        weight_map: Any = read_json_object(index).get("weight_map")
        names = set(weight_map.values()) if _is_weight_map(weight_map) else ()
        if not names:
            raise ModelError(
                f"{index}: weight_map",
                expected="an object from tensor names to file names in the same directory",
                actual=repr(weight_map)[:80],
            )
    files = tuple(directory / name for name in sorted(names))
    for file in files:
        if not file.is_file():
            raise ModelError(
                str(file),
                expected="a safetensors weight file",
                actual="no such file",
                remedy=f"copy every weight file; {INDEX_NAME} lists the shards",
            )
    return files


def read_weights(
    files: Iterable[Path], shapes: Mapping[str, tuple[int, ...]], ignored: Iterable[str] = ()
) -> dict[str, Tensor]:
    """All tensors of `files`, which must be exactly those of `shapes`.

    Args:
        files: safetensors files.
        shapes: name and shape of every tensor that the model has.
        ignored: tensors whose name contains one of these may be in the files and are left out.

    Raises:
        ModelError: a damaged file, or a tensor that is missing, unexpected or of another shape.
    """
    weights: dict[str, Tensor] = {}
    ignored = tuple(ignored)
    for path in files:
        try:
            with safe_open(path, framework="pt") as file:
                names = [name for name in file.keys() if not any(part in name for part in ignored)]  # noqa: SIM118
                for name in names:
                    _check_shape(path, name, tuple(file.get_slice(name).get_shape()), shapes)
                weights.update((name, file.get_tensor(name)) for name in names)
        except (SafetensorError, OSError) as error:
            raise ModelError(
                str(path),
                expected="a complete safetensors file",
                actual=first_line(error),
                remedy="copy or download it again",
            ) from error
    missing = sorted(shapes.keys() - weights.keys())
    if missing:
        raise ModelError(
            str(next(iter(files), "weights")),
            expected=f"tensor {missing[0]}",
            actual=f"{len(missing)} of {len(shapes)} tensors missing",
            remedy="config.json and the weights belong to different models, or a shard is missing",
        )
    return weights


def _check_shape(
    path: Path, name: str, shape: tuple[int, ...], shapes: Mapping[str, tuple[int, ...]]
) -> None:
    if shapes.get(name) != shape:
        raise ModelError(
            f"{path}: {name}",
            expected=f"shape {shapes[name]}" if name in shapes else "no such tensor",
            actual=f"shape {shape}",
            remedy="config.json and the weights belong to different models",
        )


def _is_weight_map(value: object) -> bool:
    return isinstance(value, dict) and all(
        isinstance(name, str) and name.endswith(".safetensors") and Path(name).name == name
        for name in value.values()
    )


def first_line(error: BaseException) -> str:
    """An exception as one short line, for the `actual` of an error of ours."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
