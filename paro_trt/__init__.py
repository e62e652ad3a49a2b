"""paro_trt: PAROAttention from a diffusers model to ONNX and TensorRT."""

__version__ = "0.1.0"
