"""The model-local function that gives PAROAttention a meaning in standard ONNX operators."""

from .function import Body, attention_function, body_of

__all__ = ["Body", "attention_function", "body_of"]
