"""Export a Flux.1 transformer (diffusers format) with PAROAttention to ONNX.

    python export/flux.py MODEL -o flux.onnx --prompts prompts.safetensors

The plan of each size is flux-FRAMESxHEIGHTxWIDTH.paro.safetensors next to the output; a missing
plan is calibrated from --prompts. Each file serves one size, with any batch; several --video give
several files that share one file of weights. The files run in ONNX Runtime as they are (float32 and
float16), and in TensorRT with the PAROAttention plugin.

Images: one frame. Text joins the attention: the prompt file has encoder_hidden_states [P, 512,
4096], pooled_projections [P, 768] and, where it should not be 3.5, guidance [P]. At 4,096 tokens
of 1024 x 1024 pixels expect little gain; larger images gain more.

--dense writes the model as it is, for comparison; the plan then only gives the size.
"""

from paro_trt.cli.export_script import export_family

if __name__ == "__main__":
    export_family("flux", __doc__)
