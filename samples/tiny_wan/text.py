"""The text side: a tokenizer of 15 words and a small UMT5 encoder, as WanPipeline uses them.

The encoder is not trained. The words' vectors are orthonormal up to a factor, and its attention and
feed-forward layers are small next to them, so that a word looks alike in every prompt.
"""

import torch
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast, UMT5Config, UMT5EncoderModel

from .scenes import WORDS

TEXT_DIM = 64
PIPELINE_LENGTH = 512
"""Tokens WanPipeline pads every prompt to, with zero vectors."""
LENGTH = 6
"""Tokens in training: 4 words, the end, and one padding token that counts for all others."""
BRANCH_SCALE = 0.25


def build_tokenizer() -> PreTrainedTokenizerFast:
    """Whole words in lower case, `</s>` at the end."""
    words = {word: index for index, word in enumerate(("<pad>", "</s>", "<unk>", *WORDS))}
    core = Tokenizer(models.WordLevel(words, unk_token="<unk>"))
    core.normalizer = normalizers.Lowercase()
    core.pre_tokenizer = pre_tokenizers.Whitespace()
    core.post_processor = processors.TemplateProcessing(
        single="$A </s>", special_tokens=[("</s>", words["</s>"])]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=core,
        pad_token="<pad>",
        eos_token="</s>",
        unk_token="<unk>",
        model_max_length=PIPELINE_LENGTH,
    )


@torch.no_grad()
def build_text_encoder(tokenizer: PreTrainedTokenizerFast) -> UMT5EncoderModel:
    """The encoder: 2 layers of 64 channels, always the same weights."""
    config = UMT5Config(
        vocab_size=len(tokenizer),
        d_model=TEXT_DIM,
        d_kv=32,
        num_heads=2,
        d_ff=128,
        num_layers=2,
        feed_forward_proj="gated-gelu",
        pad_token_id=0,
        eos_token_id=1,
        tie_word_embeddings=False,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        encoder = UMT5EncoderModel(config).float()
        random = torch.randn(TEXT_DIM, TEXT_DIM)
    directions = torch.linalg.qr(random).Q[: config.vocab_size]
    encoder.get_input_embeddings().weight.copy_(directions * TEXT_DIM**0.5)
    for name, parameter in encoder.named_parameters():
        if name.endswith(("SelfAttention.o.weight", "DenseReluDense.wo.weight")):
            parameter.mul_(BRANCH_SCALE)
    return encoder.eval().requires_grad_(False)


@torch.no_grad()
def embed(
    tokenizer: PreTrainedTokenizerFast, encoder: UMT5EncoderModel, prompts: list[str]
) -> torch.Tensor:
    """[P, LENGTH, 64] f32: as WanPipeline embeds prompts, with the padding cut."""
    tokens = tokenizer(
        prompts, padding="max_length", max_length=LENGTH, truncation=True, return_tensors="pt"
    )
    states = encoder(tokens.input_ids, tokens.attention_mask).last_hidden_state
    return states * tokens.attention_mask[..., None]
