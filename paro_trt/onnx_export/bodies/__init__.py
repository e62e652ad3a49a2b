"""The model-local function that gives PAROAttention a meaning in standard ONNX operators."""

from .function import Body, attention_function

__all__ = ["Body", "attention_function"]
