"""Values that options take, spelled here so that `--help` need not import torch.

tests/cli/test_app.py holds them against the enums they stand for.
"""

from __future__ import annotations

from typing import Literal, TypeAlias

OrderMetricName: TypeAlias = Literal["output-error", "mass", "paper"]
MaskMetricName: TypeAlias = Literal["output-error", "mass"]
AllocationName: TypeAlias = Literal["model", "layer", "head", "measured"]
TargetName: TypeAlias = Literal["generic", "sm_80", "sm_86", "sm_89", "sm_90", "sm_100", "sm_120"]
BackendName: TypeAlias = Literal["ort", "cpu", "cuda", "tensorrt"]
TensorRtName: TypeAlias = Literal["tensorrt", "tensorrt_rtx"]
DtypeName: TypeAlias = Literal["float32", "float16", "bfloat16"]
BodyName: TypeAlias = Literal["sparse", "dense", "none"]
ImplementationName: TypeAlias = Literal["reference", "cpu", "cuda", "emulated"]
GenerateBackendName: TypeAlias = Literal["reference", "cpu", "cuda", "ort", "tensorrt"]
"""`ImplementationName` for a plan, `BackendName` for a file."""

OffloadName: TypeAlias = Literal["none", "model", "group"]
AutoDtypeName: TypeAlias = Literal["auto", "float32", "float16", "bfloat16"]
ShellName: TypeAlias = Literal["bash", "zsh", "fish", "powershell", "pwsh"]
"""Shells that typer writes completions for."""
