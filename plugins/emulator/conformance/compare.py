#!/usr/bin/env python3
"""Compare two conformance dumps: compare.py gpu.bin emulator.bin

The exit status is 0 if every section that both dumps have agrees. The script lists the sections
that only one dump has: a GPU without TMA and wgmma writes no sections for them.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import NamedTuple

import numpy as np


class Section(NamedTuple):
    kind: str
    tolerance: float
    values: np.ndarray


def read_dump(path: Path) -> dict[str, Section]:
    """The sections of a dump by name. Raises ValueError if the file is not a dump."""
    data = path.read_bytes()
    sections: dict[str, Section] = {}
    position = 0
    while position < len(data):
        end = data.find(b"\n", position)
        fields = data[position:end].decode("ascii", "replace").split() if end >= 0 else []
        if len(fields) != 4 or fields[1] not in ("u32", "f32"):
            raise ValueError(f"{path}: no section header at byte {position}")
        name, kind, count, tolerance = fields[0], fields[1], int(fields[2]), float(fields[3])
        position = end + 1 + 4 * count
        if position > len(data):
            raise ValueError(f"{path}: section {name} is truncated")
        dtype = "<u4" if kind == "u32" else "<f4"
        values = np.frombuffer(data, dtype, count, end + 1)
        sections[name] = Section(kind, tolerance, values)
    return sections


def difference(one: Section, other: Section) -> str | None:
    """The first difference between two sections, or None."""
    if one.kind != other.kind or one.values.size != other.values.size:
        return "shapes differ: the dumps come from different versions"
    if one.kind == "u32":
        wrong = np.flatnonzero(one.values != other.values)
    else:
        a, b = one.values.astype(np.float64), other.values.astype(np.float64)
        with np.errstate(invalid="ignore"):
            close = np.abs(a - b) <= one.tolerance * np.maximum(1.0, np.abs(b))
        wrong = np.flatnonzero(~close)
    if wrong.size == 0:
        return None
    first = int(wrong[0])
    return (
        f"{wrong.size} of {one.values.size} words differ, "
        f"first at {first}: {one.values[first]} and {other.values[first]}"
    )


def main(arguments: list[str]) -> int:
    if len(arguments) != 2:
        print(__doc__)
        return 2
    try:
        one, other = (read_dump(Path(argument)) for argument in arguments)
    except (OSError, ValueError) as error:
        print(error)
        return 2
    common = [name for name in one if name in other]
    failed = not common
    for name in common:
        found = difference(one[name], other[name])
        failed |= found is not None
        print(f"{name:32} {found or 'equal' if one[name].kind == 'u32' else found or 'close'}")
    for name in sorted(one.keys() ^ other.keys()):
        print(f"{name:32} only in {arguments[0] if name in one else arguments[1]}")
    print("DIFFERENT" if failed else f"{len(common)} sections agree")
    return int(failed)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
