"""Exports a model with its plan to an ONNX file, and checks the written file."""

from ..onnx_file.read import Body
from .check import ExportReport, check_export
from .exporter import export_onnx, export_resolutions

__all__ = [
    "Body",
    "ExportReport",
    "check_export",
    "export_onnx",
    "export_resolutions",
]
