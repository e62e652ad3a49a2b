"""The import graph of the package: no cycle between modules, and no arrow from a lower layer up.

All imports count: at the top of a file, inside a function, and for type checkers alone.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

LAYERS = (
    ("errors", "files", "file_kinds", "documents", "library_files", "nvidia"),
    ("op",),
    ("plan",),
    ("families",),
    ("models", "onnx_file"),
    ("calibration", "onnx_export", "engine", "report"),
    ("runtime",),
    ("pipelines",),
    ("verification", "bench", "doctor"),
    ("api",),
    ("cli",),
)
"""Modules and packages of `paro_trt` from the bottom up. A layer imports its own and lower ones;
two names of one layer do not import each other in both directions."""


def modules() -> dict[str, Path]:
    """Every module of the package by its dotted name."""
    found = {}
    for file in sorted((ROOT / "paro_trt").rglob("*.py")):
        parts = file.relative_to(ROOT).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = file
    return found


def imported(name: str, file: Path, known: set[str]) -> Iterator[str]:
    """Modules of the package that a module imports, submodules rather than their package."""
    package = name if file.name == "__init__.py" else name.rpartition(".")[0]
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name in known)
        elif isinstance(node, ast.ImportFrom):
            parts = package.split(".")
            base = ".".join(parts[: len(parts) - node.level + 1]) if node.level else ""
            target = ".".join(part for part in (base, node.module or "") if part)
            for alias in node.names:
                full = f"{target}.{alias.name}"
                yield from (
                    found for found in (full if full in known else target,) if found in known
                )


@pytest.fixture(scope="module")
def graph() -> dict[str, set[str]]:
    """Module -> the modules it imports. The package's own __init__ is the public API: not here."""
    files = modules()
    known = set(files)
    return {
        name: {other for other in imported(name, file, known) if other not in ("paro_trt", name)}
        for name, file in files.items()
        if name not in ("paro_trt", "paro_trt.__main__")
    }


def cycle(graph: dict[str, set[str]]) -> list[str]:
    """The first cycle found, as a path that ends where it began; empty without one."""
    done: set[str] = set()

    def visit(name: str, path: list[str]) -> list[str]:
        if name in path:
            return [*path[path.index(name) :], name]
        if name in done:
            return []
        for other in sorted(graph.get(name, ())):
            if found := visit(other, [*path, name]):
                return found
        done.add(name)
        return []

    return next((found for name in sorted(graph) if (found := visit(name, []))), [])


def room(module: str) -> str:
    """The package or single module of `paro_trt` that a module belongs to."""
    return module.split(".")[1]


def test_no_cycle_between_modules(graph: dict[str, set[str]]) -> None:
    assert len(graph) > 100
    # A package's __init__ offers names of its modules: the arrow back to it is not one of use.
    inner = {
        name: {other for other in others if not name.startswith(f"{other}.")}
        for name, others in graph.items()
    }
    assert cycle(inner) == []


def test_no_arrow_goes_up_a_layer(graph: dict[str, set[str]]) -> None:
    level = {name: index for index, names in enumerate(LAYERS) for name in names}
    rooms = {room(module) for module in graph}
    assert rooms == set(level), "a package is missing in LAYERS, or is no longer there"
    upward = [
        f"{module} -> {other}"
        for module, others in sorted(graph.items())
        for other in sorted(others)
        if level[room(other)] > level[room(module)]
    ]
    assert upward == []


def test_packages_import_each_other_in_one_direction(graph: dict[str, set[str]]) -> None:
    rooms: dict[str, set[str]] = {}
    for module, others in graph.items():
        rooms.setdefault(room(module), set()).update(room(other) for other in others)
    without_itself = {name: others - {name} for name, others in rooms.items()}
    assert cycle(without_itself) == []


def test_cycles_are_found() -> None:
    assert cycle({"a": {"b"}, "b": {"c"}, "c": {"b"}}) == ["b", "c", "b"]
    assert cycle({"a": {"b"}, "b": set()}) == []
