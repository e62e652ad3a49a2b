"""Parse a model with no plugin loaded, and build an engine for each GPU architecture.

python rtx_build.py MODEL SM ... prints the engines' sizes in bytes by architecture, as JSON.
Free sizes: 1 to 2 samples, 8 text tokens.
"""

import json
import sys

import tensorrt_rtx as trt

BATCHES, TEXT_TOKENS = (1, 2), 8

model, *architectures = sys.argv[1:]
logger = trt.Logger(trt.Logger.ERROR)
builder = trt.Builder(logger)
network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
parser = trt.OnnxParser(network, logger)
if not parser.parse_from_file(model):
    sys.exit("\n".join(str(parser.get_error(i)) for i in range(parser.num_errors)))


def profile():
    made = builder.create_optimization_profile()
    for index in range(network.num_inputs):
        tensor = network.get_input(index)
        smallest, largest = (
            [
                size if size > 0 else batch if d == 0 else TEXT_TOKENS
                for d, size in enumerate(tensor.shape)
            ]
            for batch in BATCHES
        )
        made.set_shape(tensor.name, smallest, largest, largest)
    return made


sizes = {}
for architecture in architectures:
    config = builder.create_builder_config()
    config.add_optimization_profile(profile())
    config.num_compute_capabilities = 1
    config.set_compute_capability(getattr(trt.ComputeCapability, f"SM{architecture}"), 0)
    engine = builder.build_serialized_network(network, config)
    sizes[architecture] = 0 if engine is None else engine.nbytes
print(json.dumps(sizes))
