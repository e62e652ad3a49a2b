"""Tiny Cosmos: Predict2 video to world and text to image, Predict2.5, and 1.0 text to world."""

from paro_trt.families.shared.diffusers_range import OLDEST

from .model import TinyModel

_CONFIG = {
    "in_channels": 5,
    "out_channels": 4,
    "num_attention_heads": 2,
    "attention_head_dim": 64,
    "num_layers": 2,
    "mlp_ratio": 1.0,
    "text_embed_dim": 16,
    "adaln_lora_dim": 8,
    "max_size": (8, 32, 32),
    "patch_size": (1, 2, 2),
    "rope_scale": (1.0, 3.0, 3.0),
    "extra_pos_embed_type": None,
}


def _variant(
    name: str,
    frames: int,
    *,
    since: tuple[int, int] = OLDEST,
    untrained: tuple[str, ...] = (),
    height: int = 16,
    **config: object,
) -> TinyModel:
    return TinyModel(
        name=name,
        class_name="CosmosTransformer3DModel",
        config=_CONFIG | config,
        latent_size=(frames, height, 16),
        odd_latent_size=(3 if frames > 1 else 1, 14, 10),
        untrained=untrained,
        oldest_diffusers=since,
    )


VARIANTS = (
    _variant("cosmos-predict2-video", 2),
    # Two blocks of tokens: a plan leaves one out only where there are several.
    _variant("cosmos-predict2-image", 1, height=32, in_channels=4),
    _variant(
        "cosmos-predict2.5",
        2,
        since=(0, 37),
        use_crossattn_projection=True,
        crossattn_proj_in_channels=24,
        encoder_hidden_states_channels=16,
    ),
    _variant(
        "cosmos-1.0",
        2,
        untrained=tuple(f"learnable_pos_embed.pos_emb_{axis}" for axis in "thw"),
        in_channels=4,
        extra_pos_embed_type="learnable",
        rope_scale=(2.0, 1.0, 1.0),
    ),
)
