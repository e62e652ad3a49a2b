"""Finding a transformer's directory from the path that a user gave, and what its config says."""

from __future__ import annotations

import inspect
import re
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..errors import ModelError
from .contents import SINGLE_FILE_REMEDY, read_json_object, refuse_foreign

CONFIG_NAME = "config.json"

_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")
_ORIGINAL_KEYS = ("model_type", "_name_or_path", "hidden_size", "text_len", "double_blocks_depth")
"""Keys of the configs that authors publish with their own code, where diffusers writes a class."""

_ORIGINAL_CLASSES = ("WanModel", "HunyuanVideoDiffusionTransformer", "HYVideoDiffusionTransformer")


def transformer_directory(path: Path) -> Path:
    """The directory with the transformer's config.json: `path`, or one in this pipeline.

    Raises:
        ModelError: there is none; the message names what is there instead.
    """
    if path.is_dir():
        for directory in (path, path / "transformer"):
            if (directory / CONFIG_NAME).exists():
                return directory
    expected, actual, remedy = _instead(path)
    raise ModelError(str(path), expected=expected, actual=actual, remedy=remedy)


def _instead(path: Path) -> tuple[str, str, str]:
    """Expected, actual and remedy for a path without a transformer."""
    wanted = f"pass a diffusers transformer directory, which holds {CONFIG_NAME} and its weights"
    if path.is_file():
        expected = "a model directory"
        refuse_foreign(path, expected)
        if path.suffix in (".safetensors", ".ckpt", ".pt", ".pth", ".bin"):
            return expected, "a file", f"if it holds a whole model, {SINGLE_FILE_REMEDY}"
        return expected, "a file", wanted
    if not path.is_dir():
        given = str(path)
        if _HUB_ID.fullmatch(given) and not path.parent.exists():
            return (
                "a model directory",
                "no such directory",
                f"for a repository of the Hugging Face hub, first: hf download {given} "
                "--local-dir DIRECTORY",
            )
        actual = "a link to what is gone" if path.is_symlink() else "no such directory"
        return "a model directory", actual, wanted
    snapshot = _newest_snapshot(path)
    if snapshot is not None:
        return (
            f"{CONFIG_NAME} in it",
            "a repository of the Hugging Face cache",
            f"pass the snapshot {snapshot}",
        )
    if any(file.suffix in (".gguf", ".safetensors") for file in path.iterdir()):
        return f"{CONFIG_NAME} in it", "weights without it", SINGLE_FILE_REMEDY
    return f"{CONFIG_NAME} in it", "a directory without it", wanted


def _newest_snapshot(path: Path) -> Path | None:
    """Of a repository's directory in the Hugging Face cache: what `main` is, or the newest."""
    folder = path / "snapshots"
    if not folder.is_dir():
        return None
    main = path / "refs" / "main"
    if main.is_file() and (named := folder / main.read_text().strip()[:64]).is_dir():
        return named
    found = sorted(folder.iterdir(), key=lambda entry: entry.stat().st_mtime)
    return found[-1] if found else None


def read_config(directory: Path) -> dict[str, Any]:
    """The config.json of a transformer.

    Raises:
        ModelError: it is no JSON object, is of a model in its authors' own layout, or of one whose
            weights are quantized.
    """
    path = directory / CONFIG_NAME
    raw = read_json_object(path)
    class_name = raw.get("_class_name")
    nameless = "_class_name" not in raw and any(key in raw for key in _ORIGINAL_KEYS)
    if nameless or class_name in _ORIGINAL_CLASSES:
        raise ModelError(
            str(path),
            expected="a transformer in diffusers' layout, with its _class_name",
            actual=f"{class_name}" if class_name else "the config of its authors' own code",
            remedy="use the repository whose name ends in -Diffusers, or " + SINGLE_FILE_REMEDY,
        )
    quantization = raw.get("quantization_config")
    if quantization is not None:
        method = quantization.get("quant_method") if isinstance(quantization, Mapping) else None
        raise ModelError(
            f"{path}: quantization_config",
            expected="a model whose weights are not quantized",
            actual=f"weights quantized by {str(method)[:40]}",
            remedy="use the checkpoint in bfloat16 or float16; the plan quantizes the attention",
        )
    return raw


def constructor_arguments(model_class: Any, raw: Mapping[str, Any], path: Path) -> dict[str, Any]:
    """A class's arguments from a config.json, defaults filled in.

    A newer diffusers may have written keys that the installed class lacks: one warning names them.

    Raises:
        ModelError: such a key is a switch that is on, so that the installed class would compute
            something else.
    """
    parameters = inspect.signature(model_class.__init__).parameters
    defaults = {
        name: parameter.default
        for name, parameter in parameters.items()
        if parameter.default is not inspect.Parameter.empty
    }
    unknown = {key: value for key, value in raw.items() if key not in parameters and key[:1] != "_"}
    import diffusers

    installed = f"{model_class.__name__} of diffusers {diffusers.__version__}"
    for key, value in unknown.items():
        if value is True:
            raise ModelError(
                f"{path}: {key[:80]}",
                expected=f"an argument of {installed}",
                actual="a switch that it does not know, and that is on",
                remedy="upgrade diffusers to the release that wrote this config",
            )
    if unknown:
        warnings.warn(
            f"{path}: {installed} does not know {', '.join(map(repr, sorted(unknown)))}; ignored",
            stacklevel=2,
        )
    return {name: raw.get(name, default) for name, default in defaults.items()}
