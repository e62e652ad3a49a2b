"""`paro-trt calibrate`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..errors import ArgumentError
from ..families.presets import DEFAULT_DENSITY
from . import output
from .call_arguments import call_arguments
from .choices import (
    AllocationName,
    AutoDtypeName,
    MaskMetricName,
    OrderMetricName,
    TargetName,
)
from .options import (
    ArgumentOption,
    DeviceOption,
    GuidanceScale2Option,
    ImageOption,
    NegativePromptOption,
    OffloadOption,
    SizeOption,
    TextTokensOption,
    VideoOption,
)
from .paths import ForceOption, Kind, check_output, expand_home
from .plan_document import describe_plan, mean_over_heads, mix_facts
from .policy import when_interrupted
from .sizes import (
    parse_bytes,
    parse_latent_size,
    parse_picture_size,
    parse_timesteps,
    parse_video_size,
)

if TYPE_CHECKING:
    from ..plan import ParoPlan


def calibrate(
    model: Annotated[
        str,
        typer.Argument(
            metavar="PIPELINE",
            parser=expand_home,
            help="Pipeline directory, hub id in the local cache, or checkpoint file. With "
            "embeddings: a transformer directory.",
        ),
    ],
    prompts: Annotated[
        Path,
        typer.Option(help="Text file with one prompt a line, or *.safetensors of embeddings."),
    ],
    plan: Annotated[
        Path | None,
        typer.Option(
            "-o", "--output", help="The plan to write. [default: NAME.paro.safetensors, here]"
        ),
    ] = None,
    video: VideoOption = None,
    size: SizeOption = None,
    latent: Annotated[
        str | None,
        typer.Option(metavar="F,H,W", help="With embeddings: size of the latents instead."),
    ] = None,
    image: ImageOption = None,
    transformer: Annotated[
        str | None,
        typer.Option(help="Which of a pipeline's two to plan: transformer or transformer_2."),
    ] = None,
    text_tokens: TextTokensOption = None,
    device: DeviceOption = "auto",
    dtype: Annotated[
        AutoDtypeName,
        typer.Option(help="To load in. auto: the checkpoint's; float32 with embeddings."),
    ] = "auto",
    offload: OffloadOption = "none",
    memory: Annotated[
        str | None,
        typer.Option(
            metavar="SIZE", help="For the analysis, such as 2GB. [default: half of what is free]"
        ),
    ] = None,
    density: Annotated[
        float | None,
        typer.Option(help=f"Share of blocks to attend. [default: {DEFAULT_DENSITY}]"),
    ] = None,
    mass: Annotated[
        float | None, typer.Option(help="Instead: share of attention every head keeps.")
    ] = None,
    cost: Annotated[
        float | None,
        typer.Option(
            help="Instead: keys that a query meets, as a share of the sequence. Blocks are then "
            "exact, fine (four summaries) or coarse (one)."
        ),
    ] = None,
    speedup: Annotated[
        float | None,
        typer.Option(
            help="Instead, with --allocate measured: counted time of dense 16-bit attention over "
            "the plan's."
        ),
    ] = None,
    max_error: Annotated[
        float | None,
        typer.Option(
            help="Instead, with --allocate measured: relative error that the model's prediction "
            "may have."
        ),
    ] = None,
    qk_bits: Annotated[
        int | None,
        typer.Option(
            help="Query x key: 16, 8 or 4; with --allocate measured, the fewest to choose from. "
            "[default: 8; 4 for a --target that is faster with them]"
        ),
    ] = None,
    pv_bits: Annotated[
        int | None, typer.Option(help="Probabilities x value, as --qk-bits. [default: 8]")
    ] = None,
    block_q: Annotated[
        int | None,
        typer.Option(help="Tokens in a query block: 64 or 128. [default: 128; 64 with --cost]"),
    ] = None,
    block_k: Annotated[int, typer.Option(help="Tokens in a key block: 64 or 128.")] = 64,
    bins: Annotated[
        int | None,
        typer.Option(
            help="Parts of the schedule with their own masks. [default: 2; with --cost 1 where the "
            "masks of two take over 80 MB; one for each step where there are at most 8]"
        ),
    ] = None,
    prompt_limit: Annotated[
        int, typer.Option(help="Prompts run at most, the first of the file.")
    ] = 4,
    steps: Annotated[
        int | None,
        typer.Option(help="Denoising steps. [default: the pipeline's; 20 with embeddings]"),
    ] = None,
    captured_steps: Annotated[
        int | None,
        typer.Option(
            help="Steps captured in each bin. [default: 2; 4 with --cost; 1 in bins of one step]"
        ),
    ] = None,
    guidance_scale: Annotated[
        float | None,
        typer.Option(help="Of the runs. [default: the pipeline's; 1 with embeddings]"),
    ] = None,
    guidance_scale_2: GuidanceScale2Option = None,
    negative_prompt: NegativePromptOption = None,
    argument: ArgumentOption = None,
    shift: Annotated[
        float | None,
        typer.Option(
            help="With embeddings: the schedule's shift. [default: the pipeline's, else the "
            "family's]"
        ),
    ] = None,
    timesteps: Annotated[
        str | None,
        typer.Option(
            metavar="T,T,...",
            help="With embeddings: of each step, in 0..1000, as of step-distilled models.",
        ),
    ] = None,
    smoothing: Annotated[
        bool,
        typer.Option(
            "--smoothing/--no-smoothing",
            help="4-bit query x key of what the means of blocks leave.",
        ),
    ] = True,
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
        AllocationName,
        typer.Option(
            help="Who shares one budget; measured: all layers, by what each changes of the "
            "model's prediction."
        ),
    ] = "layer",
    target: Annotated[
        TargetName,
        typer.Option(help="With --allocate measured: the GPU that time is counted for."),
    ] = "generic",
    levels: Annotated[
        str | None,
        typer.Option(
            metavar="C,C,...",
            help="With --allocate measured: costs (with --density densities) to try for each "
            "layer. [default: half to twice what is asked for]",
        ),
    ] = None,
    effect_calls: Annotated[
        int, typer.Option(help="With --allocate measured: recorded calls measured on in each bin.")
    ] = 1,
    head_groups: Annotated[
        int,
        typer.Option(
            help="With --allocate measured: groups of each layer's heads that keep blocks apart."
        ),
    ] = 2,
    seed: Annotated[int, typer.Option(help="Of the runs' noise.")] = 0,
    heldout: Annotated[
        Path | None, typer.Option(help="Prompts to measure the finished plan on.")
    ] = None,
    force: ForceOption = False,
    as_json: output.JsonOption = False,
) -> None:
    """Learn a plan: token orders, block masks and quantization, from runs of the model.

    The pipeline runs as you run it, with its own scheduler, guidance and encoders. An interrupted
    run resumes: repeat the same command. Several of them, each with its --device, share the work.
    """
    texts = prompts.suffix != ".safetensors"
    dimensions = calibration_size(latent, video, size, texts=texts)
    if plan is None:
        plan = Path(f"{default_name(model)}.paro.safetensors")
    check_output(plan, Kind.PLAN, force=force)

    import torch

    from .. import api
    from ..calibration import Allocation, MaskMetric, OrderMetric, Target
    from ..calibration.calibrator import WORK_SUFFIX
    from .progress import StageBars

    budgets = {
        "density": density, "mass": mass, "cost": cost, "speedup": speedup, "max error": max_error
    }  # fmt: skip
    if all(budget is None for budget in budgets.values()):
        budgets["density"] = density = DEFAULT_DENSITY
    sampling = {
        "shift": shift, "steps": steps, "guidance_scale": guidance_scale,
        "guidance_scale_2": guidance_scale_2,
        "timesteps": None if timesteps is None else parse_timesteps("--timesteps", timesteps),
        "negative_prompt": negative_prompt, "image": image,
        "arguments": call_arguments(argument or ()) or None,
    }  # fmt: skip
    chosen: dict[str, Any] = {
        name: of
        for name, of in {
            **sampling, "block_q": block_q, "qk_bits": qk_bits, "pv_bits": pv_bits, "bins": bins,
            "captured_steps": captured_steps,
            "cost_levels": None if levels is None else _parse_levels(levels),
        }.items()
        if of is not None
    }  # fmt: skip
    kept = f"finished work is kept in {plan}{WORK_SUFFIX}; the same command resumes it"
    with when_interrupted(kept), StageBars() as bars:
        made = api.calibrate(
            model,
            prompts,
            output=plan,
            device=device,
            dtype=None if dtype == "auto" else getattr(torch, dtype),
            offload=offload,
            transformer=transformer,
            text_tokens=text_tokens,
            memory=None if memory is None else parse_bytes("--memory", memory),
            heldout=heldout,
            progress=bars,
            density=density,
            mass=mass,
            cost=cost,
            block_k=block_k,
            pool_dropped=pool,
            smoothing=smoothing,
            speedup=speedup,
            max_error=max_error,
            order_metric=OrderMetric(order_metric),
            mask_metric=MaskMetric(mask_metric),
            allocation=Allocation(allocate),
            prompt_limit=prompt_limit,
            time_target=Target(target),
            effect_calls=effect_calls,
            head_groups=head_groups,
            seed=seed,
            **dimensions,
            **chosen,
        )
    if as_json:
        output.print_json(describe_plan(made, plan))
    else:
        shown = "out.png" if size or made.grid.frames == 1 else "out.mp4"
        next_line = _next(model, plan, shown if texts else None)
        asked = next(f"{name} {of:g}" for name, of in budgets.items() if of is not None)
        output.print_facts(f"wrote {plan}", _summary(made, asked, plan, next_line))


def _parse_levels(text: str) -> tuple[float, ...]:
    try:
        return tuple(float(part) for part in text.split(","))
    except ValueError as error:
        raise ArgumentError(
            "--levels", expected="shares in (0, 1), such as .1,.2,.4", actual=text
        ) from error


def default_name(model: str) -> str:
    """Of a plan, from the name of its pipeline: the last part of a directory or a hub id."""
    path = Path(model)
    return path.resolve().name if path.is_dir() else Path(path.name).stem


def calibration_size(
    latent: str | None, video: str | None, size: str | None, *, texts: bool
) -> dict[str, Any]:
    """The size arguments of `paro_trt.calibrate` from the options.

    Raises:
        ArgumentError: more than one is given; none, or --size, with embeddings; --latent with
            sentences; or a text that is no size.
    """
    given = {name: of for name, of in (("--latent", latent), ("--video", video), ("--size", size))
             if of}  # fmt: skip
    allowed = ("--video", "--size") if texts else ("--latent", "--video")
    wrong = [name for name in given if name not in allowed]
    if len(given) > 1 or wrong or not (given or texts):
        raise ArgumentError(
            ", ".join(allowed),
            expected="one of the two" + (" or none" if texts else ""),
            actual=" and ".join(given) or "none",
        )
    if not given:
        return {}
    ((option, text),) = given.items()
    if option == "--size":
        return dict(zip(("height", "width"), parse_picture_size(option, text), strict=True))
    if option == "--latent":
        return {"latents": parse_latent_size(option, text)}
    names = ("num_frames", "height", "width")
    return dict(zip(names, parse_video_size(option, text), strict=True))


def _next(model: str, plan: Path, media: str | None) -> str:
    """The command that shows the plan at work in a pipeline; without one, that exports it."""
    verb = "generate" if media else "export"
    tail = ("--prompt", "...", "-o", media, "--compare") if media else ("-o", "OUT.onnx")
    return output.command_line(verb, model, "--plan", plan, *tail)


def _summary(plan: ParoPlan, asked: str, path: Path, next_line: str) -> dict[str, Any]:
    return {
        "density": f"{plan.density():.3f} (asked for: {asked})",
        **(mix_facts(plan) if plan.calibration.measured.get("cost") else {}),
        "mass": f"{mean_over_heads(plan, 'mass'):.4f}",
        "predicted error": f"{mean_over_heads(plan, 'predicted_error'):.4f}",
        "size": output.file_size(path.stat().st_size),
        **{
            f"measured {name}": f"{value:.4g}"
            for name, value in plan.calibration.measured.items()
            if "." not in name  # of a layer, which inspect shows
        },
        **{f"note {index}": note for index, note in enumerate(plan.calibration.notes, 1)},
        output.NEXT: next_line,
    }
