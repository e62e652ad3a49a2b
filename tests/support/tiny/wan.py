"""Tiny Wan: text to video, image to video by channels (2.2), with CLIP (2.1), of two images, and
text and image to video (2.2 TI2V)."""

from ..tiny_wan import LATENT_SHAPE, TINY_WAN_CONFIG
from .model import TinyModel

_CHANNELS = LATENT_SHAPE[0]
_CLIP = {
    "in_channels": 2 * _CHANNELS + 4,
    "image_dim": 24,
    "added_kv_proj_dim": 128,
}


def _variant(name: str, **config: object) -> TinyModel:
    return TinyModel(
        name=name,
        class_name="WanTransformer3DModel",
        config=TINY_WAN_CONFIG | config,
        latent_size=LATENT_SHAPE[1:],
        odd_latent_size=(3, 14, 10),
    )


VARIANTS = (
    _variant("wan"),
    _variant("wan-2.2-i2v", in_channels=2 * _CHANNELS + 4),
    _variant("wan-2.1-i2v", **_CLIP),
    _variant("wan-2.1-flf2v", **_CLIP, pos_embed_seq_len=14),
    _variant("wan-2.2-ti2v", in_channels=48, out_channels=48),
)
