"""Where this installation's native libraries lie, and the version of the C ABI that they must have.

Apart from `native`, which calls them on torch's tensors: engines are run without torch.
"""

from __future__ import annotations

import os
import sysconfig
from pathlib import Path

from .errors import BackendUnavailableError

ABI_VERSION = 3
"""PARO_ABI_VERSION of plugins/include/paro/paro_c.h."""

LIBRARY_DIRECTORY_VARIABLE = "PARO_LIBRARY_DIR"
"""Environment variable: the directory to look in, instead of the installed ones."""

BUILD_COMMANDS = {
    "attention": "make plugin",
    "attention_autoreg": "make plugin",
    "emulated": "make emulated",
    "onnxruntime_cuda": "make plugin",
}
"""For libraries that the wheel does not carry."""


def library_path(name: str) -> Path:
    """Where libparo_<name> of this installation is.

    Raises:
        BackendUnavailableError: it was not built.
    """
    file_name = f"libparo_{name}.so"
    own = os.environ.get(LIBRARY_DIRECTORY_VARIABLE)
    # An editable installation keeps what it built in site-packages, away from the sources; in any
    # other both are one directory.
    installed = Path(sysconfig.get_path("platlib")) / "paro_trt" / "lib"
    packaged = Path(__file__).parent / "lib"
    directories = [Path(own)] if own else list(dict.fromkeys((packaged, installed)))
    for directory in directories:
        if (directory / file_name).is_file():
            return directory / file_name
    command = BUILD_COMMANDS.get(name)
    compiler = "install a C++20 compiler (g++ 11 or later), then: pip install --force-reinstall ."
    unset = f"; or unset {LIBRARY_DIRECTORY_VARIABLE}, now {own}" if own else ""
    raise BackendUnavailableError(
        file_name,
        expected=f"{file_name} in {' or '.join(map(str, directories))}",
        actual="no such file",
        remedy=(f"build it: {command}" if command else compiler) + unset,
    )
