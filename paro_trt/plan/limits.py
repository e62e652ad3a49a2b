"""Absolute limits of a plan, far above any real model.

They bound what a hostile file can make a reader allocate or compute. FORMAT.md states them.
"""

from ..op.spec import MAX_TOKENS

__all__ = [
    "MAX_BINS",
    "MAX_HEADER_BYTES",
    "MAX_HEADS",
    "MAX_HEAD_DIM",
    "MAX_LABEL",
    "MAX_LAYERS",
    "MAX_MASK_BYTES",
    "MAX_ORDERS",
    "MAX_TIMESTEP",
    "MAX_TOKENS",
]

MAX_HEADER_BYTES = 16 << 20
MAX_ORDERS = 4096
MAX_LAYERS = 4096
MAX_HEADS = 1024
MAX_HEAD_DIM = 1024
MAX_BINS = 64
MAX_MASK_BYTES = 2 << 30
MAX_LABEL = 256

# Timesteps are in the model's units; this one is pure noise.
MAX_TIMESTEP = 1000.0
