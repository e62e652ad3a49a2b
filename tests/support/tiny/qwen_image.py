"""Tiny Qwen-Image: text to image, Edit, Edit with two references, and Edit as of 2511."""

from .model import TinyModel

_CONFIG = {
    "in_channels": 16,
    "out_channels": 4,
    "num_layers": 2,
    "attention_head_dim": 64,
    "num_attention_heads": 2,
    "joint_attention_dim": 32,
    "axes_dims_rope": (16, 24, 24),
}


def _variant(name: str, images: int, **config: object) -> TinyModel:
    return TinyModel(
        name=name,
        class_name="QwenImageTransformer2DModel",
        config=_CONFIG | config,
        latent_size=(images, 32, 32) if images == 1 else (images, 16, 20),
        odd_latent_size=(images, 30, 22) if images == 1 else (images, 14, 10),
        oldest_diffusers=(0, 37),
        prompt={"encoder_hidden_states": (20, 32)},
    )


VARIANTS = (
    _variant("qwen_image", 1),
    _variant("qwen_image-edit", 2),
    _variant("qwen_image-edit-plus", 3),
    _variant("qwen_image-edit-2511", 2, zero_cond_t=True),
)
