"""The model-local function that gives PAROAttention a meaning in standard ONNX operators."""

from .function import attention_function

__all__ = ["attention_function"]
