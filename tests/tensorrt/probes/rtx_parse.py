"""Parse a model with the plugin loaded; what the parser says goes to standard error.

python rtx_parse.py CORE MODEL. TensorRT-for-RTX has no plugin layers: it ends the process by an
abort right after it has created the first plugin.
"""

import sys

import tensorrt_rtx as trt

core, model = sys.argv[1:]
logger = trt.Logger(trt.Logger.VERBOSE)
builder = trt.Builder(logger)
builder.get_plugin_registry().load_library(core)
network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
trt.OnnxParser(network, logger).parse_from_file(model)
