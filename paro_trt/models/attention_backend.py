"""Who computes a model's attention: torch itself, which this package can step into, or another."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import torch
import torch.nn.functional as F

from ..errors import ModelError
from ..families.shared.adapt import replaced
from ..families.shared.diffusers_range import BACKEND_VARIABLE

_FUNCTION = "torch.nn.functional.scaled_dot_product_attention"
_OWN = torch._C._nn.scaled_dot_product_attention


@contextmanager
def native_attention(model: torch.nn.Module) -> Iterator[None]:
    """Within the context a diffusers model calls torch's attention, whatever backend was chosen.

    Backends of the environment variable, of `attention_backend` and of `set_attention_backend` are
    there again afterwards.

    Raises:
        ModelError: torch's function itself was replaced.
    """
    check_attention_function()
    from diffusers.models.attention_dispatch import AttentionBackendName, attention_backend

    with ExitStack() as stack:
        for module in model.modules():
            processor = getattr(module, "processor", None)
            if getattr(processor, "_attention_backend", None) is not None:
                stack.enter_context(replaced(processor, "_attention_backend", None))
        stack.enter_context(attention_backend(AttentionBackendName.NATIVE))
        yield


def check_attention_function() -> None:
    """Raise ModelError if torch's attention function was replaced, as some libraries advise."""
    function = F.scaled_dot_product_attention
    if function is not _OWN:
        place = f"{getattr(function, '__module__', '')}.{getattr(function, '__qualname__', '')}"
        raise ModelError(
            _FUNCTION,
            expected="torch's own function",
            actual=f"{place.strip('.') or repr(function)[:80]}, which replaced it",
            remedy="restore the function while this package calibrates, applies or exports a plan",
        )


def explain_missing_attention() -> str:
    """A remedy where a model's attention does not reach torch's function."""
    chosen = os.environ.get(BACKEND_VARIABLE)
    reset = 'model.set_attention_backend("native")'
    return f"unset {BACKEND_VARIABLE}, which is {chosen!r}, or call {reset}" if chosen else reset
