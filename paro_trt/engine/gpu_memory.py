"""Which GPUs have memory for an engine."""

from __future__ import annotations

GPU_MEMORY = {
    "12 GB": 12, "16 GB (RTX 4080, 5080)": 16, "24 GB (RTX 3090, 4090)": 24,
    "32 GB (RTX 5090)": 32, "48 GB (L40S, A6000)": 48, "80 GB (A100, H100)": 80,
    "141 GB (H200)": 141,
}  # fmt: skip
"""Sizes of GPUs in 10^9 bytes and what has them, in order."""

_HEADROOM = 1 << 30
"""What CUDA, TensorRT's own objects and a desktop take: an estimate."""


def fits(total: int) -> str:
    """The smallest GPU of `GPU_MEMORY` that holds so many bytes, and room for CUDA itself."""
    for name, size in GPU_MEMORY.items():
        if total + _HEADROOM <= size * 10**9:
            return f"GPUs from {name}"
    return "no single GPU up to 141 GB: weight streaming, or a smaller --batch or --video"
