"""Tiny Flux.1, dev and schnell."""

from .model import TinyModel

_CONFIG = {
    "in_channels": 16,
    "num_layers": 1,
    "num_single_layers": 2,
    "num_attention_heads": 2,
    "attention_head_dim": 64,
    "joint_attention_dim": 32,
    "pooled_projection_dim": 8,
    "axes_dims_rope": (16, 24, 24),
}

VARIANTS = tuple(
    TinyModel(
        name=name,
        class_name="FluxTransformer2DModel",
        config=_CONFIG | {"guidance_embeds": guidance},
        latent_size=(1, 32, 32),
        odd_latent_size=(1, 30, 22),
        prompt={"encoder_hidden_states": (12, 32)},
    )
    for name, guidance in (("flux-dev", True), ("flux-schnell", False))
)
