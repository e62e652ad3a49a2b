"""Tiny tokenizers and text encoders of the classes that pipelines hold, of random weights."""

from __future__ import annotations

from typing import Any

import torch

WORDS = tuple(
    "a an the of in on and with to red green blue yellow cat dog ball box moves rolls jumps "  # noqa: SIM905
    "left right up down big small fast slow picture video".split()
)
"""What the tokenizers know; any other word is unknown to them."""

_SPECIAL = {"pad_token": "<pad>", "eos_token": "</s>", "bos_token": "<s>", "unk_token": "<unk>"}

VOCABULARY = (*_SPECIAL.values(), *WORDS)


def tokenizer(length: int = 12, **options: Any) -> Any:
    """One token a word, `<s>` in front and `</s>` behind.

    Args:
        length: `model_max_length`.
        options: of transformers' PreTrainedTokenizerFast.
    """
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    ids = {word: index for index, word in enumerate(VOCABULARY)}
    words = Tokenizer(models.WordLevel(ids, unk_token=_SPECIAL["unk_token"]))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    ends = [(token, ids[token]) for token in ("<s>", "</s>")]
    words.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", pair="<s> $A </s> $B </s>", special_tokens=ends
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=words, model_max_length=length, **(_SPECIAL | options)
    )


def t5(width: int, *, multilingual: bool = False) -> Any:
    """T5EncoderModel, or UMT5EncoderModel, of one layer and `width` channels."""
    from transformers import T5Config, T5EncoderModel, UMT5Config, UMT5EncoderModel

    config_class, model_class = (
        (UMT5Config, UMT5EncoderModel) if multilingual else (T5Config, T5EncoderModel)
    )
    config = config_class(
        vocab_size=len(VOCABULARY), d_model=width, d_kv=8, d_ff=32, num_layers=1, num_heads=2
    )
    return _louder(model_class(config))


def clip_text(width: int, *, projection: int | None = None, length: int = 12) -> Any:
    """CLIPTextModel of one layer; with `projection` CLIPTextModelWithProjection."""
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

    config = CLIPTextConfig(
        vocab_size=len(VOCABULARY), hidden_size=width, intermediate_size=32, num_hidden_layers=2,
        num_attention_heads=2, max_position_embeddings=length, projection_dim=projection or width,
        pad_token_id=0, eos_token_id=1, bos_token_id=2,
    )  # fmt: skip
    return _louder((CLIPTextModelWithProjection if projection else CLIPTextModel)(config))


def clip_vision(width: int, *, tokens: int) -> Any:
    """CLIPVisionModel of two layers that makes `tokens`, one of them for the whole image."""
    from transformers import CLIPVisionConfig, CLIPVisionModel

    side = round((tokens - 1) ** 0.5)
    config = CLIPVisionConfig(
        hidden_size=width, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2,
        image_size=2 * side, patch_size=2,
    )  # fmt: skip
    return _louder(CLIPVisionModel(config))


def clip_images() -> Any:
    """CLIP's image processor, for images of 32 x 32 pixels."""
    from transformers import CLIPImageProcessor

    size = {"height": 32, "width": 32}
    return CLIPImageProcessor(size=size, crop_size=size, do_center_crop=False)


def llama(width: int) -> Any:
    """LlamaModel of three layers, of which pipelines take the first's output."""
    from transformers import LlamaConfig, LlamaModel

    config = LlamaConfig(
        vocab_size=len(VOCABULARY), hidden_size=width, intermediate_size=32, num_hidden_layers=3,
        num_attention_heads=2, max_position_embeddings=64, pad_token_id=0,
    )  # fmt: skip
    return _louder(LlamaModel(config))


def qwen3(width: int, layers: int = 3) -> Any:
    """Qwen3ForCausalLM."""
    from transformers import Qwen3Config, Qwen3ForCausalLM

    config = Qwen3Config(
        vocab_size=len(VOCABULARY), hidden_size=width, intermediate_size=32,
        num_hidden_layers=layers, num_attention_heads=2, num_key_value_heads=2, head_dim=8,
    )  # fmt: skip
    return _louder(Qwen3ForCausalLM(config))


def gemma3(width: int) -> Any:
    """Gemma3ForConditionalGeneration of two layers, and of one that sees."""
    from transformers import Gemma3Config, Gemma3ForConditionalGeneration

    config = Gemma3Config(
        text_config={
            "vocab_size": len(VOCABULARY), "hidden_size": width, "intermediate_size": 32,
            "num_hidden_layers": 2, "num_attention_heads": 2, "num_key_value_heads": 1,
            "head_dim": 8, "pad_token_id": 0, "eos_token_id": 1, "bos_token_id": 2,
        },
        vision_config={
            "hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1,
            "num_attention_heads": 2, "image_size": 16, "patch_size": 4,
        },
        mm_tokens_per_image=4, image_token_index=5, boi_token_index=6, eoi_token_index=7,
    )  # fmt: skip
    return _louder(Gemma3ForConditionalGeneration(config))


def qwen2_5_vl_text(width: int) -> Any:
    """The text model alone of `qwen2_5_vl`, of three layers."""
    from transformers import Qwen2_5_VLTextConfig, Qwen2_5_VLTextModel

    config = Qwen2_5_VLTextConfig(
        vocab_size=len(VOCABULARY), hidden_size=width, intermediate_size=32, num_hidden_layers=3,
        num_attention_heads=2, num_key_value_heads=2, pad_token_id=0, eos_token_id=1,
        bos_token_id=2, rope_scaling={"type": "default", "mrope_section": [2, 1, 1]},
    )  # fmt: skip
    return _louder(Qwen2_5_VLTextModel(config))


def qwen2_5_vl(width: int) -> Any:
    """Qwen2_5_VLForConditionalGeneration of two layers, and of one that sees."""
    from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration

    config = Qwen2_5_VLConfig(
        text_config={
            "vocab_size": len(VOCABULARY), "hidden_size": width, "intermediate_size": 32,
            "num_hidden_layers": 2, "num_attention_heads": 2, "num_key_value_heads": 2,
            "rope_scaling": {
                "type": "default", "mrope_section": [width // 8, width // 16, width // 16],
            },
            "bos_token_id": 2, "eos_token_id": 1, "pad_token_id": 0,
        },
        vision_config={
            "depth": 1, "hidden_size": 16, "intermediate_size": 16, "num_heads": 2,
            "out_hidden_size": width, "fullatt_block_indexes": [0],
        },
        image_token_id=5, video_token_id=6, vision_start_token_id=7, vision_end_token_id=8,
    )  # fmt: skip
    return _louder(Qwen2_5_VLForConditionalGeneration(config))


def _louder(encoder: Any) -> Any:
    """Initial weights are so small that all prompts would be nearly the same."""
    with torch.no_grad():
        for parameter in encoder.parameters():
            if parameter.ndim > 1:
                parameter.normal_(std=0.5)
    return encoder.requires_grad_(False).eval()
