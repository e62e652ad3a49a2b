"""What makes a verification fail."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from .metrics import OutputErrors
from .report import SampleCheck, VelocityCheck


def find_failures(
    velocities: Iterable[VelocityCheck],
    samples: Iterable[SampleCheck],
    min_cosine: float,
    eager_bound: float | None,
) -> tuple[str, ...]:
    """One line for each check that did not pass.

    Args:
        velocities: single evaluations; each must reach `min_cosine` with the dense model and stay
            within `eager_bound` of the plan in PyTorch.
        samples: sampling runs; they must be finite.
        min_cosine: lowest cosine with the dense model that passes.
        eager_bound: largest relative L2 that passes; None where there was no plan to compare with.
    """
    return (
        *(line for check in velocities for line in _velocity(check, min_cosine, eager_bound)),
        *(
            line
            for check in samples
            for line in _not_finite(f"sample {check.prompt!r}", "the dense model", check.errors)
        ),
    )


def _velocity(check: VelocityCheck, min_cosine: float, eager_bound: float | None) -> Iterator[str]:
    place = f"velocity at timestep {', '.join(f'{timestep:g}' for timestep in check.timesteps)}"
    not_finite = list(_not_finite(place, "the dense model", check.dense))
    yield from not_finite
    if not not_finite and not check.dense.cosine >= min_cosine:
        cosine = f"{check.dense.cosine:.5f}"
        yield f"{place}: cosine {cosine} with the dense model is below {min_cosine:g}"
    if check.eager is None or eager_bound is None or check.eager.not_finite:
        return
    not_finite = list(_not_finite(place, "the plan in PyTorch", check.eager))
    yield from not_finite
    if not not_finite and not check.eager.relative_l2 <= eager_bound:
        yield (
            f"{place}: relative L2 {check.eager.relative_l2:.2e} from the plan in PyTorch is above"
            f" the {eager_bound:.2e} that rounding explains"
        )


def _not_finite(place: str, reference: str, errors: OutputErrors) -> Iterator[str]:
    for subject, count in (
        ("the exported model", errors.not_finite),
        (reference, errors.expected_not_finite),
    ):
        if count:
            yield f"{place}: {count} values of {subject} are NaN or infinite"
