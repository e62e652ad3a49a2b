"""Who computes a pipeline's transformers: the model itself, a plan in PyTorch, or a file."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch

from ..errors import ArgumentError, ModelError
from ..models.apply import config_of
from ..models.experts import Expert, ExpertRole
from ..models.in_place import apply, remove
from ..op.api import Implementation, parse_implementation
from ..plan import Grid, ParoPlan
from ..runtime.session import Session
from ..runtime.transformer import EngineTransformer
from .transformers import transformers_of


@dataclass(frozen=True, eq=False)
class Variant:
    """Who computes a pipeline's transformers; without plans and sessions, the dense model does.

    Args:
        plans: applied in PyTorch, each to the transformer that it was made for.
        impl: who computes the op of the plans, "reference", "cpu" or "cuda"; None: the native
            implementation of the pipeline's device.
        sessions: of exported files, open, by the transformer that each replaces.

    Raises:
        ArgumentError: both plans and sessions, or an implementation without plans.
    """

    plans: tuple[ParoPlan, ...] = ()
    impl: str | Implementation | None = None
    sessions: Mapping[ExpertRole, Session] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.plans and self.sessions:
            raise ArgumentError(
                "plan", expected="a plan, or an exported file, which has its own", actual="both"
            )
        if self.impl is not None:
            parse_implementation(self.impl)
            if not self.plans:
                raise ArgumentError(
                    "backend", expected="none without a plan", actual=str(self.impl)
                )

    @property
    def dense(self) -> bool:
        """Whether the model runs as it is."""
        return not self.plans and not self.sessions

    @property
    def label(self) -> str:
        """In few words, for pictures and tables."""
        if self.plans:
            densities = ", ".join(f"{plan.density():.2f}" for plan in self.plans)
            return f"plan, density {densities}"
        hashes = [session.info.plan_hash for session in self.sessions.values()]
        kinds = ["exported dense" if text is None else f"plan {text[:8]}" for text in hashes]
        return ", ".join(kinds) or "dense"

    @property
    def grids(self) -> tuple[Grid, ...]:
        """The token grids that the plans or files serve."""
        plans = (plan.grid for plan in self.plans)
        return (*plans, *(session.info.grid for session in self.sessions.values()))

    def check_models(self, pipe: Any) -> None:
        """Raise ModelError where a plan or file is of a class that the pipeline does not have.

        Quick, and before anything is asked of the plans' grids; `within` compares all of it.
        """
        classes = {type(module).__name__ for module in transformers_of(pipe).values()}
        identities = (
            *(plan.model for plan in self.plans),
            *(session.info.model for session in self.sessions.values()),
        )
        for identity in identities:
            if identity.class_name not in classes:
                raise ModelError(
                    "the plan's model",
                    expected=f"{' or '.join(sorted(classes))}, of {type(pipe).__name__}",
                    actual=identity.class_name,
                    remedy="use a plan or file that was made for this pipeline's transformer",
                )

    def within(self, pipe: Any, device: torch.device) -> AbstractContextManager[None]:
        """A context in which the pipeline's transformers are computed so.

        Args:
            pipe: the pipeline.
            device: where its tensors are while it runs.

        Raises:
            ModelError: a plan or file is of another model, or a model has a plan already.
            ArgumentError: the pipeline has no such transformer.
        """
        if self.plans:
            native = Implementation.CUDA if device.type == "cuda" else Implementation.CPU
            return _planned(pipe, self.plans, self.impl or native)
        return _executed(pipe, self.sessions, device)


@contextmanager
def _planned(pipe: Any, plans: Sequence[ParoPlan], impl: str | Implementation) -> Iterator[None]:
    with ExitStack() as stack:
        # What torch.compile wrapped runs uncompiled: its graphs are of dense attention.
        for role, module in transformers_of(pipe).items():
            stack.enter_context(_replaced(pipe, role, module))
        for plan in plans:
            apply(pipe, plan, impl=impl)
            if plan is plans[0]:
                stack.callback(remove, pipe)
        yield


@contextmanager
def _executed(
    pipe: Any, sessions: Mapping[ExpertRole, Session], device: torch.device
) -> Iterator[None]:
    modules = transformers_of(pipe)
    with ExitStack() as stack:
        for role, session in sessions.items():
            if role not in modules:
                raise ArgumentError(
                    f"the file for {role.value}",
                    expected=f"a pipeline with a {role.value}",
                    actual=f"{type(pipe).__name__} without one",
                )
            config = config_of(modules[role])
            other = next(other for other in ExpertRole if other is not role)
            if session.info.model == Expert(other, 0.0).identity(
                session.info.model.class_name, config
            ):
                raise ModelError(
                    f"the file for {role.value}",
                    expected="one that was exported from that expert",
                    actual=f"one of the expert {other.value}",
                    remedy="exchange the two files",
                )
            stack.enter_context(_replaced(pipe, role, EngineTransformer(session, config, device)))
        yield


@contextmanager
def _replaced(pipe: Any, role: ExpertRole, module: torch.nn.Module) -> Iterator[None]:
    before = getattr(pipe, role.value)
    setattr(pipe, role.value, module)
    try:
        yield
    finally:
        setattr(pipe, role.value, before)
