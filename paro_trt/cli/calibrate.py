"""`paro-trt calibrate`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..errors import ArgumentError
from ..families.presets import DEFAULT_DENSITY
from . import output
from .choices import AllocationName, DtypeName, MaskMetricName, OrderMetricName
from .paths import check_output
from .plan_document import describe_plan, mean_over_heads
from .policy import when_interrupted
from .sizes import parse_size

if TYPE_CHECKING:
    from ..plan import ParoPlan


def calibrate(
    model: Annotated[
        Path, typer.Argument(metavar="MODEL", help="Diffusers transformer directory.")
    ],
    plan: Annotated[
        Path, typer.Option("-o", "--output", help="The plan to write (*.paro.safetensors).")
    ],
    prompts: Annotated[
        Path, typer.Option(help="Safetensors file of prompt embeddings to calibrate on.")
    ],
    latent: Annotated[
        str | None,
        typer.Option(metavar="F,H,W", help="Size of the latents: frames,height,width."),
    ] = None,
    video: Annotated[
        str | None,
        typer.Option(
            metavar="F,H,W", help="Instead: size in pixels; an image has one frame, 1,1024,1024."
        ),
    ] = None,
    dtype: Annotated[
        DtypeName,
        typer.Option(
            help="Floating-point type that the model runs in; export/ writes bfloat16 files."
        ),
    ] = "float32",
    density: Annotated[
        float | None,
        typer.Option(help=f"Share of blocks to attend. [default: {DEFAULT_DENSITY}]"),
    ] = None,
    mass: Annotated[
        float | None, typer.Option(help="Instead: share of attention every head keeps.")
    ] = None,
    qk_bits: Annotated[int, typer.Option(help="Query x key: 16, 8 or 4.")] = 8,
    pv_bits: Annotated[int, typer.Option(help="Probabilities x value: 16, 8 or 4.")] = 8,
    block_q: Annotated[int, typer.Option(help="Tokens in a query block: 64 or 128.")] = 128,
    block_k: Annotated[int, typer.Option(help="Tokens in a key block: 64 or 128.")] = 64,
    bins: Annotated[int, typer.Option(help="Parts of the schedule with their own masks.")] = 2,
    prompt_limit: Annotated[
        int, typer.Option(help="Prompts run at most, the first of the file.")
    ] = 4,
    steps: Annotated[int, typer.Option(help="Denoising steps of the calibration run.")] = 20,
    captured_steps: Annotated[int, typer.Option(help="Steps captured in each bin.")] = 2,
    shift: Annotated[
        float | None,
        typer.Option(
            help="The flow-matching schedule's shift. [default: the family's, as in export/]"
        ),
    ] = None,
    guidance_scale: Annotated[
        float, typer.Option(help="Guidance of the run; other than 1 needs a negative prompt.")
    ] = 1.0,
    pool: Annotated[
        bool, typer.Option("--pool/--no-pool", help="Left-out blocks count as summary tokens.")
    ] = True,
    order_metric: Annotated[
        OrderMetricName, typer.Option(help="What makes a token order good.")
    ] = "output-error",
    mask_metric: Annotated[
        MaskMetricName, typer.Option(help="What makes a block worth attending.")
    ] = "output-error",
    allocate: Annotated[
        AllocationName, typer.Option(help="Who shares one density budget.")
    ] = "layer",
    seed: Annotated[int, typer.Option(help="Of the run's noise.")] = 0,
    heldout: Annotated[
        Path | None, typer.Option(help="Prompts to measure the finished plan on.")
    ] = None,
    as_json: output.JsonOption = False,
) -> None:
    """Learn a plan: token orders, block masks and quantization, from runs of the model.

    An interrupted run resumes: repeat the same command.
    """
    option, sizes = parse_latent_or_video(latent, video)
    check_output(plan)

    import torch

    from .. import api
    from ..calibration import Allocation, MaskMetric, OrderMetric
    from ..calibration.calibrator import WORK_SUFFIX
    from .progress import StageBars

    if option == "--latent":
        size: dict[str, Any] = {"latents": sizes}
    else:
        size = dict(zip(("num_frames", "height", "width"), sizes, strict=True))
    if density is None and mass is None:
        density = DEFAULT_DENSITY
    given_shift: dict[str, Any] = {} if shift is None else {"shift": shift}
    kept = f"finished work is kept in {plan}{WORK_SUFFIX}; the same command resumes it"
    with when_interrupted(kept), StageBars() as bars:
        made = api.calibrate(
            model,
            prompts,
            output=plan,
            dtype=getattr(torch, dtype),
            heldout=heldout,
            progress=bars,
            density=density,
            mass=mass,
            block_q=block_q,
            block_k=block_k,
            bins=bins,
            pool_dropped=pool,
            qk_bits=qk_bits,
            pv_bits=pv_bits,
            order_metric=OrderMetric(order_metric),
            mask_metric=MaskMetric(mask_metric),
            allocation=Allocation(allocate),
            prompt_limit=prompt_limit,
            steps=steps,
            captured_steps=captured_steps,
            guidance_scale=guidance_scale,
            seed=seed,
            **size,
            **given_shift,
        )
    if as_json:
        output.print_json(describe_plan(made, plan))
    else:
        output.print_facts(f"wrote {plan}", _summary(made, density, mass, plan))


def parse_latent_or_video(
    latent: str | None, video: str | None
) -> tuple[str, tuple[int, int, int]]:
    """The given one of the two options and its three sizes.

    Raises:
        ArgumentError: none or both are given, or not as "F,H,W".
    """
    given = {name: text for name, text in (("--latent", latent), ("--video", video)) if text}
    if len(given) != 1:
        raise ArgumentError(
            "--latent, --video", expected="one of the two", actual=" and ".join(given) or "none"
        )
    ((option, text),) = given.items()
    return option, parse_size(option, text)


def _summary(
    plan: ParoPlan, density: float | None, mass: float | None, path: Path
) -> dict[str, Any]:
    asked = f"density {density:g}" if mass is None else f"mass {mass:g}"
    return {
        "density": f"{plan.density():.3f} (asked for: {asked})",
        "mass": f"{mean_over_heads(plan, 'mass'):.4f}",
        "predicted error": f"{mean_over_heads(plan, 'predicted_error'):.4f}",
        "size": output.file_size(path.stat().st_size),
        **{f"measured {name}": f"{value:.4g}" for name, value in plan.calibration.measured.items()},
        **{f"note {index}": note for index, note in enumerate(plan.calibration.notes, 1)},
        "next": f"paro-trt export MODEL --plan {path} -o OUT.onnx",
    }
