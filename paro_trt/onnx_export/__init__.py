"""ONNX files: exporting a model with its plan, checking and describing what was written."""

from .bodies import Body
from .check import ExportReport, check_export
from .exporter import export_onnx, export_resolutions
from .inspect import describe_onnx

__all__ = [
    "Body",
    "ExportReport",
    "check_export",
    "describe_onnx",
    "export_onnx",
    "export_resolutions",
]
