"""What TensorRT-for-RTX's parser passes to the creator for the first PAROAttention of each model.

python rtx_fields.py CORE MODEL ... The creator in the registry records the fields, hands them on to
the plugin's own and then gives no plugin: RTX has no plugin layers and would end the process.
"""

import json
import sys

import tensorrt_rtx as trt

core, *models = sys.argv[1:]
# The parser's complaint that it got no plugin is expected.
logger = trt.Logger(trt.Logger.INTERNAL_ERROR)
builder = trt.Builder(logger)
runtime_registry = trt.get_plugin_registry()
runtime_registry.load_library(core)
real = runtime_registry.get_creator("PAROAttention", "1", "")
calls = []


class Recorder(trt.IPluginCreatorV3One):
    """Takes the place of the real creator and calls it."""

    def __init__(self):
        trt.IPluginCreatorV3One.__init__(self)
        self.name = real.name
        self.plugin_version = real.plugin_version
        self.plugin_namespace = real.plugin_namespace
        self.field_names = real.field_names

    def create_plugin(self, name, fields, phase):
        values = {f.name: [f.type.name, f.size, f.data.tolist()] for f in fields}
        accepted = real.create_plugin(name, fields, phase) is not None
        calls.append({"phase": phase.name, "accepted": accepted, "fields": values})


# The parser looks into the builder's registry first.
recorder = Recorder()
builder.get_plugin_registry().register_creator(recorder, "")
for model in models:
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    trt.OnnxParser(network, logger).parse_from_file(model)
print(json.dumps(calls))
