"""The native libraries of this package: where each is, and what it does when loaded.

Each is loaded in a process of its own, and only where it is there.
"""

from __future__ import annotations

import json
from pathlib import Path

from .probes import Component, in_process

PLUGIN, AUTOREG = "attention", "attention_autoreg"

_INSTALL = "install g++ 11 or later, then: python -m pip install --force-reinstall --no-deps -e ."
_MAKE_EMULATED = "make emulated; or set PARO_LIBRARY_DIR to its directory"
_MAKE_PLUGIN = "make plugin (docs/tensorrt-plugin.md); or set PARO_LIBRARY_DIR to its directory"

KNOWN = {
    "cpu": ("the op on the CPU, fast", _INSTALL),
    "onnxruntime": ("the same in ONNX Runtime", _INSTALL),
    "emulated": ("the CUDA kernels run on the CPU, for tests", _MAKE_EMULATED),
    PLUGIN: ("CUDA kernels and plugin: Python, C++, trtexec --dynamicPlugins", _MAKE_PLUGIN),
    AUTOREG: ("the same for trtexec --staticPlugins, Polygraphy, Triton, ORT", _MAKE_PLUGIN),
}
"""Each library's purpose and the command that makes it."""

_LOCATE = """
import json, sys
from paro_trt.errors import ParoError
from paro_trt.native import library_path
places = {}
for name in sys.argv[1:]:
    try:
        places[name] = [True, str(library_path(name))]
    except ParoError as error:
        places[name] = [False, error.actual]
print(json.dumps(places))
"""

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
    located, said = in_process(_LOCATE, *KNOWN)
    places = json.loads(said) if located else dict.fromkeys(KNOWN, (False, said))
    return tuple(_component(name, *places[name]) for name in KNOWN)


def computes(impl: str) -> tuple[bool, str]:
    """Whether an implementation of the op computes here, tried in a process, or why not."""
    return in_process(_TRIAL, "compute", impl)


def _component(name: str, present: bool, detail: str) -> Component:
    if present:
        present, detail = _tried(name, detail)
    purpose, remedy = KNOWN[name]
    return Component(f"libparo_{name}", present, detail, purpose, "" if present else remedy)


def _tried(name: str, path: str) -> tuple[bool, str]:
    if name == "onnxruntime":
        return in_process(_TRIAL, "register_custom_op")
    if name != AUTOREG:
        return in_process(_TRIAL, "describe_plugin" if name == PLUGIN else "describe", name)
    core = Path(path).with_name(f"libparo_{PLUGIN}.so")
    return (True, path) if core.is_file() else (False, f"{path}: no {core.name} beside it")
