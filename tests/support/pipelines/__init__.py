"""Tiny complete pipelines of the real diffusers classes: callable with a sentence, savable.

    tiny = pipeline_of("wan")
    pipeline = tiny.build()
    pipeline.save_pretrained(directory)
    tiny.run(pipeline, seed=3)

is `pipeline(prompt=..., **tiny.call, num_inference_steps=2, output_type="latent")`.
"""

from __future__ import annotations

from . import (
    cogvideox,
    cosmos,
    flux,
    flux2,
    hunyuan_video,
    hunyuan_video15,
    ltx2,
    ltx_video,
    mochi,
    qwen_image,
    sd3,
    wan,
)
from .pipeline import PROMPT, TinyPipeline

__all__ = ["PIPELINES", "PROMPT", "TinyPipeline", "pipeline_of"]

PIPELINES: tuple[TinyPipeline, ...] = (
    *cogvideox.PIPELINES,
    *cosmos.PIPELINES,
    *flux.PIPELINES,
    *flux2.PIPELINES,
    *hunyuan_video.PIPELINES,
    *hunyuan_video15.PIPELINES,
    *ltx2.PIPELINES,
    *ltx_video.PIPELINES,
    *mochi.PIPELINES,
    *qwen_image.PIPELINES,
    *sd3.PIPELINES,
    *wan.PIPELINES,
)


def pipeline_of(name: str) -> TinyPipeline:
    """By its name."""
    return next(tiny for tiny in PIPELINES if tiny.name == name)
