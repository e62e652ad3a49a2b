"""`paro-trt export`."""


def export() -> None:
    """Write an ONNX file."""
