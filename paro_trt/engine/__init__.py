"""TensorRT engines: building and loading them, their manifests, and the plugin."""

from .errors import BuildError, EngineError
from .manifest import EngineManifest
from .manifest_file import read_manifest
from .settings import BuildSettings, SizeRange
from .tensorrt_api import Flavour

__all__ = [
    "BuildError",
    "BuildSettings",
    "EngineError",
    "EngineManifest",
    "Flavour",
    "SizeRange",
    "read_manifest",
]
