"""Build the TensorRT engine of an exported model: the same as `paro-trt build`.

    python export/build_engine.py wan.onnx -o wan.engine --batch 1,2,2 --size L=1,512,512

Needs a GPU, TensorRT 10 or 11, and the plugin (docs/tensorrt.md). The engine serves that GPU's
compute capability, that TensorRT release and that build of the plugin; its manifest
wan.engine.json says so, and whoever loads the engine checks it first.
"""

from paro_trt.cli.build import build
from paro_trt.cli.policy import run_script

if __name__ == "__main__":
    run_script(build)
