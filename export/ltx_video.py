"""Export an LTX-Video transformer (diffusers format) with PAROAttention to ONNX.

    python export/ltx_video.py MODEL -o ltx_video.onnx --prompts prompts.safetensors

The plan of each size is ltx_video-FRAMESxHEIGHTxWIDTH.paro.safetensors next to the output; a
missing plan is calibrated from --prompts. Each file serves one size, with any batch; several
--video give several files that share one file of weights. The files run in ONNX Runtime as they are
(float32 and float16), and in TensorRT with the PAROAttention plugin.

Text to video at 25 frames a second. Frames are 1 + a multiple of 8, height and width multiples of
32: one latent pixel is a token, so 161,512,704 has 7,392 tokens, and larger videos gain more.
Latents are packed, [B, tokens, 128], as LTXPipeline packs them. The text is cross-attended and of
any length: encoder_hidden_states [B, L, 4096] and encoder_attention_mask [B, L].

--dense writes the model as it is, for comparison; the plan then only gives the size.
"""

from paro_trt.cli.export_script import export_family

if __name__ == "__main__":
    export_family("ltx_video", __doc__)
