"""How much of an engine's weights stays on the GPU; the rest comes from host memory at each run."""

from __future__ import annotations

from typing import Any, Literal, TypeAlias

from ..engine.load import LoadedEngine
from ..engine.manifest import EngineManifest
from ..errors import ArgumentError, BackendUnavailableError

Budget: TypeAlias = "int | Literal['auto'] | None"
"""Bytes of weights on the GPU; "auto" is TensorRT's choice, None all of them."""

AUTO: Literal["auto"] = "auto"
_BUDGET, _CHOICE = "weight_streaming_budget_v2", "get_weight_streaming_automatic_budget"
_SINCE = "TensorRT 10.3 or later"


def check_budget(manifest: EngineManifest, budget: Budget) -> None:
    """Raise ArgumentError where a budget is none, or is for an engine that cannot stream."""
    if budget is None:
        return
    if budget != AUTO and (type(budget) is not int or budget < 0):
        raise ArgumentError(
            "weight_streaming_budget", expected='bytes, 0 or more, or "auto"',
            actual=repr(budget)[:80],
        )  # fmt: skip
    manifest.require_streaming(budget)


def stream_weights(loaded: LoadedEngine, budget: Budget) -> int | None:
    """Set the budget of an engine that has no context yet, since TensorRT refuses it later.

    Returns:
        Bytes of weights that stay on the GPU; None where all do.

    Raises:
        ArgumentError: the budget is larger than the weights, or TensorRT refuses it.
        BackendUnavailableError: this release has no budgets.
    """
    if not loaded.manifest.tensorrt.weight_streaming:
        return None
    if budget is None and not hasattr(loaded.engine, _BUDGET):
        return None
    engine_attribute(loaded, _BUDGET)
    total = int(loaded.engine.streamable_weights_size)
    if budget == AUTO:
        budget = min(int(engine_attribute(loaded, _CHOICE)()), total)
    if budget is not None and budget > total:
        raise ArgumentError(
            "weight_streaming_budget", expected=f"0 to {total} bytes", actual=str(budget)
        )
    wanted = total if budget is None else budget
    loaded.engine.weight_streaming_budget_v2 = wanted
    if int(loaded.engine.weight_streaming_budget_v2) != wanted:
        raise ArgumentError(
            "weight_streaming_budget", expected="bytes that TensorRT accepts", actual=str(wanted),
            remedy="its log has the reason: logging.getLogger('paro_trt.tensorrt')",
        )  # fmt: skip
    return wanted if wanted < total else None


def engine_attribute(loaded: LoadedEngine, name: str) -> Any:
    """What an engine has under a name that early releases lack; BackendUnavailableError there."""
    value = getattr(loaded.engine, name, None)
    if value is None:
        raise BackendUnavailableError(
            f"{loaded.trt.flavour.label} {loaded.trt.version}", expected=_SINCE, actual=f"no {name}"
        )
    return value
