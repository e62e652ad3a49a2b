"""An exported model against the model it was made from: single steps, then whole samples."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from os import PathLike

import torch
from torch import Tensor

from ..errors import ArgumentError, ModelError
from ..families.base import ConditioningInput, Geometry
from ..models.apply import ParoTransformer
from ..models.conditioning import complete_inputs, example_inputs
from ..models.denoise import Velocity, denoise_by, noised, seeded_noise
from ..models.experts import is_of_model, joint_velocity
from ..models.load import LoadedModel, load_partner
from ..models.prompts import Prompts
from ..models.schedules import Schedule, sampler_for, scheduler_config
from ..op.api import Implementation, parse_implementation
from ..plan import ParoPlan, mask_bins
from ..runtime.backends import session_for
from ..runtime.session import Session
from ..runtime.velocity import LATENTS, session_velocity
from .criteria import find_failures
from .metrics import SSIM_WINDOW, output_errors, psnr, ssim
from .report import SampleCheck, VelocityCheck, VerifyReport
from .schedule import schedule_points

ROUNDING_FACTOR = 4.0
"""How much further than one perturbation of the input the roundings of a whole pass may lead."""

ROUNDING_UNITS = 64.0
"""Size of that perturbation in units of the float type: large enough to meet quantization's code
edges. Measured 2026-11-23 on a tiny Wan with 4-bit codes: 16 units met none in half of the draws
(relative L2 2e-6), 64 units met some in every draw (1e-5 to 9e-5); one code met is about 5e-5."""


@dataclass(frozen=True)
class VerifySettings:
    """How to verify.

    Args:
        steps: of the sampling runs.
        shift: of the sampling schedule; None: as `Schedule` has it.
        guidance_scale: of the sampling runs; above 1 it needs a negative prompt.
        guidance_scale_2: of the second of two transformers; None: as the first.
        samples: prompts sampled at most.
        seed: of all noise.
        min_cosine: that every velocity must reach with the dense model's.
        data_range: span of the latents' values, for PSNR and SSIM; None takes that of the dense
            sample. 2 suits videos in [-1, 1].
        impl: who computes the plan in PyTorch: the reference, which is the specification and
            slow, or "cpu", which is tested against it.
    """

    steps: int = 20
    shift: float | None = None
    guidance_scale: float = 1.0
    guidance_scale_2: float | None = None
    samples: int = 2
    seed: int = 0
    min_cosine: float = 0.99
    data_range: float | None = None
    impl: str | Implementation = Implementation.REFERENCE

    def __post_init__(self) -> None:
        parse_implementation(self.impl)
        if self.samples < 1:
            raise ArgumentError("samples", expected="at least 1", actual=str(self.samples))
        if not -1.0 <= self.min_cosine <= 1.0:
            raise ArgumentError(
                "min_cosine", expected="a number in [-1, 1]", actual=str(self.min_cosine)
            )
        if self.data_range is not None and not self.data_range > 0:
            raise ArgumentError(
                "data_range", expected="a positive number", actual=str(self.data_range)
            )


def verify_model(
    target: str | PathLike[str] | Session,
    model: LoadedModel,
    plan: ParoPlan | None,
    prompts: Prompts | None,
    settings: VerifySettings | None = None,
    *,
    backend: str | None = None,
) -> VerifyReport:
    """Compare an exported model with the dense model and, given the plan, with the plan in PyTorch.

    Velocities are compared in every bin of the schedule, or of the part that an expert serves, on
    latents between noise and a sample of the dense model, one at a time and in batches of two that
    mix bins. Then prompts are sampled from the same noise by both models; of two experts the other
    is loaded too and does its part, dense.

    Args:
        target: an ONNX file or an engine, or an open session.
        model: the model it was exported from.
        plan: the plan it was exported with; None leaves out the comparison with PyTorch, and what
            is needed of the plan is read from the file.
        prompts: what to sample; None makes one up, of use for comparing numbers, not for judging
            videos.
        settings: None means defaults.
        backend: who runs the file, as of `open_session`; of an ONNX file "ort", the default, or
            "cpu".

    Returns:
        The report. It fails where anything is NaN or infinite, where a velocity's cosine with the
        dense model is below `min_cosine`, or where one is further from the plan in PyTorch than
        rounding explains.

    Raises:
        ModelError: the file is of another model or plan.
        OnnxFileError: the file cannot be loaded.
    """
    file = type(target).__name__ if isinstance(target, Session) else str(target)
    with session_for(target, backend) as session:
        return _verify(session, file, model, plan, prompts, settings)


def _verify(
    session: Session,
    file: str,
    model: LoadedModel,
    plan: ParoPlan | None,
    prompts: Prompts | None,
    settings: VerifySettings | None,
) -> VerifyReport:
    settings = settings or VerifySettings()
    check_same_model(file, session, model, plan)
    work = _Verification(session, model, plan, prompts, settings)
    samples = work.sample_checks()
    velocities = work.velocity_checks()
    bound = work.eager_bound()
    return VerifyReport(
        file=file,
        model_class=model.identity.class_name,
        plan_hash=session.info.plan_hash,
        min_cosine=settings.min_cosine,
        eager_bound=bound,
        velocities=velocities,
        samples=samples,
        failures=find_failures(velocities, samples, settings.min_cosine, bound),
    )


def check_same_model(
    file: str, session: Session, model: LoadedModel, plan: ParoPlan | None
) -> None:
    """Raise ModelError unless the session was exported from this model, with this plan if any."""
    info = session.info
    if not is_of_model(info.model, model.identity, model.config):
        raise ModelError(
            f"{file}: model",
            expected=f"the one at {model.path}, {_short(model.identity.class_name, model)}",
            actual=f"{info.model.class_name} {info.model.config_hash[:12]}",
            remedy="verify against the model that was exported, or export again",
        )
    if plan is not None and plan.content_hash() != info.plan_hash:
        raise ModelError(
            f"{file}: plan",
            expected=f"the given plan, {plan.content_hash()[:12]}",
            actual=info.plan_hash[:12] if info.plan_hash else "a dense export",
            remedy="verify with the plan that was exported, or export again",
        )


def _short(class_name: str, model: LoadedModel) -> str:
    return f"{class_name} {model.identity.config_hash[:12]}"


class _Verification:
    """The inputs shared by all comparisons: noise, prompts and the dense model's sample."""

    def __init__(
        self,
        session: Session,
        model: LoadedModel,
        plan: ParoPlan | None,
        prompts: Prompts | None,
        settings: VerifySettings,
    ) -> None:
        self.model, self.settings = model, settings
        self.exported: Velocity = session_velocity(session)
        self.eager: Velocity | None = None
        if plan is not None:
            paro = ParoTransformer(model.model, model.family, plan, settings.impl, model.identity)
            self.eager = paro.velocity
        latents = {spec.name: spec for spec in session.inputs}[LATENTS]
        self.largest_batch = latents.size_range(0)[1]
        self.boundaries = session.info.bin_boundaries or ()
        self.unit = _float_unit(session, model)
        geometry = Geometry(session.info.grid, session.info.text)
        self.spec = model.family.conditioning_spec(model.config, geometry)
        own = None if prompts is None else prompts.named(model.family.pipeline_names)
        self.prompts: Prompts = own or made_up_prompts(self.spec, settings.seed)
        schedule = Schedule(
            steps=settings.steps,
            shift=settings.shift,
            guidance_scale=settings.guidance_scale,
            guidance_scale_2=settings.guidance_scale_2,
        )
        self.guidance = schedule.guidance(None if model.expert is None else model.expert.boundary)
        config = scheduler_config(model.path)
        self.sampler = sampler_for(model.family, schedule, config, geometry.grid.tokens)
        self.count = min(len(self.prompts), settings.samples)
        self.dense = model.velocity(geometry)
        partner = load_partner(model)
        self.partner = None if partner is None else partner.velocity(geometry)
        self.points = schedule_points(self.boundaries, model.expert)
        shape = model.family.latent_shape(model.config, geometry)
        self.noise = seeded_noise((self.count, *shape), settings.seed)
        self.dense_samples: list[Tensor] = []

    def sample_checks(self) -> tuple[SampleCheck, ...]:
        """Sample each prompt with both models; keeps the dense samples."""
        checks = []
        for index in range(self.count):
            dense = self._sample(self._whole(self.dense), index)
            exported = self._sample(self._whole(self.exported), index)
            self.dense_samples.append(dense)
            data_range = self.settings.data_range or float(dense.max() - dense.min())
            pictures = dense.ndim == 5 and min(dense.shape[-2:]) >= SSIM_WINDOW
            checks.append(
                SampleCheck(
                    prompt=self.prompts.texts[index],
                    psnr=psnr(exported, dense, data_range),
                    ssim=ssim(exported, dense, data_range) if pictures else None,
                    errors=output_errors(exported, dense),
                )
            )
        return tuple(checks)

    def velocity_checks(self) -> tuple[VelocityCheck, ...]:
        """Compare single evaluations: each timestep alone, then pairs from both ends.

        An engine for one sample at a time is not asked for pairs.
        """
        half = len(self.points) // 2
        pairs = zip(self.points[:half], reversed(self.points[half:]), strict=True)
        batches: list[tuple[float, ...]] = [(point,) for point in self.points]
        if self.largest_batch is None or self.largest_batch >= 2:
            batches.extend(pairs)
        return tuple(self._velocity_check(timesteps) for timesteps in batches)

    def eager_bound(self) -> float | None:
        """Relative L2 that rounding can explain: what a change of the latents in their last bits
        does to the plan in PyTorch, at one point of each bin, the worst."""
        if self.eager is None:
            return None
        # The reference may be the one to compute it, and is slow: one point a bin, two forwards.
        moved = [self._rounding_effect(self.eager, point) for point in self.points[::2]]
        return ROUNDING_FACTOR * max(moved) + ROUNDING_UNITS * self.unit

    def _rounding_effect(self, velocity: Velocity, timestep: float) -> float:
        latents, timesteps, conditioning = self._inputs((timestep,))
        direction = seeded_noise(tuple(latents.shape), self.settings.seed + 1).sign()
        moved = latents * (1 + ROUNDING_UNITS * self.unit * direction)
        before = velocity(latents, timesteps, conditioning)
        return output_errors(velocity(moved, timesteps, conditioning), before).relative_l2

    def _velocity_check(self, timesteps: tuple[float, ...]) -> VelocityCheck:
        inputs = self._inputs(timesteps)
        exported = self.exported(*inputs)
        return VelocityCheck(
            timesteps=timesteps,
            bins=tuple(mask_bins(timesteps, self.boundaries).tolist()),
            dense=output_errors(exported, self.dense(*inputs)),
            eager=None if self.eager is None else output_errors(exported, self.eager(*inputs)),
        )

    def _inputs(self, timesteps: tuple[float, ...]) -> tuple[Tensor, Tensor, Mapping[str, Tensor]]:
        """Latents of a sampling run at these timesteps, a prompt each."""
        rows = [index % self.count for index in range(len(timesteps))]
        timestep = torch.tensor(timesteps)
        clean = torch.cat([self.dense_samples[row] for row in rows])
        latents = noised(clean, self.noise[rows], timestep, self.model.family.sampling)
        return latents, timestep, self._conditioning(rows)

    def _whole(self, velocity: Velocity) -> Velocity:
        """Over the whole schedule: the partner serves the rest where the model is an expert."""
        if self.model.expert is None or self.partner is None:
            return velocity
        return joint_velocity(velocity, self.model.expert, self.partner)

    def _sample(self, velocity: Velocity, index: int) -> Tensor:
        negative = self.prompts.negative_rows([index])
        return denoise_by(
            self.sampler.scheduler(),
            velocity,
            self.noise[index : index + 1],
            self._conditioning([index]),
            guidance=self.guidance,
            negative=None if negative is None else complete_inputs(self.spec, negative, 1),
        )

    def _conditioning(self, rows: Sequence[int]) -> dict[str, Tensor]:
        return complete_inputs(self.spec, self.prompts.rows(rows), len(rows))


def made_up_prompts(spec: Sequence[ConditioningInput], seed: int) -> Prompts:
    """One prompt of noise."""
    return Prompts(("random embedding",), example_inputs(spec, 1, seed))


def _float_unit(session: Session, model: LoadedModel) -> float:
    """Unit in the last place of the coarser of the two float types."""
    dtypes = [getattr(torch, spec.dtype) for spec in session.outputs] + [model.dtype]
    return max(torch.finfo(dtype).eps for dtype in dtypes)
