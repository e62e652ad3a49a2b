"""The native libraries of this package: where each is, and whether it loads and computes.

Each library that exists is loaded in a process of its own.
"""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from ..errors import ParoError
from ..library_files import LIBRARY_DIRECTORY_VARIABLE, library_path
from .probes import Component, in_process

PLUGIN, AUTOREG, ORT_CUDA = "attention", "attention_autoreg", "onnxruntime_cuda"

_INSTALL = "install g++ 11 or later, then: python -m pip install --force-reinstall --no-deps -e ."
_MAKE_EMULATED = "make emulated"
_MAKE_PLUGIN = "make plugin (docs/tensorrt-plugin.md)"

KNOWN = {
    "cpu": ("the op on the CPU, fast", _INSTALL),
    "onnxruntime": ("the same in ONNX Runtime", _INSTALL),
    "emulated": ("the CUDA kernels run on the CPU, for tests", _MAKE_EMULATED),
    ORT_CUDA: ("the op in ONNX Runtime on a GPU, by the plugin's kernels", _MAKE_PLUGIN),
    PLUGIN: ("CUDA kernels and plugin: Python, C++, trtexec --dynamicPlugins", _MAKE_PLUGIN),
    AUTOREG: ("the same for trtexec --staticPlugins, Polygraphy, Triton, ORT", _MAKE_PLUGIN),
}
"""Each library's purpose and the command that makes it."""

_TRIAL = """
import sys
from paro_trt.doctor import trial
from paro_trt.errors import ParoError
try:
    print(getattr(trial, sys.argv[1])(*sys.argv[2:]))
except ParoError as error:
    sys.exit(error.actual)
"""


def examine_libraries() -> tuple[Component, ...]:
    """One component a library of `KNOWN`, in its order."""
    with ThreadPoolExecutor() as pool:
        return tuple(pool.map(_component, KNOWN))


def computes(impl: str) -> tuple[bool, str]:
    """Whether an implementation of the op computes here, tried in a process, or why not."""
    return in_process(_TRIAL, "compute", impl)


def _component(name: str) -> Component:
    try:
        present, detail = _tried(name, library_path(name))
    except ParoError as error:
        present, detail = False, error.actual
    purpose, command = KNOWN[name]
    remedy = "" if present else _remedy(command)
    return Component(f"libparo_{name}", present, detail, purpose, remedy)


def _remedy(command: str) -> str:
    """The command that makes a library, and what the variable has to do with its absence."""
    own = os.environ.get(LIBRARY_DIRECTORY_VARIABLE)
    if own:
        return f"{command}; or unset {LIBRARY_DIRECTORY_VARIABLE}, now {own}"
    if command == _INSTALL:
        return command
    return f"{command}; or set {LIBRARY_DIRECTORY_VARIABLE} to its directory"


def _tried(name: str, path: Path) -> tuple[bool, str]:
    if name == "onnxruntime":
        return in_process(_TRIAL, "register_custom_op")
    if name not in (AUTOREG, ORT_CUDA):
        return in_process(_TRIAL, "describe_plugin" if name == PLUGIN else "describe", name)
    core = path.with_name(f"libparo_{PLUGIN}.so")
    return (True, str(path)) if core.is_file() else (False, f"{path}: no {core.name} next to it")
