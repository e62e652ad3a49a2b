"""Export a Mochi transformer (diffusers format) with PAROAttention to ONNX.

    python export/mochi.py MODEL -o mochi.onnx --prompts prompts.safetensors

The plan of each size is mochi-FRAMESxHEIGHTxWIDTH.paro.safetensors next to the output; a missing
plan is calibrated from --prompts. Each file serves one size, with any batch; several --video give
several files that share one file of weights. The files run in ONNX Runtime as they are (float32 and
float16), and in TensorRT with the PAROAttention plugin.

Mochi was trained at 480 x 848, 163 frames at most: 1 + a multiple of 6. Text joins the attention,
padded: the prompt file has encoder_hidden_states [P, 256, 4096] and encoder_attention_mask
[P, 256]. The file takes time as all families' files do, 1000 for pure noise, and gives the
velocity from data to noise; Mochi's own transformer counts time the other way, with the other sign.

--dense writes the model as it is, for comparison; the plan then only gives the size.
"""

from paro_trt.cli.export_script import export_family

if __name__ == "__main__":
    export_family("mochi", __doc__)
