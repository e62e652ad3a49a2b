"""Export a Wan 2.1 and 2.2 transformer (diffusers format) with PAROAttention to ONNX.

    python export/wan.py MODEL -o wan.onnx --prompts prompts.safetensors

The plan of each size is wan-FRAMESxHEIGHTxWIDTH.paro.safetensors next to the output; a missing plan
is calibrated from --prompts. Each file serves one size, with any batch; several --video give
several files that share one file of weights. The files run in ONNX Runtime as they are (float32 and
float16), and in TensorRT with the PAROAttention plugin.

The usual sizes are 81,480,832 and 81,720,1280, and 121,704,1280 for TI2V 5B. The text encoder's
output is the input encoder_hidden_states [B, L, C], of any length.

Wan 2.2 A14B has two experts, MODEL/transformer for timesteps from boundary_ratio on (of
model_index.json) and MODEL/transformer_2 below: export both, each with an output name of its own.
Each gets a plan; plans of the two are told apart.

Image to video takes what the pipeline appends to the latents, mask and image, as image_latents
[B, 20, F, H, W]; with CLIP (2.1) also encoder_hidden_states_image [B, 257, 1280], [B, 514, 1280]
for first and last image, and then the text has 512 tokens. TI2V 5B takes the image's latents as
image_latents [B, 48, 1, H, W] where image_given [B] is 1; prompt files without the two make
videos from text.

--dense writes the model as it is, for comparison; the plan then only gives the size.
"""

from paro_trt.cli.export_script import export_family

if __name__ == "__main__":
    export_family("wan", __doc__)
