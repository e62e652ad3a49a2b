"""Tiny Mochi."""

from .model import TinyModel

VARIANTS = (
    TinyModel(
        name="mochi",
        class_name="MochiTransformer3DModel",
        config={
            "num_attention_heads": 2,
            "attention_head_dim": 64,
            "num_layers": 2,
            "pooled_projection_dim": 32,
            # The pipeline counts on it.
            "in_channels": 12,
            "text_embed_dim": 16,
            "time_embed_dim": 32,
            "max_sequence_length": 24,
        },
        latent_size=(2, 16, 16),
        odd_latent_size=(3, 14, 10),
        untrained=("pos_frequencies",),
        prompt={"encoder_hidden_states": (20, 16)},
    ),
)
