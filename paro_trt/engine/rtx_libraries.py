"""Libraries of TensorRT for RTX under the names that its parser opens them by.

The parser opens `libtensorrt_rtx.so`; the wheel ships `libtensorrt_rtx.so.1` alone, and the parser
ends the process where it finds none [1.7.1]. Both libraries look next to themselves first, so that
links in a folder of our own, opened before the package is imported, are all it takes.
"""

from __future__ import annotations

import atexit
import ctypes
import importlib.util
import shutil
import sys
import tempfile
from functools import cache
from pathlib import Path

from ..errors import BackendUnavailableError

PACKAGE, FOLDER = "tensorrt_rtx", "tensorrt_rtx_libs"
CORE, PARSER = "libtensorrt_rtx.so", "libtensorrt_onnxparser_rtx.so"


@cache
def open_rtx_libraries() -> None:
    """Make the parser find its library. Call before `import tensorrt_rtx`; harmless if repeated.

    Nothing is done where the package brings no libraries of its own: the loader's path has them.

    Raises:
        BackendUnavailableError: the package was imported before, or a library does not load.
    """
    folder = _library_folder()
    if folder is None or sys.platform != "linux" or _core_is_found():
        return
    if PACKAGE in sys.modules:
        raise BackendUnavailableError(
            "TensorRT for RTX",
            expected="to be imported by paro_trt first",
            actual=f"{PACKAGE} imported before, whose parser does not find {CORE}",
            remedy="load or build an engine through paro_trt before importing it",
        )
    links = Path(tempfile.mkdtemp(prefix="paro-rtx-"))
    atexit.register(shutil.rmtree, links, ignore_errors=True)
    for name in (CORE, PARSER):
        for file in sorted(folder.glob(f"{name}*")):
            (links / file.name).symlink_to(file)
            if not (links / name).exists():
                (links / name).symlink_to(file)
    try:
        for name in (CORE, PARSER):
            ctypes.CDLL(str(links / name))
    except OSError as error:
        raise BackendUnavailableError(
            "TensorRT for RTX",
            expected=f"the libraries in {folder} to load",
            actual=str(error)[:200],
            remedy="pip install tensorrt-rtx --force-reinstall",
        ) from error


def _library_folder() -> Path | None:
    """Where the package's wheel has its libraries; None where there is no such wheel."""
    spec = importlib.util.find_spec(FOLDER)
    if spec is None or spec.origin is None:
        return None
    return Path(spec.origin).resolve().parent


def _core_is_found() -> bool:
    """Whether the loader's own path has the library."""
    try:
        ctypes.CDLL(CORE)
    except OSError:
        return False
    return True
