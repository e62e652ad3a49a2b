"""Tiny Mochi."""

from dataclasses import dataclass

import torch

from .model import TinyModel


@dataclass(frozen=True, eq=False)
class _TurningModel(TinyModel):
    """With rotary frequencies, which are zero until they are learned."""

    def build(self, seed: int = 0) -> torch.nn.Module:
        model = super().build(seed)
        frequencies = model.get_parameter("pos_frequencies")
        frequencies.normal_(generator=torch.Generator().manual_seed(seed))
        return model


VARIANTS = (
    _TurningModel(
        name="mochi",
        class_name="MochiTransformer3DModel",
        config={
            "num_attention_heads": 2,
            "attention_head_dim": 64,
            "num_layers": 2,
            "pooled_projection_dim": 32,
            "in_channels": 4,
            "text_embed_dim": 16,
            "time_embed_dim": 32,
            "max_sequence_length": 24,
        },
        latent_size=(2, 16, 16),
        odd_latent_size=(3, 14, 10),
        prompt={"encoder_hidden_states": (20, 16)},
    ),
)
