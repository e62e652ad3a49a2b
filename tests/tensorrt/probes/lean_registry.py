"""Load the plugin into a lean runtime's registry in the ways named, and say what is there.

python lean_registry.py CORE AUTOREG STEPS, where STEPS is a word of these letters:
c load_library of the core, a dlopen of the autoreg library, d deregister what c gave last.
A b before them opens the autoreg library before TensorRT is there.
"""

import ctypes
import json
import sys

core, autoreg, steps = sys.argv[1:]
if steps.startswith("b"):
    ctypes.CDLL(autoreg)

import tensorrt_lean as trt  # noqa: E402 (the order is what is tested)

registry = trt.get_plugin_registry()
handle = None
for step in steps:
    if step == "c":
        handle = registry.load_library(core) or handle
    elif step == "a":
        ctypes.CDLL(autoreg)
    elif step == "d":
        registry.deregister_library(handle)

creators = [c for c in registry.all_creators if c.name == "PAROAttention"]
print(
    json.dumps(
        {
            "tensorrt": trt.__version__,
            "creators": [[c.name, c.plugin_version, c.plugin_namespace] for c in creators],
            "fields": {
                c.plugin_version: {f.name: str(f.type) for f in c.field_names} for c in creators
            },
        }
    )
)
