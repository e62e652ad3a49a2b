"""Create plugins through a lean runtime from fields given as JSON, and say what became of each.

python lean_plugin.py CORE REQUESTS, a list in JSON of
{"phase": "RUNTIME", "version": "1", "fields": {NAME: [TYPE, VALUE], ...}}.
"""

import json
import sys

import numpy as np
import tensorrt_lean as trt

DTYPES = {"INT32": np.int32, "INT64": np.int64, "FLOAT32": np.float32}

registry = trt.get_plugin_registry()
registry.load_library(sys.argv[1])


def field(name, kind, value):
    if kind == "CHAR":
        data = np.frombuffer(value.encode(), np.int8)
    else:
        data = np.array([value], DTYPES[kind])
    return trt.PluginField(name, data, getattr(trt.PluginFieldType, kind))


def report(request):
    fields = [field(name, *entry) for name, entry in request["fields"].items()]
    phase = getattr(trt.TensorRTPhase, request["phase"])
    creator = registry.get_creator("PAROAttention", request["version"], "")
    plugin = creator.create_plugin("layer", trt.PluginFieldCollection(fields), phase)
    if plugin is None:
        return None
    core, build, runtime = (
        plugin.get_capability_interface(getattr(trt.PluginCapabilityType, kind))
        for kind in ("CORE", "BUILD", "RUNTIME")
    )
    return {
        "kinds": [
            [i.interface_info.kind, i.interface_info.major] for i in (plugin, core, build, runtime)
        ],
        "names": [core.plugin_name, core.plugin_version, core.plugin_namespace],
        "outputs": build.num_outputs,
        "timing_cache_id": build.timing_cache_id,
        "format_combination_limit": build.format_combination_limit,
    }


print(json.dumps([report(request) for request in json.loads(sys.argv[2])]))
