"""The model-local function that defines PAROAttention in standard ONNX operators."""

from .function import attention_function
from .stages import Features

__all__ = ["Features", "attention_function"]
