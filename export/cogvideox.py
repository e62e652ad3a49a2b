"""Export a CogVideoX and CogVideoX 1.5 transformer (diffusers format) with PAROAttention to ONNX.

    python export/cogvideox.py MODEL -o cogvideox.onnx --prompts prompts.safetensors

The plan of each size is cogvideox-FRAMESxHEIGHTxWIDTH.paro.safetensors next to the output; a
missing plan is calibrated from --prompts. Each file serves one size, with any batch; several
--video give several files that share one file of weights. The files run in ONNX Runtime as they are
(float32 and float16), and in TensorRT with the PAROAttention plugin.

CogVideoX was trained at 49,480,720. CogVideoX 1.5 (--video 85,768,1360) patches two latent frames
into one token, so that 1 + (frames - 1) / 4 must be even. Text joins the attention: the prompt
file has the 226 tokens (224 for 1.5) that the pipeline pads to. Image to video takes the image's
latents as image_latents [B, F, C, H, W].

--dense writes the model as it is, for comparison; the plan then only gives the size.
"""

from paro_trt.cli.export_script import export_family

if __name__ == "__main__":
    export_family("cogvideox", __doc__)
