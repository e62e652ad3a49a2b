"""Export a Wan 2.1 and 2.2 transformer (diffusers format) with PAROAttention to ONNX.

    python export/wan.py MODEL -o wan.onnx --prompts prompts.safetensors

Plans are looked for beside the output, wan-FRAMESxHEIGHTxWIDTH.paro.safetensors, and calibrated
from --prompts where they are missing. Each file serves one size, with any batch; several --video
give several files that share one file of weights. The files run in ONNX Runtime as they are
(float32 and float16), and in TensorRT with the PAROAttention plugin.

The usual sizes are 81,480,832 and 81,720,1280. Wan 2.2 A14B has two experts: export
MODEL/transformer and MODEL/transformer_2, each with an output name of its own. The text encoder's
output is the input encoder_hidden_states [B, L, C], of any length.

--dense writes the model as it is, for comparison; the plan then only gives the size.
"""

from paro_trt.cli.export_script import ScriptDefaults, export_family

DEFAULTS = ScriptDefaults("wan", (81, 480, 832), shift=3.0)

if __name__ == "__main__":
    export_family(DEFAULTS, __doc__)
