"""Compare this project's declarations of TensorRT's plugin interface with real headers.

    python check.py HEADERS_DIR [HEADERS_DIR ...]      what `make abi-check HEADERS=dir` runs
    python check.py                                    compare with measured_layout.txt alone

HEADERS_DIR is an include directory, or an SDK that contains one. The script compiles
print_layout.cpp once with the project's declarations and once with each directory, and compares the
lines that the programs print. It needs g++ (or $CXX), but no CUDA. The exit status is 2 if a
directory holds no such headers, else 1 if a fact differs, else 0.
"""

from __future__ import annotations

import argparse
import os
import re
import shlex
import subprocess
import sys
import tempfile
from pathlib import Path

ABI = Path(__file__).resolve().parent
MEASURED = ABI / "measured_layout.txt"
HEADER, VERSION_HEADER = "NvInferRuntime.h", "NvInferVersion.h"
INCLUDE_FOLDERS = ("", "include", "include/x86_64-linux-gnu", "include/aarch64-linux-gnu")
REGISTRY = "IPluginRegistry of TensorRT "
OLDEST_MAJOR = 10
"""The first major version whose plugins are of version 3."""


class HeadersError(Exception):
    """The headers are missing, too old or do not compile, or there is no compiler."""


def layout(options: list[str]) -> list[str]:
    """The lines that print_layout.cpp prints when it is compiled with these options."""
    compiler = shlex.split(os.environ.get("CXX", "")) or ["g++"]
    with tempfile.TemporaryDirectory() as folder:
        program = Path(folder) / "print_layout"
        command = [*compiler, "-std=c++20", "-w", *options, str(ABI / "print_layout.cpp")]
        try:
            built = subprocess.run([*command, "-o", str(program)], capture_output=True, text=True)
        except OSError as error:
            raise HeadersError(
                f"expected a C++ compiler, got {compiler[0]}: {error.strerror}; "
                "install g++ or set CXX"
            ) from error
        if built.returncode != 0:
            raise HeadersError(f"expected headers that compile, got {_first_error(built.stderr)}")
        printed = subprocess.run([str(program)], capture_output=True, text=True, check=True)
        return printed.stdout.splitlines()


def _first_error(said: str) -> str:
    """The compiler's first error in one line, and the number of further errors."""
    errors = [line for line in said.splitlines() if "error:" in line]
    first = (errors or said.strip().splitlines() or ["no reason"])[0]
    return first + (f" (and {len(errors) - 1} more)" if len(errors) > 1 else "")


def declared_layout() -> list[str]:
    """The lines for this project's declarations."""
    return layout(["-DPARO_TRT_ABI_SHIM", f"-I{ABI}"])


def header_layout(headers: Path) -> list[str]:
    """The lines for the headers in an include directory."""
    version = header_version(headers)
    if version and int(version.partition(".")[0]) < OLDEST_MAJOR:
        raise HeadersError(f"expected TensorRT {OLDEST_MAJOR} or later, got {version}")
    return layout([f"-isystem{headers}", f"-isystem{ABI / 'cuda_stub'}"])


def include_folder(named: Path) -> Path:
    """The directory that holds the headers: the one named, or the include directory of an SDK."""
    for folder in INCLUDE_FOLDERS:
        if (named / folder / HEADER).is_file():
            return named / folder
    raise HeadersError(
        f"expected {HEADER} there or in its include, found "
        + ("none" if named.is_dir() else "no such directory")
        + "; name an include directory or an SDK"
    )


def header_version(headers: Path) -> str:
    """The version, such as "10.16.0", or "" if the headers have none. 10 and 11 differ."""
    path = headers / VERSION_HEADER
    text = path.read_text(errors="replace") if path.is_file() else ""
    defines = dict(re.findall(r"^#define\s+(\w+)\s+(\w+)", text, re.MULTILINE))
    names = (f"NV_TENSORRT_{part}" for part in ("MAJOR", "MINOR", "PATCH"))
    numbers = [defines.get(defines.get(name, ""), defines.get(name, "")) for name in names]
    return ".".join(numbers) if all(number.isdecimal() for number in numbers) else ""


def measured_layout() -> list[str]:
    """The lines that were measured on the releases that measured_layout.txt names."""
    return [line for line in MEASURED.read_text().splitlines() if not line.startswith("#")]


def differences(declared: list[str], real: list[str]) -> list[str]:
    """The lines that only one side has: "-" for this project's declarations, "+" for real headers.

    Registries are compared for the major versions that `real` knows.
    """
    majors = {line.split(":")[0] for line in real if line.startswith(REGISTRY)}
    ours = [
        line for line in declared if not line.startswith(REGISTRY) or line.split(":")[0] in majors
    ]
    return [f"- {line}" for line in ours if line not in real] + [
        f"+ {line}" for line in real if line not in ours
    ]


def report(name: str, declared: list[str], real: list[str]) -> bool:
    """Print the outcome for one set of headers, and return whether all lines agree."""
    found = differences(declared, real)
    print(f"{name}: {len(real)} facts, {len(found)} lines differ")
    print("".join(f"  {line}\n" for line in found), end="")
    return not found


def check_headers(named: Path, declared: list[str]) -> int:
    """Compare with one directory: 0 if all agree, 1 if a fact differs, 2 if it has no headers."""
    try:
        headers = include_folder(named)
        real = header_layout(headers)
    except HeadersError as error:
        print(f"abi-check: {named}: {error}", file=sys.stderr)
        return 2
    version = header_version(headers)
    return 0 if report(f"{named} ({version})" if version else str(named), declared, real) else 1


def main() -> int:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("headers", nargs="*", type=Path, help=f"directories that hold {HEADER}")
    arguments = parser.parse_args()
    try:
        declared = declared_layout()
    except HeadersError as error:
        print(f"abi-check: {error}", file=sys.stderr)
        return 2
    agrees = report(MEASURED.name, declared, measured_layout())
    return max([0 if agrees else 1, *(check_headers(path, declared) for path in arguments.headers)])


if __name__ == "__main__":
    sys.exit(main())
