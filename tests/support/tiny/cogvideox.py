"""Tiny CogVideoX: 1.0 with rotary and with sine embeddings, 1.5, and 1.5 image to video."""

from .model import TinyModel

_TEXT_TOKENS = 12

_CONFIG = {
    "num_attention_heads": 2,
    "attention_head_dim": 64,
    "in_channels": 4,
    "out_channels": 4,
    "time_embed_dim": 32,
    "text_embed_dim": 16,
    "num_layers": 2,
    "sample_width": 16,
    "sample_height": 16,
    "sample_frames": 9,
    "max_text_seq_length": _TEXT_TOKENS,
    "use_rotary_positional_embeddings": True,
}


def _variant(name: str, latent_size: tuple[int, int, int], **config: object) -> TinyModel:
    return TinyModel(
        name=name,
        class_name="CogVideoXTransformer3DModel",
        config=_CONFIG | config,
        latent_size=latent_size,
        odd_latent_size=(latent_size[0], 14, 10),
        prompt={"encoder_hidden_states": (_TEXT_TOKENS, 16)},
    )


VARIANTS = (
    _variant("cogvideox", (3, 16, 16)),
    _variant("cogvideox-sine", (3, 16, 16), use_rotary_positional_embeddings=False),
    _variant("cogvideox-1.5", (6, 16, 16), patch_size_t=2, patch_bias=False),
    _variant("cogvideox-1.5-i2v", (6, 16, 16), patch_size_t=2, in_channels=8, ofs_embed_dim=32),
)
