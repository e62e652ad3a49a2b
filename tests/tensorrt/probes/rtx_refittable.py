"""Whether TensorRT for RTX's parser knows each weight of linear layers by its name in a file.

python rtx_refittable.py CORE MODEL prints JSON: name -> whether it could be marked for refitting.
"""

import json
import sys

from paro_trt.engine.parser_input import for_plugin
from paro_trt.engine.rtx_libraries import open_rtx_libraries
from paro_trt.onnx_file.source import read_source
from paro_trt.onnx_file.weights import named_weights

open_rtx_libraries()
import tensorrt_rtx as trt  # noqa: E402 (its libraries first)

core, model = sys.argv[1:]
source = read_source(model)
logger = trt.Logger(trt.Logger.ERROR)
builder = trt.Builder(logger)
trt.get_plugin_registry().load_library(core)
network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
parser = trt.OnnxParser(network, logger)
if not parser.parse(for_plugin(source), path=str(source.path)):
    sys.exit("\n".join(str(parser.get_error(i)) for i in range(parser.num_errors)))
names = [weight.initializer for weight in named_weights(source.proto) if weight.linear]
print(json.dumps({name: network.mark_weights_refittable(name) for name in names}))
