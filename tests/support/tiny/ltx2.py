"""Tiny LTX-2 and LTX-2.3, whose blocks gate and modulate more, and a model of interleaved turns."""

from .model import TinyModel

_CONFIG = {
    "in_channels": 8,
    "out_channels": 8,
    "num_attention_heads": 2,
    "attention_head_dim": 64,
    "cross_attention_dim": 128,
    "audio_in_channels": 8,
    "audio_out_channels": 8,
    "audio_num_attention_heads": 2,
    "audio_attention_head_dim": 16,
    "audio_cross_attention_dim": 32,
    "num_layers": 2,
    "caption_channels": 12,
    "rope_type": "split",
}
_LTX_2_3 = {
    "gated_attn": True,
    "cross_attn_mod": True,
    "audio_gated_attn": True,
    "audio_cross_attn_mod": True,
    "use_prompt_embeddings": False,
    "perturbed_attn": True,
}


def _variant(name: str, since: tuple[int, int], **config: object) -> TinyModel:
    return TinyModel(
        name=name,
        class_name="LTX2VideoTransformer3DModel",
        config=_CONFIG | config,
        latent_size=(2, 8, 8),
        odd_latent_size=(3, 7, 5),
        oldest_diffusers=since,
    )


VARIANTS = (
    _variant("ltx2", (0, 37)),
    _variant("ltx2.3", (0, 38), **_LTX_2_3),
    _variant("ltx2-interleaved", (0, 37), rope_type="interleaved"),
)
