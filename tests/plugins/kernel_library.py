"""The emulated kernels as a library, built once; what it gives in the modes there are."""

from __future__ import annotations

import functools
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from paro_trt.op import native
from paro_trt.op.spec import AttentionConfig, AttentionInputs
from tests.native_builds import PLUGINS, ROOT, plugins_build

from .emulator_builds import run


def emulated_kernels_build() -> Path:
    """The folder of the build, with the library and its objects."""
    return plugins_build("plain", "paro_emulated")


def link_with_kernels(unit: Path, library: Path) -> None:
    """The emulated kernels and one more source file, compiled, as a library of their own."""
    built = emulated_kernels_build()
    objects = (built / "kernels/CMakeFiles/paro_emulated_objects.dir").rglob("*.o")
    emulator = built / "emulator" / "libparo_emulator.a"
    compiled = unit.with_suffix(".o")
    run(["g++", "-std=c++20", "-O1", "-fPIC", f"-I{PLUGINS}", "-c", unit, "-o", compiled])
    run(["g++", "-shared", compiled, *objects, emulator, "-o", library])


@functools.cache
def emulated_kernels() -> native.NativeLibrary:
    """Built as it is now, or a skip where the tools for it are missing."""
    return native.NativeLibrary(emulated_kernels_build() / "kernels" / "libparo_emulated.so")


# Options are read when a library is first used, and each copy is a library of its own.
_RUN_IN_MODES = """
import os, shutil, sys, torch
from pathlib import Path
from paro_trt.op import native
folder, (calls, expected, modes) = Path(sys.argv[2]), torch.load(sys.argv[3], weights_only=False)
for number, (name, mode) in enumerate(modes.items()):
    for variable in ("PARO_EMULATOR_LATE", "PARO_EMULATOR_SEED", "PARO_EMULATOR_THREADS"):
        os.environ.pop(variable, None)
    os.environ.update(mode)
    copy = shutil.copy(sys.argv[1], folder / f"copy{number}.so")
    try:
        library = native.NativeLibrary(Path(copy))
        outputs = [library.forward(*call, sm=int(sys.argv[4])) for call in calls]
        same = all(
            torch.equal(output.nan_to_num(9.0), value.nan_to_num(9.0))
            for output, value in zip(outputs, expected, strict=True)
        )
        print(name, "-" if same else "wrong result", sep=": ")
    except native.NativeError as error:
        print(name, str(error).partition("CUDA emulator: ")[2].split()[0], sep=": ")
"""


def seen_in_modes(
    library: Path,
    calls: Sequence[tuple[AttentionInputs, AttentionConfig]],
    expected: Sequence[Tensor],
    modes: dict[str, dict[str, str]],
    folder: Path,
    sm: int = 90,
) -> dict[str, str]:
    """For each mode "-" where all outputs are as expected, "wrong result", or the diagnosis; modes
    after one that ended the process are missing. `sm` is the GPU whose kernels are meant."""
    stored = folder / "calls.pt"
    torch.save((list(calls), list(expected), modes), stored)
    result = subprocess.run(
        [sys.executable, "-c", _RUN_IN_MODES, str(library), str(folder), str(stored), str(sm)],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        timeout=540,
    )
    return dict(line.split(": ") for line in result.stdout.splitlines() if ": " in line)
