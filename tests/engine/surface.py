"""What the real Python bindings of TensorRT offer, of the names this project uses.

    python -m tests.engine.surface        # writes surface.json anew; needs a package index and gcc

The bindings import with no GPU and no TensorRT once libraries of the right names define the ten C
functions they link to; nothing of them is called.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import zipfile
from pathlib import Path

FILE = Path(__file__).with_name("surface.json")

BINDINGS = {
    "10.0.1": "tensorrt-cu12-bindings==10.0.1",
    "10.16.1.11": "tensorrt-cu12-bindings==10.16.1.11",
    "11.0.0.114": "tensorrt-cu13-bindings==11.0.0.114",
    "11.4.0.106": "tensorrt-cu13-bindings==11.4.0.106",
}

USED = {
    "Builder": [
        "__init__", "create_network", "create_builder_config", "create_optimization_profile",
        "build_serialized_network",
    ],
    "BuilderFlag": ["WEIGHT_STREAMING", "FP16", "REFIT", "REFIT_INDIVIDUAL"],
    "DataType": ["BF16", "FLOAT", "HALF"],
    "ExecutionContextAllocationStrategy": ["STATIC", "USER_MANAGED"],
    "IBuilderConfig": [
        "add_optimization_profile", "builder_optimization_level", "create_timing_cache",
        "max_aux_streams", "profiling_verbosity", "progress_monitor", "set_flag",
        "set_memory_pool_limit", "set_timing_cache",
    ],
    "ICudaEngine": [
        "create_execution_context", "device_memory_size_v2", "get_tensor_name",
        "get_weight_streaming_automatic_budget", "num_io_tensors", "num_optimization_profiles",
        "refittable", "serialize", "streamable_weights_size", "weight_streaming_budget_v2",
        "weight_streaming_budget",
    ],
    "IExecutionContext": [
        "execute_async_v3", "set_device_memory", "set_input_shape",
        "set_optimization_profile_async", "set_tensor_address",
    ],
    "ILogger": ["__init__", "log"],
    "INetworkDefinition": ["get_layer", "mark_weights_refittable", "num_layers"],
    "IOptimizationProfile": ["set_shape"],
    "IPluginRegistry": ["all_creators", "get_creator", "load_library", "plugin_creator_list"],
    "IProgressMonitor": ["__init__", "phase_start", "step_complete", "phase_finish"],
    "ITimingCache": ["serialize"],
    "LayerType": ["PLUGIN_V3", "PLUGIN_V2"],
    "MemoryPoolType": ["WORKSPACE", "TACTIC_SHARED_MEMORY"],
    "NetworkDefinitionCreationFlag": ["STRONGLY_TYPED", "EXPLICIT_BATCH"],
    "OnnxParser": ["__init__", "parse", "get_error", "num_errors"],
    "ParserError": ["desc", "node_name"],
    "ProfilingVerbosity": ["DETAILED"],
    "Refitter": [
        "__init__", "get_all_weights", "get_missing_weights", "get_weights_prototype",
        "refit_cuda_engine", "set_named_weights",
    ],
    "Runtime": ["__init__", "deserialize_cuda_engine"],
    "Severity": ["INTERNAL_ERROR", "ERROR", "WARNING", "INFO", "VERBOSE"],
    "Weights": ["__init__", "dtype", "size"],
}  # fmt: skip
"""Names that the package uses, and names that it must not use because only one major has them."""

_STAND_IN = "".join(
    f"void* {name}(void) {{ return 0; }}\n"
    for name in (
        "createInferBuilder_INTERNAL", "createInferRefitter_INTERNAL",
        "createInferRuntime_INTERNAL", "createNvOnnxParserRefitter_INTERNAL",
        "createNvOnnxParser_INTERNAL", "getBuilderPluginRegistry", "getNvOnnxParserVersion",
        "getPluginRegistry", "initLibNvInferPlugins",
    )
)  # fmt: skip

_DUMP = """
import importlib, json, sys
sys.path.insert(0, sys.argv[1])
module, found = importlib.import_module("tensorrt_bindings"), {}
for name, members in json.loads(sys.argv[2]).items():
    owner = module.ILogger.Severity if name == "Severity" else getattr(module, name, None)
    for member in members if owner else []:
        value = owner.__dict__.get(member, getattr(owner, member, None))
        if value is None:
            continue
        if isinstance(value, property):
            said = "property" if value.fset else "read-only property"
        elif member in getattr(owner, "__members__", {}):
            said = int(value)
        else:
            said = value.__doc__
        found.setdefault(name, {})[member] = said
print(json.dumps(found))
"""


def measure(folder: Path) -> dict[str, dict[str, object]]:
    """The surface of every release, from packages downloaded into `folder`."""
    libraries = {major: _stub_libraries(folder, major) for major in ("10", "11")}
    found = {}
    for version, package in BINDINGS.items():
        environment = {"LD_LIBRARY_PATH": str(libraries[version.partition(".")[0]])}
        raw = _run(_DUMP, _unpacked(folder, package), USED, environment)
        found[version] = {
            owner: {name: _shortened(name, said) for name, said in members.items()}
            for owner, members in raw.items()
        }
    return found


def _shortened(name: str, said: object) -> object:
    """The parameters of each overload in a docstring; any other text unchanged."""
    if not isinstance(said, str) or said.endswith("property"):
        return said
    calls = re.findall(rf"^\s*(?:\d+\. )?{name}\((.*?)\)(?: ->.*)?$", said, re.MULTILINE)
    overloads = [_parameters(call) for call in calls if call != "*args, **kwargs"]
    return overloads or said.splitlines()[0]


def _parameters(text: str) -> str:
    """ "self: T, a: int = 0" as "a=", "size_t size" as "size": names and what may be left out."""
    flat = re.sub(r"<[^>]*>|\[[^\]]*\]|\([^)]*\)", "", text)
    names = []
    for part in filter(None, (part.strip() for part in flat.split(","))):
        words = part.partition(":")[0] if ":" in part else part.split()[-1]
        if words.strip() != "self":
            names.append(words.strip() + ("=" if "=" in part else ""))
    return ", ".join(names)


def _stub_libraries(folder: Path, major: str) -> Path:
    target = folder / f"stubs-{major}"
    target.mkdir()
    source = folder / "stub.c"
    source.write_text(_STAND_IN)
    for name in ("nvinfer", "nvonnxparser", "nvinfer_plugin"):
        library = f"lib{name}.so.{major}"
        words = ["gcc", "-shared", "-fPIC", f"-Wl,-soname,{library}", "-o", target / library]
        subprocess.run([*map(str, words), str(source)], check=True)
    return target


def _unpacked(folder: Path, *packages: str) -> Path:
    target = folder / packages[0].replace("==", "-")
    target.mkdir()
    pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "-d", str(target)]
    subprocess.run([*pip, *packages], check=True, capture_output=True, timeout=300)
    for wheel in target.glob("*.whl"):
        with zipfile.ZipFile(wheel) as archive:
            archive.extractall(target)
    return target


def _run(code: str, path: Path, names: object, environment: dict[str, str]) -> dict[str, dict]:
    words = [sys.executable, "-c", code, str(path), json.dumps(names)]
    done = subprocess.run(words, capture_output=True, text=True, check=True, env=environment)
    return json.loads(done.stdout)


if __name__ == "__main__":
    import tempfile

    with tempfile.TemporaryDirectory() as scratch:
        FILE.write_text(json.dumps(measure(Path(scratch)), indent=1) + "\n")
