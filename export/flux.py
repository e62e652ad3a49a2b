"""Export a Flux.1 transformer (diffusers format) with PAROAttention to ONNX.

    python export/flux.py MODEL -o flux.onnx --prompts prompts.safetensors

Plans are looked for beside the output, flux-FRAMESxHEIGHTxWIDTH.paro.safetensors, and calibrated
from --prompts where they are missing. Each file serves one size, with any batch; several --video
give several files that share one file of weights. The files run in ONNX Runtime as they are
(float32 and float16), and in TensorRT with the PAROAttention plugin.

Images: one frame. Text joins the attention: the prompt file has encoder_hidden_states [P, 512,
4096], pooled_projections [P, 768] and, where it should not be 3.5, guidance [P]. At 4,096 tokens
of 1024 x 1024 pixels expect little gain; larger images gain more.

--dense writes the model as it is, for comparison; the plan then only gives the size.
"""

from paro_trt.cli.export_script import ScriptDefaults, export_family

DEFAULTS = ScriptDefaults("flux", (1, 1024, 1024), shift=3.0)

if __name__ == "__main__":
    export_family(DEFAULTS, __doc__)
