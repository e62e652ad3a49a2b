"""Absolute limits of a plan, far above any real model.

They bound what a hostile file can make a reader allocate or compute.
"""

MAX_HEADER_BYTES = 16 << 20
MAX_TOKENS = 1 << 24
MAX_ORDERS = 4096
MAX_LAYERS = 4096
MAX_HEADS = 1024
MAX_HEAD_DIM = 1024
MAX_BINS = 64
MAX_MASK_BYTES = 2 << 30
MAX_LABEL = 256

# Timesteps are in the model's units; this one is pure noise.
MAX_TIMESTEP = 1000.0
