"""Where a pipeline runs, and where its weights are while they are not in use."""

from __future__ import annotations

import re
from enum import Enum
from importlib.util import find_spec
from typing import Any

import torch

from ..errors import ArgumentError, ModelError

_DEVICE = re.compile(r"cpu|cuda(:\d+)?")


class Offload(str, Enum):
    """Where the weights of a pipeline are while they are not in use."""

    NONE = "none"
    """On the device."""

    MODEL = "model"
    """In the CPU's memory; one whole model at a time is on the device."""

    GROUP = "group"
    """In the CPU's memory; a few layers at a time are on the device."""


def parse_device(device: str | torch.device) -> torch.device:
    """The device of an option; "auto" is the GPU where there is one, else the CPU.

    Raises:
        ArgumentError: it is no such option, or this machine does not have the device.
    """
    text = str(device)
    if text == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if not _DEVICE.fullmatch(text):
        raise ArgumentError("device", expected="auto, cpu, cuda or cuda:N", actual=repr(text)[:80])
    chosen = torch.device(text)
    if chosen.type == "cuda":
        count = torch.cuda.device_count() if torch.cuda.is_available() else 0
        if (chosen.index or 0) >= count:
            raise ArgumentError(
                "device",
                expected=f"one of cuda:0 to cuda:{count - 1}" if count else "cpu or auto",
                actual=f"{text}, and PyTorch {torch.__version__} sees {count or 'no'} GPUs",
                remedy="" if count else "install a CUDA build of PyTorch and a driver for it",
            )
    return chosen


def parse_offload(offload: str | Offload) -> Offload:
    """The member of that value; ArgumentError if there is none."""
    try:
        return Offload(offload)
    except ValueError:
        known = ", ".join(member.value for member in Offload)
        raise ArgumentError(
            "offload", expected=f"one of {known}", actual=repr(offload)[:80]
        ) from None


def place_pipeline(pipe: Any, device: torch.device, offload: Offload) -> None:
    """Put a pipeline that is in the CPU's memory on its device.

    Raises:
        ArgumentError: offloading from the CPU, or without accelerate.
        ModelError: the device's memory does not hold it.
    """
    if offload is not Offload.NONE:
        _check_offload(pipe, device, offload)
    try:
        if offload is Offload.MODEL:
            pipe.enable_model_cpu_offload(device=device)
        elif offload is Offload.GROUP:
            pipe.enable_group_offload(
                onload_device=device, offload_type="leaf_level", use_stream=True
            )
        else:
            pipe.to(device)
    except torch.OutOfMemoryError as error:
        raise ModelError(
            type(pipe).__name__,
            expected=f"weights that fit into the memory of {device}",
            actual="out of memory",
            remedy="use --offload model, or --offload group, which needs least",
        ) from error


def execution_device(pipe: Any) -> torch.device:
    """Where a pipeline's tensors are while it runs, offloaded or not."""
    return torch.device(getattr(pipe, "_execution_device", None) or pipe.device)


def _check_offload(pipe: Any, device: torch.device, offload: Offload) -> None:
    if device.type == "cpu":
        raise ArgumentError(
            "offload", expected="none on a CPU", actual=f"{offload.value} on {device}",
            remedy="offloading moves weights between a GPU and the CPU's memory",
        )  # fmt: skip
    if find_spec("accelerate") is None:
        raise ArgumentError(
            "offload", expected="accelerate installed", actual="no such package",
            remedy="pip install accelerate",
        )  # fmt: skip
    if offload is Offload.GROUP and not hasattr(pipe, "enable_group_offload"):
        raise ArgumentError(
            "offload",
            expected="a release of diffusers whose pipelines have enable_group_offload",
            actual="an older one",
            remedy="pip install --upgrade diffusers, or use --offload model",
        )
