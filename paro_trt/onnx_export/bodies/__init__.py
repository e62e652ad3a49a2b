"""The model-local function that defines PAROAttention in standard ONNX operators."""

from .function import attention_function
from .smooth import MOST_CHANNELS
from .stages import Features

__all__ = ["MOST_CHANNELS", "Features", "attention_function"]
