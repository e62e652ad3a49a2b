"""Tiny HunyuanVideo-1.5, text to video and image to video."""

from .model import TinyModel

_CONFIG = {
    "in_channels": 9,
    "out_channels": 4,
    "num_attention_heads": 2,
    "attention_head_dim": 64,
    "num_layers": 2,
    "num_refiner_layers": 2,
    "mlp_ratio": 1.0,
    "text_embed_dim": 16,
    "text_embed_2_dim": 12,
    "image_embed_dim": 8,
    "rope_axes_dim": (16, 24, 24),
}
_TEXT = {"encoder_hidden_states": (20, 16), "encoder_hidden_states_2": (256, 12)}

VARIANTS = tuple(
    TinyModel(
        name=f"hunyuan_video15-{task}",
        class_name="HunyuanVideo15Transformer3DModel",
        config=_CONFIG | {"task_type": task},
        latent_size=(2, 8, 8),
        odd_latent_size=(3, 7, 5),
        oldest_diffusers=(0, 36),
        prompt=_TEXT | image,
    )
    for task, image in (("t2v", {}), ("i2v", {"image_embeds": (729, 8)}))
)
