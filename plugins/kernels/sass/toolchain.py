"""nvcc and nvdisasm: where they are, and kernels compiled for one target."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sysconfig
from dataclasses import dataclass
from pathlib import Path

PLUGINS = Path(__file__).resolve().parents[2]

# Those of plugins/cmake/Cuda.cmake in a release build. Mean correction has no budget.
_FLAGS = ("-std=c++20", "-O3", "-DNDEBUG", "--expt-relaxed-constexpr", "-DPARO_BUDGETED_ALONE")

_REGISTERS = re.compile(r"Compiling entry function '(\w+)'.*?Used (\d+) registers", re.DOTALL)


class ToolError(Exception):
    """A tool is missing or failed; the message says which and how."""


@dataclass(frozen=True)
class Disassembly:
    """nvdisasm's listing of a cubin, and ptxas's count of registers by mangled name."""

    listing: str
    registers: dict[str, int]


@dataclass(frozen=True)
class Toolchain:
    """Paths of the tools, and nvcc's version, such as "13.0"."""

    nvcc: Path
    nvdisasm: Path
    version: str

    def disassemble(self, source: Path, target: str) -> Disassembly:
        """A source file compiled for sm_<target>; the cubin is next to it."""
        cubin = source.with_suffix(f".{target}.cubin")
        flags = [*_FLAGS, f"-I{PLUGINS}", f"-I{PLUGINS / 'include'}", f"-arch=sm_{target}"]
        remarks = _run(self.nvcc, *flags, "-Xptxas=-v", "-cubin", source, "-o", cubin).stderr
        registers = {name: int(count) for name, count in _REGISTERS.findall(remarks)}
        return Disassembly(_run(self.nvdisasm, "-c", "-hex", cubin).stdout, registers)


def find_toolchain() -> Toolchain:
    """The machine's tools, or those of wheels in this Python's environment.

    Raises:
        ToolError: one is missing.
    """
    nvcc = _find("nvcc", os.environ.get("CUDACXX"))
    said = _run(nvcc, "--version").stdout
    return Toolchain(nvcc, _find("nvdisasm"), re.findall(r"release (\d+\.\d+)", said)[0])


def targets() -> list[str]:
    """Of the shipped library, such as "90a"."""
    cmake = (PLUGINS / "cmake" / "Cuda.cmake").read_text()
    return re.findall(r"set\(PARO_CUDA_TARGETS\s+([\w ]+)", cmake)[0].split()


def is_compiled_for(source: str, target: str) -> bool:
    """Whether a target has the instructions of a source file, by the end of the file's name as in
    plugins/kernels/instances.cmake."""
    if source.endswith("_wgmma"):
        return target == "90a"
    if source.endswith(("_native", "_unpacked")):
        return source.endswith("_native") == target.startswith("8")
    return True


def sources(folder: Path) -> list[Path]:
    """Writes the source files that instantiate all kernels."""
    script = PLUGINS / "kernels" / "instances.cmake"
    cmake = _find("cmake")
    _run(cmake, f"-DFOLDER={folder}", "-P", script)
    return sorted(folder.glob("*.cu"))


def _find(name: str, given: str | None = None) -> Path:
    wheels = Path(sysconfig.get_path("purelib"), "nvidia", "cu13", "bin", name)
    toolkit = Path(os.environ.get("CUDA_HOME", "/usr/local/cuda"), "bin", name)
    for path in (given, shutil.which(name), toolkit, wheels):
        if path and os.access(path, os.X_OK):
            return Path(path)
    raise ToolError(
        f"{name}: expected on the PATH, in {toolkit.parent} or in {wheels.parent}, found none; "
        f"pip install -r plugins/cmake/cuda-wheels.txt nvidia-cuda-nvdisasm"
    )


def _run(*command: str | Path) -> subprocess.CompletedProcess[str]:
    words = list(map(str, command))
    result = subprocess.run(words, capture_output=True, text=True)
    if result.returncode != 0:
        raise ToolError(f"{' '.join(words)}: {result.stderr[-3000:]}")
    return result
