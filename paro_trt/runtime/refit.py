"""Refits an engine with the weights of a model's directory and LoRA adapters."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from os import PathLike
from pathlib import Path
from typing import Any

import torch
from numpy.typing import NDArray

from ..engine.load import check_engine_file
from ..engine.manifest import EngineManifest
from ..engine.refit import RefitReport, refit_engine, refit_record
from ..errors import ArgumentError, ModelError
from ..models.experts import is_of_model
from ..models.load import LoadedModel, load_model
from ..models.lora import LoraFile
from ..models.weights import Checkpoint


def refit(
    engine: str | PathLike[str],
    model: str | PathLike[str],
    output: str | PathLike[str] | None = None,
    *,
    lora: Sequence[LoraFile] = (),
    check_hash: bool = True,
) -> RefitReport:
    """Replace the weights of an engine's linear layers by a model's, adapters fused into them.

    The engine keeps its plan, its shapes and all that was built. Weights go from the files to
    TensorRT in groups of 1 GiB.

    Args:
        engine: built with `BuildSettings.refit`; its manifest is next to it.
        model: directory of a model of the same class and configuration. Its other weights, such as
            those of norms, must be the ones that the engine was built with.
        output: the engine to write; None replaces `engine`.
        lora: adapters to fuse, one after the other.
        check_hash: compare the engine file with its manifest's hash first.

    Raises:
        ModelError: the model is not the engine's, or an adapter is not the model's.
        EngineError, BackendUnavailableError: as `refit_engine`.
    """
    path = Path(engine)
    target = path if output is None else Path(output)
    if target.is_dir():
        raise ArgumentError(str(target), expected="a file name", actual="a directory")
    manifest = check_engine_file(path)
    refit_record(path, manifest)
    dtype = getattr(torch, manifest.inputs[0].dtype)
    loaded = load_model(model, dtype, lora=lora, weights_in_files=True)
    _check_model(path, manifest, loaded)
    assert loaded.stored is not None
    adapters = [f"{adapter.path.name}:{adapter.scale:g}" for adapter in lora]
    made_from = " + ".join([Path(model).resolve().name, *adapters])
    return refit_engine(
        path, _Stored(loaded.stored), target, made_from=made_from, check_hash=check_hash
    )


def _check_model(path: Path, manifest: EngineManifest, loaded: LoadedModel) -> None:
    built = manifest.info.model
    if not is_of_model(built, loaded.identity, loaded.config):
        raise ModelError(
            f"{path}: model",
            expected=f"{built.class_name} {built.config_hash[:12]}",
            actual=f"{loaded.identity.class_name} {loaded.identity.config_hash[:12]}, "
            f"at {loaded.path}",
            remedy="pass the model that was exported, or one trained from it",
        )


class _Stored:
    """A checkpoint as the source of an engine's weights."""

    def __init__(self, checkpoint: Checkpoint) -> None:
        self._checkpoint = checkpoint

    @property
    def shapes(self) -> Mapping[str, tuple[int, ...]]:
        return {name: place.shape for name, place in self._checkpoint.tensors.items()}

    def read(self, name: str) -> NDArray[Any]:
        tensor = self._checkpoint.read(name).contiguous()
        if tensor.dtype is not torch.bfloat16:
            return tensor.numpy()
        import ml_dtypes

        values: NDArray[Any] = tensor.view(torch.int16).numpy().view(ml_dtypes.bfloat16)
        return values
