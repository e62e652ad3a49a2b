"""What TensorRT-for-RTX's parser passes to the creator for each PAROAttention of a model.

python rtx_fields.py CORE MODEL. The creators in the registry record the fields and hand them on to
the plugin's own. What the parser complains of goes to standard error.
"""

import json
import sys

from paro_trt.engine.rtx_libraries import open_rtx_libraries

open_rtx_libraries()
import tensorrt_rtx as trt  # noqa: E402 (its libraries first)

core, model = sys.argv[1:]
logger = trt.Logger(trt.Logger.ERROR)
builder = trt.Builder(logger)
runtime_registry = trt.get_plugin_registry()
runtime_registry.load_library(core)
calls = []


class Recorder(trt.IPluginCreatorV3One):
    """Takes the place of a real creator and calls it."""

    def __init__(self, real):
        trt.IPluginCreatorV3One.__init__(self)
        self.real = real
        self.name = real.name
        self.plugin_version = real.plugin_version
        self.plugin_namespace = real.plugin_namespace
        self.field_names = real.field_names

    def create_plugin(self, name, fields, phase):
        values = {f.name: [f.type.name, f.size, f.data.tolist()] for f in fields}
        plugin = self.real.create_plugin(name, fields, phase)
        accepted, version = plugin is not None, self.plugin_version
        calls.append(
            {"version": version, "phase": phase.name, "accepted": accepted, "fields": values}
        )
        return plugin


# The parser looks into the builder's registry first.
recorders = [
    Recorder(runtime_registry.get_creator("PAROAttention", version, "")) for version in ("1", "2")
]
for recorder in recorders:
    builder.get_plugin_registry().register_creator(recorder, "")
network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
parser = trt.OnnxParser(network, logger)
parsed = parser.parse_from_file(model)
print(json.dumps({"parsed": parsed, "calls": calls}), flush=True)
