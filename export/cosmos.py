"""Export a Cosmos 1.0, Predict2 or 2.5 transformer (diffusers format) with PAROAttention to ONNX.

    python export/cosmos.py MODEL -o cosmos.onnx --prompts prompts.safetensors

The plan of each size is cosmos-FRAMESxHEIGHTxWIDTH.paro.safetensors next to the output; a missing
plan is calibrated from --prompts. Each file serves one size, with any batch; several --video give
several files that share one file of weights. The files run in ONNX Runtime as they are (float32 and
float16), and in TensorRT with the PAROAttention plugin.

The usual sizes are 93,704,1280 for video (1.0: 121,704,1280) and 1,768,1360 for Predict2's text
to image. The prompt
file has encoder_hidden_states [P, 512, 1024], in 2.5 [P, 512, 100352]. Frames that a video
continues are image_latents [P, 16, F, H, W], with ones for them in condition_frames [P, F]; a
prompt file without both makes video from text. All files take latents of a flow, (1 - t) * data +
t * noise, and give its velocity, 1.0's too. Video to world of 1.0 and Transfer are refused.

--dense writes the model as it is, for comparison; the plan then only gives the size.
"""

from paro_trt.cli.export_script import export_family

if __name__ == "__main__":
    export_family("cosmos", __doc__)
