"""Export a Qwen-Image (Edit) transformer (diffusers format) with PAROAttention to ONNX.

    python export/qwen_image.py MODEL -o qwen_image.onnx --prompts prompts.safetensors

Plans are looked for beside the output, qwen_image-FRAMESxHEIGHTxWIDTH.paro.safetensors, and
calibrated from --prompts where they are missing. Each file serves one size, with any batch;
several --video give several files that share one file of weights. The files run in ONNX Runtime
as they are (float32 and float16), and in TensorRT with the PAROAttention plugin.

Images: one frame. Edit: reference images of the output's size are further frames; --video
2,1024,1024 is an output and one reference, and the pipeline must be given images of that size.
Text joins the attention, padded: the prompt file has encoder_hidden_states [P, L, 3584],
encoder_hidden_states_mask [P, L] and, for references, image_latents [P, references * tokens, 64],
packed as the pipeline packs them. An image of 1328 x 1328 pixels has 6,889 tokens.

--dense writes the model as it is, for comparison; the plan then only gives the size.
"""

from paro_trt.cli.export_script import ScriptDefaults, export_family

DEFAULTS = ScriptDefaults("qwen_image", (1, 1328, 1328), shift=3.0)

if __name__ == "__main__":
    export_family(DEFAULTS, __doc__)
