"""Tiny LTX-Video."""

from .model import TinyModel

VARIANTS = (
    TinyModel(
        name="ltx_video",
        class_name="LTXVideoTransformer3DModel",
        config={
            "in_channels": 8,
            "out_channels": 8,
            "num_attention_heads": 2,
            "attention_head_dim": 64,
            "cross_attention_dim": 128,
            "num_layers": 2,
            "caption_channels": 16,
        },
        latent_size=(2, 8, 8),
        odd_latent_size=(3, 7, 5),
    ),
)
