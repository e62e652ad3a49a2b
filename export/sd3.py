"""Export a Stable Diffusion 3 and 3.5 transformer (diffusers format) with PAROAttention to ONNX.

    python export/sd3.py MODEL -o sd3.onnx --prompts prompts.safetensors

The plan of each size is sd3-FRAMESxHEIGHTxWIDTH.paro.safetensors next to the output; a missing plan
is calibrated from --prompts. Each file serves one size, with any batch; several --video give
several files that share one file of weights. The files run in ONNX Runtime as they are (float32 and
float16), and in TensorRT with the PAROAttention plugin.

Images: one frame. Text joins the attention: the prompt file has encoder_hidden_states [P, 333,
4096], CLIP's 77 tokens and T5's 256, and pooled_projections [P, 2048]. The second attention of
3.5 medium sees no text and stays dense. An image of 1024 x 1024 pixels has 4,096 tokens: expect
little gain.

--dense writes the model as it is, for comparison; the plan then only gives the size.
"""

from paro_trt.cli.export_script import export_family

if __name__ == "__main__":
    export_family("sd3", __doc__)
