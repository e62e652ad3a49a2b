"""The model-local function that defines PAROAttention in standard ONNX operators."""

from .function import attention_function

__all__ = ["attention_function"]
