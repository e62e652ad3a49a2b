"""Replaces weights of linear layers in a built engine; plan and op stay as they are."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import msgspec
import numpy as np
from numpy.typing import NDArray

from ..onnx_file.weights import WEIGHT_PREFIX
from .errors import EngineError
from .load import LoadedEngine, check_engine_file, load_engine
from .logger import LogKeeper, make_logger
from .manifest import EngineManifest, RefitRecord, RefitWeight
from .publish import engine_file, write_engine
from .record import weight_digest

GROUP_BYTES = 1 << 30
"""Weights that are in memory at a time, so that refitting a large engine does not take it twice."""

_DATA_TYPES = {"float16": "HALF", "bfloat16": "BF16", "float32": "FLOAT"}


class WeightSource(Protocol):
    """Weights of a model by their names in it, in the types that the engine has them in."""

    @property
    def shapes(self) -> Mapping[str, tuple[int, ...]]:
        """Of every weight."""

    def read(self, name: str) -> NDArray[Any]:
        """The values of one; bfloat16 as ml_dtypes has it."""


@dataclass(frozen=True)
class RefitReport:
    """The result of `refit_engine`.

    Args:
        path: the engine.
        manifest: its manifest.
        replaced: how many weights were set.
        unused: names of weights of the source that the engine does not have: nothing uses them, or
            the export made one of small ones that were equal.
    """

    path: Path
    manifest: EngineManifest
    replaced: int
    unused: tuple[str, ...]


def refit_engine(
    path: Path, weights: WeightSource, output: Path, *, made_from: str, check_hash: bool = True
) -> RefitReport:
    """Write an engine with other weights in its linear layers.

    Args:
        path: an engine that was built with `BuildSettings.refit`; its manifest is next to it.
        weights: of the whole model. Those that the engine cannot replace must be what it has.
        output: the engine to write, with its manifest; may be `path`.
        made_from: what the manifest says of the weights.
        check_hash: as `load_engine`.

    Raises:
        EngineError: the engine cannot be refitted, a weight is missing, of another shape or type,
            or differs where the engine cannot follow, or TensorRT refuses. Nothing is written.
        BackendUnavailableError: as `load_engine`.
    """
    record = refit_record(path, check_engine_file(path))
    _check_weights(path, record, weights)
    loaded = load_engine(path, check_hash=check_hash)
    refitted = _Refit(path, loaded, weights)
    refitted.check_names(record)
    refitted.replace(record.weights)
    data = loaded.engine.serialize()
    if data is None:
        raise refitted.refusal("the engine, serialized")
    content = engine_file(data)
    old = loaded.manifest
    manifest = msgspec.structs.replace(
        old,
        engine=content,
        # Not the key of what was built: another build would take this engine for its own.
        key=hashlib.sha256(f"{old.key} {content.sha256}".encode()).hexdigest(),
        refit=msgspec.structs.replace(record, made_from=made_from),
    )
    write_engine(output, data, manifest)
    known = {weight.name for weight in record.weights} | record.fixed.keys()
    return RefitReport(
        output, manifest, len(record.weights), tuple(sorted(weights.shapes.keys() - known))
    )


def refit_record(path: Path, manifest: EngineManifest) -> RefitRecord:
    """What can be replaced in an engine; EngineError where nothing can."""
    if manifest.refit is None:
        raise EngineError(
            str(path),
            expected="an engine whose weights can be replaced",
            actual="one built without",
            remedy="paro-trt build --refit",
        )
    return manifest.refit


def _check_weights(path: Path, record: RefitRecord, weights: WeightSource) -> None:
    """Refuse weights that do not fit, before the engine is loaded."""
    shapes = weights.shapes
    missing = [weight.name for weight in record.weights if weight.name not in shapes]
    if missing:
        raise EngineError(
            f"{path}: {missing[0]}",
            expected="all of the model's weights",
            actual=f"{len(missing)} missing",
            remedy="pass the directory of a whole model that this engine's was exported from",
        )
    for weight in record.weights:
        if shapes[weight.name] != weight.shape:
            raise EngineError(
                f"{path}: {weight.name}",
                expected=f"shape {list(weight.shape)}, the engine's",
                actual=f"{list(shapes[weight.name])}",
                remedy="pass weights of the same architecture",
            )
    for name, digest in record.fixed.items():
        # A model's file has constants, too, which no checkpoint has.
        if name in shapes and weight_digest(weights.read(name)) != digest:
            raise EngineError(
                f"{path}: {name}",
                expected="the values that the engine was built with, as it is not of a linear "
                "layer and cannot be replaced",
                actual="others",
                remedy="export and build a new engine of these weights",
            )


class _Refit:
    """TensorRT's refitter at work on an engine."""

    def __init__(self, path: Path, loaded: LoadedEngine, weights: WeightSource) -> None:
        self._path, self._engine, self._weights = path, loaded.engine, weights
        self._names = loaded.trt.module
        self._keeper = LogKeeper()
        self._logger = make_logger(self._names, self._keeper)

    def check_names(self, record: RefitRecord) -> None:
        """Refuse an engine that cannot replace what its manifest says."""
        known = set(self._refitter().get_all_weights())
        unknown = [w.name for w in record.weights if WEIGHT_PREFIX + w.name not in known]
        if unknown:
            raise EngineError(
                f"{self._path}: {unknown[0]}",
                expected=f"one of the {len(known)} weights that the engine can replace",
                actual=f"none; {len(unknown)} of its manifest are not",
                remedy="engine and manifest do not belong together; build the engine again",
            )

    def replace(self, weights: Sequence[RefitWeight]) -> None:
        """Set all weights, as many at a time as `GROUP_BYTES` holds."""
        left = {WEIGHT_PREFIX + weight.name: weight for weight in weights}
        while left:
            refitter, held, size = self._refitter(), [], 0
            wanted = list(left)[:1]
            while wanted:
                for name in wanted:
                    values = self._set(refitter, name, left.pop(name))
                    held.append(values)
                    size += values.nbytes
                # Weights that TensorRT keeps as one must come together.
                wanted = [name for name in refitter.get_missing_weights() if name in left]
                if not wanted and size < GROUP_BYTES:
                    wanted = list(left)[:1]
            if not refitter.refit_cuda_engine():
                raise self.refusal("weights that the engine takes")

    def refusal(self, expected: str) -> EngineError:
        """TensorRT's reason as an error."""
        return EngineError(
            str(self._path),
            expected=expected,
            actual=self._keeper.explain("a refusal without a reason"),
            remedy="the file was not changed; build the engine again: paro-trt build --refit",
        )

    def _refitter(self) -> Any:
        return self._names.Refitter(self._engine, self._logger)

    def _set(self, refitter: Any, name: str, weight: RefitWeight) -> NDArray[Any]:
        """Give one weight, and return what must live until the engine has it."""
        values = self._weights.read(weight.name)
        values = np.ascontiguousarray(values.T if weight.transposed else values)
        prototype = refitter.get_weights_prototype(name)
        kind = getattr(self._names.DataType, _DATA_TYPES.get(str(values.dtype), ""), None)
        if (prototype.dtype, prototype.size) != (kind, values.size):
            raise EngineError(
                f"{self._path}: {weight.name}",
                expected=f"{prototype.size} values of {getattr(prototype.dtype, 'name', '')}",
                actual=f"{values.size} of {values.dtype}",
                remedy="build the engine again: paro-trt build --refit",
            )
        made = self._names.Weights(kind, values.ctypes.data, values.size)
        if not refitter.set_named_weights(name, made):
            raise self.refusal(f"{weight.name} with {values.size} values of {values.dtype}")
        return values
