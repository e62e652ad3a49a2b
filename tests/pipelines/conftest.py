"""Complete tiny pipelines of random weights on disk: a WanPipeline and a FluxPipeline."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from tests.support.tiny import variants_of
from tests.support.tiny_wan import LATENT_SHAPE, TEXT_DIM, tiny_wan

WORDS = ("a", "big", "small", "red", "green", "circle", "square", "moving", "left", "right")
VIDEO = {"height": 128, "width": 128, "num_frames": 5}
"""Pixels of the Wan pipeline's 2 x 8 x 8 tokens."""

IMAGE = {"height": 256, "width": 256}
"""Pixels of the Flux pipeline's 1 x 16 x 16 tokens."""


def word_tokenizer(length: int) -> Any:
    """One token a word."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    words = {word: index for index, word in enumerate(("<pad>", "</s>", "<unk>", *WORDS))}
    core = Tokenizer(models.WordLevel(words, unk_token="<unk>"))
    core.pre_tokenizer = pre_tokenizers.Whitespace()
    core.post_processor = processors.TemplateProcessing(
        single="$A </s>", special_tokens=[("</s>", 1)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=core, pad_token="<pad>", eos_token="</s>", unk_token="<unk>",
        model_max_length=length,
    )  # fmt: skip


def t5_sizes(width: int) -> dict[str, Any]:
    """Arguments of a T5 or UMT5 configuration of two layers."""
    return {
        "vocab_size": len(WORDS) + 3, "d_model": width, "d_kv": 8, "num_heads": 2, "d_ff": 32,
        "num_layers": 2, "feed_forward_proj": "gated-gelu", "pad_token_id": 0, "eos_token_id": 1,
        "tie_word_embeddings": False,
    }  # fmt: skip


def wan_pipeline(**parts: Any) -> Any:
    """A WanPipeline whose video of 5 frames of 128 x 128 has 128 tokens."""
    from diffusers import AutoencoderKLWan, FlowMatchEulerDiscreteScheduler, WanPipeline
    from transformers import UMT5Config, UMT5EncoderModel

    channels = LATENT_SHAPE[0]
    with torch.random.fork_rng():
        torch.manual_seed(3)
        encoder = UMT5EncoderModel(UMT5Config(**t5_sizes(TEXT_DIM)))
        vae = AutoencoderKLWan(
            base_dim=4, z_dim=channels, num_res_blocks=1, dim_mult=[1, 1, 1, 1],
            latents_mean=[0.0] * channels, latents_std=[1.0] * channels,
        )  # fmt: skip
    given = {
        "tokenizer": word_tokenizer(512), "text_encoder": encoder.eval(), "vae": vae.eval(),
        "scheduler": FlowMatchEulerDiscreteScheduler(shift=3.0), "transformer": tiny_wan(seed=1),
    }  # fmt: skip
    return WanPipeline(**(given | parts))


def flux_pipeline() -> Any:
    """A FluxPipeline whose image of 256 x 256 has 256 tokens."""
    from diffusers import AutoencoderKL, FlowMatchEulerDiscreteScheduler, FluxPipeline
    from transformers import CLIPTextConfig, CLIPTextModel, T5Config, T5EncoderModel

    tiny = next(tiny for tiny in variants_of("flux") if tiny.name == "flux-dev")
    with torch.random.fork_rng():
        torch.manual_seed(4)
        clip = CLIPTextModel(
            CLIPTextConfig(
                vocab_size=len(WORDS) + 3, hidden_size=8, intermediate_size=16, eos_token_id=1,
                num_hidden_layers=1, num_attention_heads=2, pad_token_id=0, bos_token_id=2,
            )
        )  # fmt: skip
        t5 = T5EncoderModel(T5Config(**t5_sizes(tiny.config["joint_attention_dim"])))
        vae = AutoencoderKL(
            latent_channels=4, block_out_channels=(4, 4, 4, 4), norm_num_groups=2,
            down_block_types=("DownEncoderBlock2D",) * 4, up_block_types=("UpDecoderBlock2D",) * 4,
            layers_per_block=1, shift_factor=0.0, scaling_factor=1.0,
        )  # fmt: skip
    return FluxPipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(), vae=vae.eval(), text_encoder=clip.eval(),
        tokenizer=word_tokenizer(77), text_encoder_2=t5.eval(), tokenizer_2=word_tokenizer(512),
        transformer=tiny.build(),
    )  # fmt: skip


@pytest.fixture(scope="session")
def wan_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A saved WanPipeline."""
    path = tmp_path_factory.mktemp("wan") / "pipeline"
    wan_pipeline().save_pretrained(path)
    return path


@pytest.fixture(scope="session")
def flux_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A saved FluxPipeline."""
    path = tmp_path_factory.mktemp("flux") / "pipeline"
    flux_pipeline().save_pretrained(path)
    return path
