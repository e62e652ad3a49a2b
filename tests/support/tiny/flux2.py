"""Tiny Flux.2: dev, klein, and dev with one and with two reference images."""

from .model import TinyModel

_CONFIG = {
    "in_channels": 16,
    "num_layers": 1,
    "num_single_layers": 2,
    "num_attention_heads": 2,
    "attention_head_dim": 64,
    "joint_attention_dim": 32,
    "timestep_guidance_channels": 32,
    "mlp_ratio": 1.0,
    "axes_dims_rope": (16, 16, 16, 16),
}


def _variant(name: str, images: int, *, guidance: bool) -> TinyModel:
    return TinyModel(
        name=name,
        class_name="Flux2Transformer2DModel",
        config=_CONFIG | {"guidance_embeds": guidance},
        latent_size=(images, 32, 32) if images == 1 else (images, 16, 20),
        odd_latent_size=(images, 30, 22) if images == 1 else (images, 14, 10),
        oldest_diffusers=(0, 37),
        prompt={"encoder_hidden_states": (12, 32)},
    )


VARIANTS = (
    _variant("flux2-dev", 1, guidance=True),
    _variant("flux2-klein", 1, guidance=False),
    _variant("flux2-reference", 2, guidance=True),
    _variant("flux2-references", 3, guidance=True),
    _variant("flux2-klein-reference", 2, guidance=False),
)
