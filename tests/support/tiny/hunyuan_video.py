"""Tiny HunyuanVideo, distilled and not."""

from .model import TinyModel

_CONFIG = {
    "in_channels": 4,
    "out_channels": 4,
    "num_attention_heads": 2,
    "attention_head_dim": 64,
    "num_layers": 1,
    "num_single_layers": 2,
    "num_refiner_layers": 1,
    "mlp_ratio": 1.0,
    "text_embed_dim": 16,
    "pooled_projection_dim": 8,
    "rope_axes_dim": (16, 24, 24),
}

VARIANTS = tuple(
    TinyModel(
        name=name,
        class_name="HunyuanVideoTransformer3DModel",
        config=_CONFIG | {"guidance_embeds": guidance},
        latent_size=(2, 16, 16),
        odd_latent_size=(3, 14, 10),
        prompt={"encoder_hidden_states": (20, 16)},
    )
    for name, guidance in (("hunyuan_video", True), ("hunyuan_video-undistilled", False))
)
