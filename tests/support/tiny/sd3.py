"""Tiny Stable Diffusion 3: 3.5 medium with its second attention, 3.5 large, and 3.0."""

from .model import TinyModel

_CONFIG = {
    "sample_size": 32,
    "in_channels": 4,
    "out_channels": 4,
    "num_layers": 2,
    "attention_head_dim": 64,
    "num_attention_heads": 2,
    "joint_attention_dim": 32,
    "caption_projection_dim": 128,
    "pooled_projection_dim": 8,
    "pos_embed_max_size": 20,
}


def _variant(name: str, **config: object) -> TinyModel:
    return TinyModel(
        name=name,
        class_name="SD3Transformer2DModel",
        config=_CONFIG | config,
        latent_size=(1, 32, 32),
        odd_latent_size=(1, 30, 22),
        prompt={"encoder_hidden_states": (13, 32)},
    )


VARIANTS = (
    _variant("sd3.5-medium", qk_norm="rms_norm", dual_attention_layers=(0,)),
    _variant("sd3.5-large", qk_norm="rms_norm"),
    _variant("sd3"),
)
