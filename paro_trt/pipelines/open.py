"""`open_pipeline`: a diffusers pipeline from whatever names it, on its device, in its type."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from contextlib import contextmanager
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import torch

from ..errors import ArgumentError, ModelError, ParoError
from ..families.registry import check_served, family_for
from ..families.shared.diffusers_range import check_diffusers
from ..models.contents import first_line, read_json_object
from ..models.directory import CONFIG_NAME, constructor_arguments
from ..models.experts import PIPELINE_INDEX, ExpertRole
from ..models.weight_files import only_variant, weight_files
from .dtypes import dtype_argument, stored_dtype
from .placement import Offload, parse_device, parse_offload, place_pipeline
from .single_file import load_single_file
from .source import find_pipeline
from .transformers import check_transformers

if TYPE_CHECKING:
    from diffusers import DiffusionPipeline

PipelineSource: TypeAlias = "str | PathLike[str] | DiffusionPipeline"
"""A pipeline directory, a hub id in the local cache, a checkpoint file, or a live pipeline."""

AUTO = "auto"

_CPU = torch.device("cpu")


def open_pipeline(
    source: PipelineSource,
    *,
    device: str | torch.device = AUTO,
    dtype: str | torch.dtype = AUTO,
    offload: str | Offload = Offload.NONE,
) -> DiffusionPipeline:
    """A diffusers pipeline, ready to be called.

    Nothing is downloaded, and no weights are read but safetensors.

    Args:
        source: a pipeline directory, a hub id in the local cache, a .safetensors checkpoint that
            diffusers knows, or a live pipeline. A live pipeline is used as it is: the options below
            must then have their defaults.
        device: "cpu", "cuda", "cuda:1"; "auto" is the GPU where there is one.
        dtype: of all weights; "auto" is the type that most of the transformer's weights have on
            disk, and float32 in place of float16 on a CPU, which computes float16 far slower.
        offload: what leaves the device while it is not in use.

    Raises:
        ModelError: there is no such pipeline here, it is damaged or of no known family, or its
            transformer is quantized.
        ArgumentError: an option does not fit, or the device is not there.
    """
    placed = parse_device(device), parse_offload(offload)
    if is_live(source):
        check_transformers(source)
        if (device, dtype, placed[1]) != (AUTO, AUTO, Offload.NONE):
            raise ArgumentError(
                "device, dtype, offload",
                expected="their defaults with a live pipeline, which is used as it is",
                actual=f"{device}, {dtype}, {placed[1].value}",
                remedy="call pipe.to(device, dtype) or pipe.enable_model_cpu_offload() first",
            )
        return source
    pipe = load_pipeline(source, dtype, placed[0])
    place_pipeline(pipe, *placed)
    return pipe


def is_live(source: Any) -> bool:
    """Whether `source` is a pipeline rather than the name of one; ArgumentError if neither."""
    if isinstance(source, (str, PathLike)):
        return False
    if callable(source) and hasattr(source, "components"):
        return True
    raise ArgumentError(
        "pipeline",
        expected="a directory, a hub id, a checkpoint file or a diffusers pipeline",
        actual=type(source).__name__,
    )


def load_pipeline(
    source: str | PathLike[str],
    dtype: str | torch.dtype = AUTO,
    device: torch.device = _CPU,
    *,
    shells: Collection[ExpertRole] = (),
) -> DiffusionPipeline:
    """The pipeline in the CPU's memory; arguments and errors as of `open_pipeline`.

    Args:
        source: a directory, a hub id or a checkpoint.
        dtype: of the weights.
        device: where the pipeline will be placed.
        shells: transformers to load without weights, as modules on the meta device: something else
            takes their place before the pipeline runs.
    """
    check_diffusers()
    wanted = _parse_dtype(dtype)
    path = find_pipeline(source)
    if path.is_file():
        with _loading(path):
            pipe = load_single_file(path, wanted or _suited(stored_dtype([path]), device))
    else:
        roles = _check_index(path)
        modules = {role.value: _shell(path / role.value) for role in roles if role in shells}
        read = [path / role.value for role in roles if role not in shells]
        stored = read or [path / role.value for role in roles]
        wanted = wanted or _suited(_common_dtype(stored), device)
        with _loading(path):
            pipe = _pretrained(path, wanted, modules, roles)
    check_transformers(pipe)
    return pipe


def _parse_dtype(dtype: str | torch.dtype) -> torch.dtype | None:
    if dtype == AUTO:
        return None
    if isinstance(dtype, torch.dtype) and dtype.is_floating_point and dtype.itemsize in (2, 4):
        return dtype
    raise ArgumentError(
        "dtype",
        expected='"auto", torch.float32, torch.float16 or torch.bfloat16',
        actual=repr(dtype)[:80],
    )


def _check_index(directory: Path) -> tuple[ExpertRole, ...]:
    """Roles of the transformers that model_index.json lists; refuses before any weight is read."""
    import diffusers

    index = read_json_object(directory / PIPELINE_INDEX)
    class_name = index.get("_class_name")
    if not isinstance(class_name, str) or not hasattr(diffusers, class_name):
        raise ModelError(
            f"{directory / PIPELINE_INDEX}: _class_name",
            expected=f"a pipeline class of diffusers {diffusers.__version__}",
            actual=repr(class_name)[:80],
            remedy="upgrade diffusers, or pass a live pipeline where the class is your own",
        )
    roles = []
    for role in ExpertRole:
        entry = index.get(role.value)
        if isinstance(entry, list) and len(entry) == 2 and isinstance(entry[1], str):
            check_served(family_for(entry[1]), class_name)
            _check_config(directory / role.value / CONFIG_NAME, getattr(diffusers, entry[1], None))
            roles.append(role)
    if not roles:
        raise ModelError(
            str(directory),
            expected="a pipeline with a transformer",
            actual=f"{class_name} without one",
            remedy="pass a pipeline of a diffusion transformer, such as WanPipeline",
        )
    return tuple(roles)


def _check_config(config: Path, model_class: Any) -> None:
    raw = read_json_object(config)
    settings = raw.get("quantization_config")
    if settings is not None:
        method = settings.get("quant_method") if isinstance(settings, dict) else settings
        raise ModelError(
            f"{config}: quantization_config",
            expected="none: floating-point weights",
            actual=f"weights quantized by {str(method)[:80]}",
            remedy="use the model's bfloat16 or float16 weights",
        )
    if model_class is not None:
        # Warns of keys that the class does not know, and refuses switches among them.
        constructor_arguments(model_class, raw, config)


def _suited(stored: torch.dtype, device: torch.device) -> torch.dtype:
    return torch.float32 if (stored, device.type) == (torch.float16, "cpu") else stored


def _common_dtype(directories: list[Path]) -> torch.dtype:
    return stored_dtype([file for path in directories for file in weight_files(path)])


def _shell(directory: Path) -> torch.nn.Module:
    import diffusers

    config = read_json_object(directory / CONFIG_NAME)
    with torch.device("meta"):
        shell: torch.nn.Module = getattr(diffusers, config["_class_name"]).from_config(config)
    return shell


def _pretrained(
    directory: Path, dtype: torch.dtype, modules: dict[str, Any], roles: tuple[ExpertRole, ...]
) -> Any:
    import diffusers

    # DiffusionPipeline's own from_pretrained ignores a module given for an optional component.
    pipeline_class = getattr(diffusers, read_json_object(directory / PIPELINE_INDEX)["_class_name"])
    return pipeline_class.from_pretrained(
        str(directory),
        local_files_only=True,
        use_safetensors=True,
        # Parts that were saved without the variant are loaded without it.
        variant=only_variant(directory / roles[0].value),
        **dtype_argument(dtype),
        **modules,
    )


@contextmanager
def _loading(path: Path) -> Iterator[None]:
    """Turn whatever diffusers and transformers raise on bad files into one error."""
    import diffusers

    try:
        yield
    except ParoError:
        raise
    except Exception as error:
        raise ModelError(
            str(path),
            expected=f"a pipeline that diffusers {diffusers.__version__} loads",
            actual=first_line(error),
            remedy="check that every file of the pipeline is there, or download it again",
        ) from error
