"""Export a HunyuanVideo transformer (diffusers format) with PAROAttention to ONNX.

    python export/hunyuan_video.py MODEL -o hunyuan_video.onnx --prompts prompts.safetensors

The plan of each size is hunyuan_video-FRAMESxHEIGHTxWIDTH.paro.safetensors next to the output; a
missing plan is calibrated from --prompts. Each file serves one size, with any batch; several
--video give several files that share one file of weights. The files run in ONNX Runtime as they are
(float32 and float16), and in TensorRT with the PAROAttention plugin.

The usual sizes are 129,720,1280 and 129,544,960. Text joins the attention, padded: the prompt
file has encoder_hidden_states [P, 256, 4096], encoder_attention_mask [P, 256], pooled_projections
[P, 768] and, where it should not be 6000 (guidance scale 6), guidance [P].

--dense writes the model as it is, for comparison; the plan then only gives the size.
"""

from paro_trt.cli.export_script import export_family

if __name__ == "__main__":
    export_family("hunyuan_video", __doc__)
