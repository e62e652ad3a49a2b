"""Export a Flux.2 transformer (diffusers format) with PAROAttention to ONNX.

    python export/flux2.py MODEL -o flux2.onnx --prompts prompts.safetensors

The plan of each size is flux2-FRAMESxHEIGHTxWIDTH.paro.safetensors next to the output; a missing
plan is calibrated from --prompts. Each file serves one size, with any batch; several --video give
several files that share one file of weights. The files run in ONNX Runtime as they are (float32 and
float16), and in TensorRT with the PAROAttention plugin.

Images: one frame. Reference images of the output's size are further frames: --video 2,1024,1024
is an output and one reference. Text joins the attention: the prompt file has encoder_hidden_states
[P, 512, 15360] (dev; klein has its own width), for references image_latents [P, references *
tokens, 128], packed as the pipeline packs them, and for dev, where it should not be 4, guidance
[P]. An image of 1024 x 1024 pixels has 4,096 tokens and gains little; references and larger
images gain more.

--dense writes the model as it is, for comparison; the plan then only gives the size.
"""

from paro_trt.cli.export_script import export_family

if __name__ == "__main__":
    export_family("flux2", __doc__)
