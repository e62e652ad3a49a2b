"""Reading and describing ONNX files, for the exporter, the engine builder and the runtimes.

Nothing here imports them.
"""
