"""The floating-point type that weights have on disk."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from math import prod
from pathlib import Path

import torch

from ..errors import ModelError
from ..families.shared.diffusers_range import installed_release
from ..models.contents import first_line

_FLOATS = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}


def stored_dtype(files: Iterable[Path]) -> torch.dtype:
    """The type that most elements in safetensors files have, by their headers.

    Raises:
        ModelError: a file is damaged, or most weights are of no floating-point type that models
            compute in.
    """
    from safetensors import SafetensorError, safe_open

    elements: Counter[str] = Counter()
    path = Path()
    try:
        for path in files:
            with safe_open(path, framework="pt") as file:
                for name in file.keys():  # noqa: SIM118
                    tensor = file.get_slice(name)
                    elements[tensor.get_dtype()] += prod(tensor.get_shape())
    except (SafetensorError, OSError) as error:
        raise ModelError(
            str(path), expected="a complete safetensors file", actual=first_line(error),
            remedy="copy or download it again",
        ) from error  # fmt: skip
    ((name, _),) = elements.most_common(1) or [("no tensor", 0)]
    if name not in _FLOATS:
        raise ModelError(
            f"{path}: weights",
            expected="float32, float16 or bfloat16",
            actual=name,
            remedy="use the model's bfloat16 or float16 weights",
        )
    return _FLOATS[name]


def dtype_argument(dtype: torch.dtype) -> dict[str, torch.dtype]:
    """The keyword of diffusers' loaders for the type of weights, which 0.42 renamed."""
    return {"dtype" if installed_release() >= (0, 42) else "torch_dtype": dtype}
