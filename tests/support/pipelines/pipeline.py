"""A tiny complete pipeline: its parts, the sizes of its plain call, and how to build it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from ..tiny import TinyModel, variants_of

PROMPT = "a red ball rolls left"


# eq=False: the tiny model's cached properties hang on identity.
@dataclass(frozen=True, eq=False)
class TinyPipeline:
    """A pipeline of a real diffusers class with random weights, built without any file.

    Args:
        name: for test reports.
        family: name of the transformer's family.
        transformer: name of the family's tiny model that it holds; the call's size is that of the
            model's `latent_size`, its text that of the model's `prompt`.
        parts: makes the pipeline of its transformer.
        call: arguments of a plain call in addition to prompt and steps.
        loaded_with: parts that `from_pretrained` must be given.
        around: a context that runs need.
        prepare: sets what a call has no arguments for.
    """

    name: str
    family: str
    transformer: str
    parts: Callable[[torch.nn.Module], Any]
    call: Mapping[str, Any] = field(default_factory=dict)
    loaded_with: Mapping[str, Any] = field(default_factory=dict)
    around: Callable[[], AbstractContextManager[object]] = nullcontext
    prepare: Callable[[Any], None] | None = None

    @property
    def tiny(self) -> TinyModel:
        """The transformer's tiny model: its configuration, geometry and plans."""
        return next(tiny for tiny in variants_of(self.family) if tiny.name == self.transformer)

    def build(self, seed: int = 0) -> Any:
        """The pipeline, in float32 on the CPU."""
        transformer = self.tiny.build(seed)
        with torch.random.fork_rng():
            torch.manual_seed(seed + 1)
            pipeline = self.parts(transformer)
        pipeline.set_progress_bar_config(disable=True)
        return pipeline

    def run(self, pipeline: Any, *, seed: int = 0, **changes: Any) -> Tensor:
        """Latents of a plain call of two steps; `changes` are arguments of the pipeline's call."""
        arguments = {"prompt": PROMPT, "num_inference_steps": 2, "output_type": "latent"}
        generator = torch.Generator().manual_seed(seed)
        arguments = arguments | dict(self.call) | {"generator": generator} | changes
        if self.prepare is not None:
            self.prepare(pipeline)
        with self.around():
            latents: Tensor = pipeline(**arguments, return_dict=False)[0]
        return latents
