"""Tiny complete pipelines of the real diffusers classes: callable with a sentence, savable.

    tiny = pipeline_of("wan")
    pipeline = tiny.build()
    pipeline.save_pretrained(directory)
    tiny.run(pipeline, seed=3)

is `pipeline(prompt=..., **tiny.call, num_inference_steps=2, output_type="latent")`.
"""

from __future__ import annotations

from . import cogvideox, flux, wan
from .pipeline import PROMPT, TinyPipeline

__all__ = ["PIPELINES", "PROMPT", "TinyPipeline", "pipeline_of"]

PIPELINES: tuple[TinyPipeline, ...] = (
    *cogvideox.PIPELINES,
    *flux.PIPELINES,
    *wan.PIPELINES,
)


def pipeline_of(name: str) -> TinyPipeline:
    """By its name."""
    return next(tiny for tiny in PIPELINES if tiny.name == name)
