"""Export a HunyuanVideo-1.5 transformer (diffusers format) with PAROAttention to ONNX.

    python export/hunyuan_video15.py MODEL -o hunyuan_video15.onnx --prompts prompts.safetensors

The plan of each size is hunyuan_video15-FRAMESxHEIGHTxWIDTH.paro.safetensors next to the output; a
missing plan is calibrated from --prompts. Each file serves one size, with any batch; several
--video give several files that share one file of weights. The files run in ONNX Runtime as they are
(float32 and float16), and in TensorRT with the PAROAttention plugin.

The usual sizes are 121,480,848 and 121,720,1280. Text joins the attention, padded: the prompt
file has encoder_hidden_states [P, 1000, 3584] and encoder_attention_mask [P, 1000], or fewer
tokens, and ByT5's encoder_hidden_states_2 [P, 256, 1472] and encoder_attention_mask_2 [P, 256].
Image to video takes the image as image_embeds [P, 729, 1152] and, as the pipeline appends it to
the latents with its mask, image_latents [P, 33, F, H, W]; text to video takes neither.

--dense writes the model as it is, for comparison; the plan then only gives the size.
"""

from paro_trt.cli.export_script import export_family

if __name__ == "__main__":
    export_family("hunyuan_video15", __doc__)
