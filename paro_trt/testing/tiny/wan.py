"""Tiny Wan."""

from ..tiny_wan import LATENT_SHAPE, TINY_WAN_CONFIG
from .model import TinyModel

VARIANTS = (
    TinyModel(
        name="wan",
        class_name="WanTransformer3DModel",
        config=TINY_WAN_CONFIG,
        latent_size=LATENT_SHAPE[1:],
        odd_latent_size=(3, 14, 10),
    ),
)
