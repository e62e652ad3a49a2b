"""Export an LTX-2 or LTX-2.3 transformer (diffusers format) with PAROAttention to ONNX.

    python export/ltx2.py MODEL -o ltx2.onnx --prompts prompts.safetensors

The plan of each size is ltx2-FRAMESxHEIGHTxWIDTH.paro.safetensors next to the output; a missing
plan is calibrated from --prompts. Each file serves one size, with any batch; several --video give
several files that share one file of weights. The files run in ONNX Runtime as they are (float32 and
float16), and in TensorRT with the PAROAttention plugin.

Text to video with sound at 24 frames a second. Frames are 1 + a multiple of 8, height and width
multiples of 32: one latent pixel is a token. hidden_states and sample are the video's latents,
then the sound's, [B, tokens, 128], packed as LTX2Pipeline packs them; 121,512,768 has 6,144 and
126 tokens. The video's self-attention follows the plan, the sound stays dense. The prompt file
has what the pipeline's connectors give: encoder_hidden_states [P, L, 3840],
audio_encoder_hidden_states [P, L, 3840] (2.3: 4096 and 2048 wide) and, where it is not all ones,
encoder_attention_mask [P, L].

--dense writes the model as it is, for comparison; the plan then only gives the size.
"""

from paro_trt.cli.export_script import export_family

if __name__ == "__main__":
    export_family("ltx2", __doc__)
