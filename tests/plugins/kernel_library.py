"""The emulated kernels as a library, built once a worker."""

from __future__ import annotations

import functools
from pathlib import Path

from paro_trt import native

from .emulator_builds import PLUGINS, ROOT, require, run


def build_folder(worker: str) -> Path:
    """Each worker's own: they may start together."""
    return ROOT / "build" / f"kernels-{worker}"


@functools.cache
def emulated_kernels(worker: str) -> native.NativeLibrary:
    """Built as it is now, or a skip where the tools for it are missing."""
    require("cmake", "g++", "ninja")
    folder = build_folder(worker)
    flags = ["-DCMAKE_BUILD_TYPE=Test", "-DCMAKE_CXX_FLAGS_TEST=-O1", "-DPARO_BUILD_CPU=OFF"]
    run(["cmake", "-S", PLUGINS, "-B", folder, "-G", "Ninja", *flags, "-DPARO_BUILD_TENSORRT=OFF"])
    run(["cmake", "--build", folder, "--target", "paro_emulated"])
    return native.NativeLibrary(folder / "kernels" / "libparo_emulated.so")
