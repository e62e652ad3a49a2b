"""A module in the place of a diffusers transformer, which its pipeline takes for the model."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch

_POSITIONS = ("rope", "audio_rope")
"""What LTX-2's pipeline asks its transformer for, to compute positions outside."""


class SubstituteTransformer(torch.nn.Module):
    """What pipelines ask of a transformer besides its call; subclasses have the call.

    Args:
        class_name: of the diffusers class.
        config: the transformer's.
        dtype: of latents and conditioning.
        device: where the pipeline's tensors live.
    """

    def __init__(
        self,
        class_name: str,
        config: Mapping[str, Any],
        dtype: torch.dtype,
        device: str | torch.device,
    ) -> None:
        super().__init__()
        from diffusers.configuration_utils import FrozenDict

        self.config = FrozenDict(config)
        self.class_name = class_name
        self._dtype, self._device = dtype, torch.device(device)

    @property
    def dtype(self) -> torch.dtype:
        """Of latents and conditioning."""
        return self._dtype

    @property
    def device(self) -> torch.device:
        """Where the pipeline's tensors live."""
        return self._device

    @property
    def model_class(self) -> Any:
        """The diffusers class."""
        import diffusers

        return getattr(diffusers, self.class_name)

    @contextmanager
    def cache_context(self, *_pass: Any, **_options: Any) -> Iterator[None]:
        """Pipelines name their passes for diffusers' caches, which a substitute does not have."""
        yield

    def __getattr__(self, name: str) -> Any:
        if name not in _POSITIONS:
            return super().__getattr__(name)
        with torch.device("meta"):
            return getattr(self.model_class.from_config(self.config), name)
