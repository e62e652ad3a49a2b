"""Attention errors on held-out captures: every policy at every cost, and masks that drift."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from rich.progress import track

from paro_trt.files import atomic_write

from .blocks import Choice, attend, terms
from .calibrated import DRIFTS, Calibrated, Half
from .clusters import SvgEar
from .policies import COSTS, POLICIES, STATIC_2, VERSION_1, VERSION_2, Policy, make_policy
from .sources import LayerCall, Source, Split


@dataclass(frozen=True)
class CallError:
    """One policy in one layer of one held-out call.

    error: |A - dense| / |dense| over all judged rows and heads; keys: that a query meets, as a
    share of S.
    """

    policy: str
    cost: float
    layer: int
    half: int
    prompt: int
    error: float
    keys: float


DRIFT_POLICIES = (VERSION_1, "64 rows + mix", "64 rows + mix + run-time", STATIC_2, VERSION_2)
DRIFT_COSTS = (0.30, 0.20, 0.10)


def measure_errors(
    source: Source,
    costs: Sequence[float] = COSTS,
    names: Sequence[str] = POLICIES,
    layers: Sequence[int] | None = None,
) -> list[CallError]:
    """Every named policy at every cost.

    Args:
        source: captures in splits.
        costs: keys that a query meets, as shares of S.
        names: of policies.
        layers: those to measure; None: all.
    """
    calibrated = Calibrated(source)
    policies = {
        (name, cost): make_policy(name, cost, calibrated) for name in names for cost in costs
    }
    return _measured(calibrated, policies, layers, source.name)


def measure_drift(
    source: Source,
    costs: Sequence[float] = DRIFT_COSTS,
    names: Sequence[str] = DRIFT_POLICIES,
    layers: Sequence[int] | None = None,
) -> list[CallError]:
    """Static policies with masks made of other captures; results are named "policy: drift".

    Args:
        source, costs, layers: as of `measure_errors`.
        names: of policies in `RECIPES`.
    """
    calibrated = Calibrated(source)
    drifts = [
        name
        for name, learned in DRIFTS.items()
        if source.calls[learned.split] and (learned.half is Half.OWN or len(source.halves) == 2)
    ]
    policies = {
        (f"{name}: {drift}", cost): make_policy(f"{name}: {drift}", cost, calibrated)
        for name in names
        for drift in drifts
        for cost in costs
    }
    return _measured(calibrated, policies, layers, f"{source.name}, drift")


def measure_missing(
    measure: Callable[..., list[CallError]], names: Sequence[str], source: Source, path: Path
) -> None:
    """Measure what `path` lacks of the named policies, and write it after every layer.

    Args:
        measure: `measure_errors` or `measure_drift`.
        names: of policies.
        source: captures in splits.
        path: JSON of `save_errors`.
    """
    known = load_errors(path) if path.exists() else []
    for layer in source.layers:
        done = {error.policy.partition(":")[0] for error in known if error.layer == layer}
        missing = [name for name in names if name not in done]
        if missing:
            known += measure(source, names=missing, layers=[layer])
            save_errors(known, path)


def _measured(
    calibrated: Calibrated,
    policies: Mapping[tuple[str, float], Policy | SvgEar],
    layers: Sequence[int] | None,
    title: str,
) -> list[CallError]:
    found: list[CallError] = []
    source = calibrated.source
    for layer in source.layers if layers is None else layers:
        calls = source.of(Split.HELDOUT, layer)
        for call in track(calls, description=f"{title}, layer {layer}"):
            found += call_errors(calibrated, policies, call)
        calibrated.forget()
    return found


def call_errors(
    calibrated: Calibrated, policies: Mapping[tuple[str, float], Policy | SvgEar], call: LayerCall
) -> list[CallError]:
    """The error of every policy on one call; none of those that have no choice at their cost."""
    source = calibrated.source
    # (head, order) -> (policy, choice): they share the contributions of blocks.
    wanted: dict[tuple[int, str], list[tuple[tuple[str, float], Choice]]] = defaultdict(list)
    squares: dict[tuple[str, float], float] = defaultdict(float)
    energies: dict[tuple[str, float], float] = defaultdict(float)
    keys: dict[tuple[str, float], float] = defaultdict(float)
    clustered = {}
    for key, policy in policies.items():
        if isinstance(policy, SvgEar):
            clustered[key] = policy
            continue
        for head, choice in enumerate(policy.choose(call) or ()):
            wanted[head, choice.order].append((key, choice))
    dense_rows = []
    for head in range(call.heads):
        own = calibrated.orders(call.layer)[head]
        orders = dict.fromkeys([own, *(order for h, order in wanted if h == head)])
        for order in orders:
            found = terms(call.head(head), source.orders[order], source.runs)
            energy = float(found.dense.square().sum())
            if order == own:
                dense_rows.append(found.dense.flatten(0, 1))
            choices = wanted[head, order]
            if not choices:
                continue
            output = attend(found, [choice for _, choice in choices])
            errors = output.sub_(found.dense).square_().sum(dim=(1, 2, 3)).tolist()
            for (key, choice), error in zip(choices, errors, strict=True):
                squares[key] += error
                energies[key] += energy
                keys[key] += (choice.keys + choice.extra) / call.heads
    for key, policy in clustered.items():
        outputs, attended = policy.attend(call)
        for output, dense in zip(outputs, dense_rows, strict=True):
            squares[key] += float((output - dense).square().sum())
            energies[key] += float(dense.square().sum())
        keys[key] = attended
    return [
        CallError(
            *key, call.layer, call.half, call.prompt,
            (squares[key] / energies[key]) ** 0.5, keys[key] / source.tokens,
        )
        for key in policies
        if key in energies
    ]  # fmt: skip


def save_errors(errors: Sequence[CallError], path: Path) -> None:
    """Write them as JSON."""
    with atomic_write(path) as file:
        file.write(json.dumps([asdict(error) for error in errors]).encode())


def load_errors(path: Path) -> list[CallError]:
    """Read what `save_errors` wrote."""
    return [CallError(**values) for values in json.loads(path.read_text())]
