"""Reading and describing ONNX files."""
