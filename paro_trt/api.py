"""The steps of the tool as one function each: `paro_trt.calibrate`, `export` and `verify`.

`paro_trt.build` and `paro_trt.apply` need no preparation and are the functions of their packages.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields, replace
from os import PathLike
from pathlib import Path
from typing import Any, TypeAlias

import torch
from torch import Tensor

from .calibration import CalibrationSettings, Progress
from .calibration import calibrate as run_calibration
from .errors import ArgumentError
from .families.presets import PRESETS
from .models.live import ModelSource, open_model
from .models.load import load_partner
from .models.lora import LoraFile
from .models.prompts import Prompts, load_prompts, prompts_of
from .models.resolution import latent_size
from .onnx_export import Body, ExportReport, export_onnx, export_resolutions
from .plan import ParoPlan, load_plan
from .runtime.session import Session
from .verification.compare import VerifySettings, verify_model
from .verification.report import VerifyReport

PathOrStr: TypeAlias = "str | PathLike[str]"
PlanSource: TypeAlias = "PathOrStr | ParoPlan"
PromptSource: TypeAlias = "PathOrStr | Prompts | Mapping[str, Tensor]"
"""A prompt file, what `load_prompts` returned, or tensors [P, ...] named as in such a file."""


def calibrate(
    model: ModelSource,
    prompts: PromptSource,
    *,
    output: PathOrStr,
    height: int | None = None,
    width: int | None = None,
    num_frames: int = 1,
    latents: tuple[int, int, int] | None = None,
    dtype: torch.dtype | None = None,
    heldout: PromptSource | None = None,
    progress: Progress | None = None,
    **settings: Any,
) -> ParoPlan:
    """Learn a plan (token orders, block masks, quantization) from runs of a model, and save it.

    Args:
        model: a directory, a diffusers transformer or a pipeline of one transformer.
        prompts: what to calibrate on.
        output: the plan file (*.paro.safetensors). Unfinished work is kept next to it, and the
            same call resumes.
        height: of the pictures, in pixels.
        width: of the pictures, in pixels.
        num_frames: of the video; 1 for an image.
        latents: (frames, height, width) of the latents, instead of height and width.
        dtype: to load a directory in; None is float32.
        heldout: prompts to measure the finished plan on.
        progress: told how the work goes on; None is silent.
        settings: fields of `CalibrationSettings`, such as density=0.3, bins=2 or steps=20. Where
            `shift` is not given it is that of the family's preset.

    Raises:
        ModelError: the model, its prompts or its size do not fit together.
        ArgumentError: an option is out of range or unknown.
    """
    options = _settings(CalibrationSettings, settings)
    given = _prompts(prompts)
    measured = None if heldout is None else _prompts(heldout)
    loaded = open_model(model, dtype)
    if "shift" not in settings:
        options = replace(options, shift=PRESETS[loaded.family.name].shift)
    if latents is None:
        if height is None or width is None:
            raise ArgumentError(
                "height, width", expected="both, or latents=(frames, height, width)",
                actual=f"height={height}, width={width}",
            )  # fmt: skip
        latents = latent_size(loaded.family, loaded.config, num_frames, height, width)
    elif (height, width) != (None, None):
        raise ArgumentError("latents", expected="without height and width", actual="both")
    return run_calibration(
        loaded, given, latents, options, Path(output),
        heldout=measured, progress=progress, partner=load_partner(loaded),
    )  # fmt: skip


def export(
    model: ModelSource,
    plan: PlanSource | Sequence[PlanSource],
    output: PathOrStr,
    *,
    dtype: torch.dtype | None = None,
    body: str | Body = Body.SPARSE,
    dense: bool = False,
    opset: int | None = None,
    external_data: bool | None = None,
    variant: str | None = None,
    lora: Sequence[PathOrStr | LoraFile] = (),
    progress: Callable[[str], None] | None = None,
) -> tuple[ExportReport, ...]:
    """Write a model with its plan as an ONNX file, and check what was written.

    Weights of a directory go from its files to the new one a tensor at a time: a model of any size
    takes a few GB of memory, if its weights go to a file of their own.

    Args:
        model: a directory, a diffusers transformer or a pipeline of one transformer.
        plan: made for this model. Several, one a resolution, give several files that share their
            weights and are named after `output` and their token grid.
        output: the ONNX file; it is replaced only once the new one is whole and checked.
        dtype: to load a directory in, and so the file's type; None is float32.
        body: how runtimes without the plugin compute the op: "sparse", "dense" or "none".
        dense: write the model as it is, without PAROAttention, for comparison.
        opset: version of the standard operators; None chooses.
        external_data: weights in a file of their own; None: above 1.5 GB, or with several plans.
        variant: of a directory's weight files, such as "fp16"; None takes those without one, or
            the only one.
        lora: adapters to fuse into a directory's weights; LoraFile(path, scale) for another scale
            than 1. `verify` takes the same.
        progress: told what happens next.

    Returns:
        One report for each file.

    Raises:
        ModelError: a plan is of another model.
        ArgumentError: an option is out of range.
        ParoError: a file cannot be written.
    """
    several = isinstance(plan, Sequence) and not isinstance(plan, str)
    plans = [_plan(source) for source in (plan if several else [plan])]  # type: ignore[arg-type, union-attr]
    check_external_data(external_data, len(plans))
    loaded = open_model(model, dtype, variant=variant, lora=_adapters(lora), weights_in_files=True)
    options: dict[str, Any] = {
        "body": _body(body), "dense_baseline": dense, "opset": opset, "progress": progress,
    }  # fmt: skip
    if len(plans) > 1:
        return export_resolutions(loaded, plans, output, **options)
    return (export_onnx(loaded, plans[0], output, external_data=external_data, **options),)


def verify(
    file: PathOrStr | Session,
    model: ModelSource,
    *,
    plan: PlanSource | None = None,
    prompts: PromptSource | None = None,
    dtype: torch.dtype | None = None,
    lora: Sequence[PathOrStr | LoraFile] = (),
    **settings: Any,
) -> VerifyReport:
    """Compare an exported file with the dense model and, given the plan, with it in PyTorch.

    Args:
        file: an ONNX file, run in ONNX Runtime, or an open session.
        model: the model it was exported from.
        plan: the plan it was exported with.
        prompts: what to sample; None compares on random embeddings.
        dtype: that PyTorch computes in, for a directory; None is float32.
        lora: adapters that were fused into the file.
        settings: fields of `VerifySettings`, such as steps=20 or min_cosine=0.99.

    Returns:
        The report; `report.ok` says whether every check passed.

    Raises:
        ModelError: the file is of another model or plan.
        OnnxFileError: the file cannot be loaded.
        ArgumentError: an option is out of range or unknown.
    """
    options = _settings(VerifySettings, settings)
    return verify_model(
        file,
        open_model(model, dtype, lora=_adapters(lora)),
        None if plan is None else _plan(plan),
        None if prompts is None else _prompts(prompts),
        options,
    )


def check_external_data(external_data: bool | None, files: int) -> None:
    """Raise ArgumentError if several files shall hold their weights themselves."""
    if files > 1 and external_data is False:
        raise ArgumentError(
            "external_data (--no-external-data)",
            expected="one resolution",
            actual=f"{files}, whose files share external weights",
        )


def _adapters(given: Sequence[PathOrStr | LoraFile]) -> tuple[LoraFile, ...]:
    return tuple(entry if isinstance(entry, LoraFile) else LoraFile(Path(entry)) for entry in given)


def _body(name: str | Body) -> Body:
    try:
        return Body(name)
    except ValueError:
        known = ", ".join(body.value for body in Body)
        raise ArgumentError("body", expected=f"one of {known}", actual=repr(name)) from None


def _plan(source: PlanSource) -> ParoPlan:
    return source if isinstance(source, ParoPlan) else load_plan(source)


def _prompts(source: PromptSource) -> Prompts:
    if isinstance(source, Prompts):
        return source
    if isinstance(source, Mapping):
        return prompts_of(source)
    return load_prompts(source)


def _settings(kind: type[Any], given: Mapping[str, Any]) -> Any:
    known = [field.name for field in fields(kind)]
    unknown = sorted(set(given) - set(known))
    if unknown:
        raise ArgumentError(
            unknown[0],
            expected=f"an argument of this function or a field of {kind.__name__}",
            actual="an unknown name",
            remedy=f"the fields are {', '.join(known)}",
        )
    return kind(**given)
