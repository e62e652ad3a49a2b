"""Tiny Qwen-Image and Edit pipelines, whose text is as long as the prompt is."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from paro_trt.families.shared.adapt import replaced

from .images import picture
from .pipeline import TinyPipeline
from .text import qwen2_5_vl, tokenizer

_CALL = {"height": 256, "width": 256, "negative_prompt": "a", "true_cfg_scale": 4.0}


def _parts(transformer: torch.nn.Module) -> dict[str, Any]:
    from diffusers import AutoencoderKLQwenImage, FlowMatchEulerDiscreteScheduler

    vae = AutoencoderKLQwenImage(
        base_dim=4, z_dim=4, dim_mult=[1, 1, 1, 1], num_res_blocks=1, latents_mean=[0.1] * 4,
        latents_std=[1.5] * 4,
    )  # fmt: skip
    return {
        "scheduler": FlowMatchEulerDiscreteScheduler(
            use_dynamic_shifting=True, shift_terminal=0.02
        ),
        "vae": vae,
        "text_encoder": qwen2_5_vl(32),
        "tokenizer": tokenizer(1024),
        "transformer": transformer,
    }


def _text_to_image(transformer: torch.nn.Module) -> Any:
    from diffusers import QwenImagePipeline

    return QwenImagePipeline(**_parts(transformer))


class TextOnly:
    """In the place of the processor: the text encoder does not see the reference, the VAE does."""

    def __init__(self) -> None:
        self.tokenizer = tokenizer(1024)

    def __call__(self, *, text: list[str], images: object, **options: Any) -> Any:
        assert images is not None
        return self.tokenizer(text, **options)


def _edit(transformer: torch.nn.Module) -> Any:
    from diffusers import QwenImageEditPipeline

    return QwenImageEditPipeline(**_parts(transformer), processor=TextOnly())


def _few_words(pipeline: Any) -> None:
    """The tiny tokenizer makes another number of tokens of the template than the real one."""
    pipeline.prompt_template_encode_start_idx = 76


@contextmanager
def _small_references() -> Iterator[None]:
    """References of the image's size; the pipeline makes them a million pixels."""
    from diffusers.pipelines.qwenimage import pipeline_qwenimage_edit

    with replaced(pipeline_qwenimage_edit, "calculate_dimensions", lambda *_: (160, 128, None)):
        yield


PIPELINES = (TinyPipeline("qwen_image", "qwen_image", "qwen_image", _text_to_image, _CALL),)

EDIT = TinyPipeline(
    "qwen_image-edit",
    "qwen_image",
    "qwen_image-edit",
    _edit,
    {"height": 128, "width": 160, "image": picture(128, 160), "true_cfg_scale": 1.0},
    around=_small_references,
    prepare=_few_words,
)
"""For runs alone: it cannot be saved, as its processor is none of transformers'."""
