"""An exported file inside its own pipeline: what it makes of sentences, against the dense model."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from os import PathLike
from typing import Any

from ..calibration.progress import SilentProgress
from ..families.base import TIMESTEPS
from ..models.apply import config_of
from ..models.experts import BOUNDARY_KEY, Expert, ExpertRole
from ..pipelines.generate import DENSE, Placement, fitted, generate, opened
from ..pipelines.open import PipelineSource
from ..pipelines.request import Request
from ..pipelines.transformers import transformers_of
from ..pipelines.variants import Variant
from ..runtime.backends import session_for
from ..runtime.session import Session
from .generation import quality_of
from .report import PictureCheck, VerifyReport
from .videos import QualityBounds


def verify_pictures(
    target: str | PathLike[str] | Session,
    source: PipelineSource,
    requests: Sequence[Request],
    bounds: QualityBounds,
    *,
    backend: str | None = None,
) -> VerifyReport:
    """Decoded videos or images of an exported model and of the dense one, from the same noise.

    Args:
        target: an ONNX file or engine, or an open session.
        source: the pipeline that its model is from, as of `open_pipeline`.
        requests: one for each prompt; sizes that are None are the file's.
        bounds: what every prompt must reach.
        backend: who runs the file, as of `open_session`.

    Returns:
        A report without comparisons of velocities and latents.

    Raises:
        ModelError: the file is of another model, or the pipeline cannot be opened.
        ArgumentError: a request does not fit the pipeline.
    """
    file = type(target).__name__ if isinstance(target, Session) else str(target)
    with session_for(target, backend) as session:
        return _verify(session, file, source, requests, bounds)


def _verify(
    session: Session,
    file: str,
    source: PipelineSource,
    requests: Sequence[Request],
    bounds: QualityBounds,
) -> VerifyReport:
    with opened(source, DENSE, Placement(), compare=True) as pipe:
        variant = Variant(sessions={_role_of(pipe, session): session})
        checks = tuple(_checks(pipe, variant, requests))
    return VerifyReport(
        file=file,
        model_class=session.info.model.class_name,
        plan_hash=session.info.plan_hash,
        pictures=checks,
        failures=tuple(
            f"{check.prompt!r}: {line}"
            for check in checks
            for line in bounds.failures(check.quality)
        ),
    )


def _checks(pipe: Any, variant: Variant, requests: Sequence[Request]) -> Iterator[PictureCheck]:
    silent = SilentProgress()
    for request in requests:
        arguments, _ = fitted(pipe, request, variant)
        made = generate(pipe, request, arguments, variant, silent)
        dense = generate(pipe, request, arguments, DENSE, silent)
        yield PictureCheck(request.prompt, quality_of(made, dense))


def _role_of(pipe: Any, session: Session) -> ExpertRole:
    """The transformer that a file is of; the first where none is: it then refuses the file."""
    ratio = getattr(pipe.config, BOUNDARY_KEY, None)
    modules = transformers_of(pipe)
    for role, module in modules.items():
        if ratio is not None:
            expert = Expert(role, float(ratio) * TIMESTEPS)
            if expert.identity(type(module).__name__, config_of(module)) == session.info.model:
                return role
    return next(iter(modules))
