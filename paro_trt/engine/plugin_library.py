"""The PAROAttention plugin: finds its library, reads its name and ABI, and loads it."""

from __future__ import annotations

import ctypes
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import BackendUnavailableError
from ..files import sha256_of_files
from ..library_files import ABI_VERSION, library_path
from ..nvidia.driver import ask_driver
from ..nvidia.toolkits import built_for, check_driver, plugin_remedy
from ..op.spec import OP_TYPE, OP_VERSION, OP_VERSION_2, PLUGIN_NAMESPACE, op_attributes
from .errors import EngineError

LIBRARY = "attention"
"""libparo_attention.so, for programs that ask a library for its creators."""

AUTOREG_LIBRARY = "attention_autoreg"
"""libparo_attention_autoreg.so, for programs that only dlopen a library."""

MAX_WORKSPACE = "max_workspace_mib"
"""The plugin's one field that is no attribute of the op: how the engine is to be built."""

_FIELDS = {
    str(version): {entry.name for entry in op_attributes(version)}
    - {"plugin_version", "plugin_namespace"}
    | {MAX_WORKSPACE}
    for version in (OP_VERSION, OP_VERSION_2)
}
"""What the parser passes to the creator of each version; it consumes the other two itself."""


_mapped_here: set[Path] = set()
"""Libraries that this module loaded first, to read their names and ABI."""

_registered: set[Path] = set()
"""Libraries that this module registered with TensorRT."""


@dataclass(frozen=True)
class PluginFile:
    """A plugin library.

    Args:
        path: the file.
        sha256: of the file.
        name: name and version, as the library gives them.
        abi: version of its C ABI.
    """

    path: Path
    sha256: str
    name: str
    abi: int


def find_plugin() -> PluginFile:
    """The plugin library of this installation.

    Raises:
        BackendUnavailableError: there is none, it does not load, or has another ABI.
    """
    try:
        path = library_path(LIBRARY)
    except BackendUnavailableError as error:
        raise BackendUnavailableError(
            "TensorRT plugin",
            expected=error.expected,
            actual=error.actual,
            remedy="make plugin (docs/tensorrt-plugin.md), or set PARO_LIBRARY_DIR to its folder",
        ) from error
    return describe_plugin(path)


def describe_plugin(path: Path) -> PluginFile:
    """The name, the hash and the ABI of a plugin library; see `find_plugin`."""
    if not _is_mapped(path):
        _mapped_here.add(path.resolve())
    try:
        library = ctypes.CDLL(str(path))
        library.paro_abi_version.restype = ctypes.c_uint32
        library.paro_library_name.restype = ctypes.c_char_p
        abi, name = int(library.paro_abi_version()), bytes(library.paro_library_name()).decode()
    except (OSError, AttributeError) as error:
        raise BackendUnavailableError(
            str(path),
            expected="the PAROAttention plugin, which exports the paro C ABI",
            actual=str(error)[:200],
            remedy="build it again: make plugin (docs/tensorrt-plugin.md)",
        ) from error
    if abi != ABI_VERSION:
        raise BackendUnavailableError(
            str(path),
            expected=f"C ABI version {ABI_VERSION}, as in this package",
            actual=str(abi),
            remedy="build the plugin of this release: make plugin",
        )
    return PluginFile(path, sha256_of_files(path), name, abi)


def check_plugin_driver(plugin: PluginFile) -> None:
    """That this machine's driver runs what the plugin was compiled to.

    Raises:
        BackendUnavailableError: there is no driver, or it is of an older CUDA than the plugin.
    """
    cuda = built_for(plugin.name)
    if cuda is None:  # the emulated kernels, which need no driver
        return
    check_driver(ask_driver(), cuda, f"{plugin.path} of CUDA {cuda}", plugin_remedy())


def load_plugin(trt: Any, plugin: PluginFile) -> None:
    """Make the plugin's creator known to TensorRT. Harmless when repeated.

    The registry is asked first: loading a creator that it knows is an error in TensorRT.

    Args:
        trt: TensorRT's Python module.
        plugin: the library to load.

    Raises:
        EngineError: another library has registered a plugin of this name, or the library holds
            another plugin than this package's.
    """
    registry, path = trt.get_plugin_registry(), plugin.path.resolve()
    if all(_creator(registry, version) is None for version in _FIELDS):
        registry.load_library(str(plugin.path))
        _registered.add(path)
    elif path in _mapped_here - _registered:  # no other code can have registered it
        raise EngineError(
            f"plugin {OP_TYPE}",
            expected=f"the one of {plugin.path}",
            actual="another library's, registered before in this process",
            remedy="load only one of the two libraries",
        )
    _check_creator(registry, plugin)


def _creator(registry: Any, version: str) -> Any:
    return registry.get_creator(OP_TYPE, version, PLUGIN_NAMESPACE)


def _check_creator(registry: Any, plugin: PluginFile) -> None:
    named = [entry for entry in registry.all_creators if getattr(entry, "name", "") == OP_TYPE]
    creators = {version: _creator(registry, version) for version in _FIELDS}
    if None in creators.values() or len(named) != len(creators):
        versions = [f"{entry.name} version {entry.plugin_version}" for entry in named]
        raise EngineError(
            f"TensorRT's plugin registry, after loading {plugin.path}",
            expected=f"one creator of {OP_TYPE} of each version, {' and '.join(creators)}",
            actual=", ".join(versions) or "none",
            remedy="load no other library with a plugin of this name"
            if named
            else "build the plugin again: make plugin; TensorRT's log says why it refused",
        )
    for version, expected in _FIELDS.items():
        fields = {field.name for field in creators[version].field_names}
        if not fields >= expected:  # the parser drops an unknown field with a warning
            raise EngineError(
                str(plugin.path),
                expected=f"a plugin with the fields {', '.join(sorted(expected))}",
                actual=", ".join(sorted(fields)) or "no field",
                remedy="build the plugin of this release: make plugin",
            )


def _is_mapped(path: Path) -> bool:
    """Whether this process has already loaded this file."""
    try:
        maps = Path("/proc/self/maps").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return False
    loaded = {line.split(maxsplit=5)[-1] for line in maps.splitlines() if "/" in line}
    return str(path.resolve()) in loaded
