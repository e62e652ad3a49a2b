"""Compare this project's declarations of TensorRT's plugin interface with real headers.

    python check.py HEADERS_DIR [HEADERS_DIR ...]      what `make abi-check HEADERS=dir` runs
    python check.py                                    compare with measured_layout.txt alone

print_layout.cpp is compiled against each and its lines are compared. Needs g++ (or $CXX) and
nothing of CUDA. Ends with 1 where a fact differs, with 2 where a directory holds no such headers.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
from pathlib import Path

ABI = Path(__file__).resolve().parent
MEASURED = ABI / "measured_layout.txt"
HEADER = "NvInferRuntime.h"
REGISTRY = "IPluginRegistry of TensorRT "


class HeadersError(Exception):
    """Headers that are not there or do not compile."""


def layout(options: list[str]) -> list[str]:
    """The lines that print_layout.cpp prints when compiled with these options."""
    with tempfile.TemporaryDirectory() as folder:
        program = Path(folder) / "print_layout"
        compiler = os.environ.get("CXX", "g++")
        command = [compiler, "-std=c++20", "-w", *options, str(ABI / "print_layout.cpp")]
        built = subprocess.run([*command, "-o", str(program)], capture_output=True, text=True)
        if built.returncode != 0:
            raise HeadersError(f"expected headers that compile, got:\n{built.stderr[:2000]}")
        printed = subprocess.run([str(program)], capture_output=True, text=True, check=True)
        return printed.stdout.splitlines()


def declared_layout() -> list[str]:
    """What this project declares."""
    return layout(["-DPARO_TRT_ABI_SHIM", f"-I{ABI}"])


def header_layout(headers: Path) -> list[str]:
    """What the headers in a directory declare."""
    if not (headers / HEADER).is_file():
        raise HeadersError(f"expected {HEADER} in {headers}, found none; name an include directory")
    return layout([f"-isystem{headers}", f"-isystem{ABI / 'cuda_stub'}"])


def measured_layout() -> list[str]:
    """What was measured on the releases that measured_layout.txt names."""
    return [line for line in MEASURED.read_text().splitlines() if not line.startswith("#")]


def differences(declared: list[str], real: list[str]) -> list[str]:
    """Facts of one side alone; "-" declared here, "+" real.

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
    """Print the outcome for one set of headers; whether all agree."""
    found = differences(declared, real)
    print(f"{name}: {len(real)} facts, {len(found)} lines differ")
    print("".join(f"  {line}\n" for line in found), end="")
    return not found


def main() -> int:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("headers", nargs="*", type=Path, help=f"directories that hold {HEADER}")
    arguments = parser.parse_args()
    try:
        declared = declared_layout()
        agree = report(MEASURED.name, declared, measured_layout())
        for headers in arguments.headers:
            agree &= report(str(headers), declared, header_layout(headers))
    except HeadersError as error:
        print(f"abi-check: {error}", file=sys.stderr)
        return 2
    return 0 if agree else 1


if __name__ == "__main__":
    sys.exit(main())
