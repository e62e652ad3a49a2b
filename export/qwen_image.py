"""Export a Qwen-Image (Edit) transformer (diffusers format) with PAROAttention to ONNX.

    python export/qwen_image.py MODEL -o qwen_image.onnx --prompts prompts.safetensors

The plan of each size is qwen_image-FRAMESxHEIGHTxWIDTH.paro.safetensors next to the output; a
missing plan is calibrated from --prompts. Each file serves one size, with any batch; several
--video give several files that share one file of weights. The files run in ONNX Runtime as they are
(float32 and float16), and in TensorRT with the PAROAttention plugin.

Images: one frame. Edit: reference images of the output's size are further frames; --video
2,1024,1024 is an output and one reference, and the pipeline must be given images of that size.
Text joins the attention, padded: the prompt file has encoder_hidden_states [P, L, 3584],
encoder_hidden_states_mask [P, L] and, for references, image_latents [P, references * tokens, 64],
packed as the pipeline packs them. An image of 1328 x 1328 pixels has 6,889 tokens.

--dense writes the model as it is, for comparison; the plan then only gives the size.
"""

from paro_trt.cli.export_script import export_family

if __name__ == "__main__":
    export_family("qwen_image", __doc__)
