"""The transformer and its flow-matching loss, in the convention of Wan in diffusers.

x_sigma = (1 - sigma) * latents + sigma * noise; the model predicts noise - latents; its timestep
input is sigma * 1000.
"""

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from diffusers import WanTransformer3DModel

from .text import LENGTH, PIPELINE_LENGTH, TEXT_DIM
from .vae import LATENT_CHANNELS

TIMESTEPS = 1000
# A picture of 256 strongly correlated tokens is legible through much noise: colour, shape and place
# are decided above sigma 0.9, which a shift makes a large part of all levels.
FLOW_SHIFT = 5.0
PLAIN_ATTENTION_KEYS = 512


def build_transformer() -> WanTransformer3DModel:
    """A fresh transformer: 5 layers, 3 heads of 64 channels; a token is one latent pixel."""
    return WanTransformer3DModel(
        patch_size=(1, 1, 1),
        num_attention_heads=3,
        attention_head_dim=64,
        in_channels=LATENT_CHANNELS,
        out_channels=LATENT_CHANNELS,
        text_dim=TEXT_DIM,
        freq_dim=256,
        ffn_dim=640,
        num_layers=5,
        cross_attn_norm=True,
        qk_norm="rms_norm_across_heads",
        rope_max_seq_len=64,
    )


class ClipRotary(torch.nn.Module):
    """Rotary positions of the frames `frames` of a video, in place of those from 0 on.

    A clip of a few frames, far apart and at their own positions, teaches the distances in time
    that a whole video has, at a fraction of the cost of its attention.
    """

    def __init__(self, whole: torch.nn.Module) -> None:
        super().__init__()
        self.whole = whole
        self.frames: Sequence[int] = (0,)

    def forward(self, hidden_states: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        batch, channels, _, *size = hidden_states.shape
        length = max(self.frames) + 1
        video = hidden_states.new_empty(()).expand(batch, channels, length, *size)
        cos, sin = (
            part.unflatten(1, (length, -1))[:, list(self.frames)].flatten(1, 2)
            for part in self.whole(video)
        )
        return cos, sin


class TrainingAttention:
    """Attention processor equal to diffusers' own, faster in training on a CPU.

    Text has `LENGTH` tokens instead of the pipeline's 512. All padding is the same zero vector,
    hence the last position counts as often as the pipeline would repeat it.
    """

    def __init__(self) -> None:
        self._bias = torch.zeros(1, 1, 1, LENGTH)
        self._bias[..., -1] = math.log(PIPELINE_LENGTH - LENGTH + 1)

    def __call__(
        self,
        attn: torch.nn.Module,
        hidden_states: torch.Tensor,
        encoder_hidden_states: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,  # noqa: ARG002
        rotary_emb: tuple[torch.Tensor, torch.Tensor] | None = None,
    ) -> torch.Tensor:
        source = hidden_states if encoder_hidden_states is None else encoder_hidden_states
        query, key = (
            _normed(attn.norm_q, attn.to_q(hidden_states)),
            _normed(attn.norm_k, attn.to_k(source)),
        )
        query, key, value = (
            x.unflatten(2, (attn.heads, -1)).transpose(1, 2)
            for x in (query, key, attn.to_v(source))
        )
        bias = None
        if rotary_emb is not None:
            cos, sin = (x[:, :, 0].to(query.dtype) for x in rotary_emb)
            query, key = _rotated(query, cos, sin), _rotated(key, cos, sin)
        if encoder_hidden_states is not None:
            bias = self._bias.to(query.dtype)
        out = _attention(query, key, value, bias)
        return attn.to_out[0](out.transpose(1, 2).flatten(2))


def _attention(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, bias: torch.Tensor | None
) -> torch.Tensor:
    # Up to 512 keys, two matrix products are faster than the flash kernel and its backward: a
    # step of 16 pictures takes .40 s instead of .85 s, both compiled.
    if key.shape[2] > PLAIN_ATTENTION_KEYS:
        return F.scaled_dot_product_attention(query, key, value, attn_mask=bias)
    scores = (query * query.shape[-1] ** -0.5) @ key.transpose(-1, -2)
    if bias is not None:
        scores = scores + bias
    return scores.softmax(-1, dtype=query.dtype) @ value


def _normed(norm: torch.nn.RMSNorm, x: torch.Tensor) -> torch.Tensor:
    # The fused kernel wants the weight in the input's dtype.
    return F.rms_norm(x, norm.normalized_shape, norm.weight.to(x.dtype), norm.eps)


def _rotated(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    """Neighbouring channels turned as pairs; `cos`, `sin` [1, N, D] repeat each value."""
    even, odd = x.unflatten(-1, (-1, 2)).unbind(-1)
    return x * cos + torch.stack((-odd, even), -1).flatten(-2) * sin


def prepare_for_training(model: WanTransformer3DModel) -> WanTransformer3DModel:
    """Sets `TrainingAttention` and `ClipRotary`, for `velocity_errors`. Returns `model`."""
    model.rope = ClipRotary(model.rope)
    processor = TrainingAttention()
    for block in model.blocks:
        block.attn1.set_processor(processor)
        block.attn2.set_processor(processor)
    return model.train()


def shift_sigma(uniform: torch.Tensor, shift: float = FLOW_SHIFT) -> torch.Tensor:
    """Noise levels in [0, 1] from uniform ones, spaced as a scheduler with this `flow_shift`."""
    return shift * uniform / (1 + (shift - 1) * uniform)


def velocity_errors(
    model: WanTransformer3DModel,
    latents: torch.Tensor,
    text: torch.Tensor,
    noise: torch.Tensor,
    sigma: torch.Tensor,
    frames: Sequence[int],
) -> torch.Tensor:
    """Mean squared velocity error of each sample, [B] f32.

    `latents` and `noise` are [B, 16, F, H, W], `text` [B, LENGTH, 64], `sigma` [B], all f32;
    `frames` are the numbers of the F frames in their video. `model` went through
    `prepare_for_training`.
    """
    model.rope.frames = frames
    level = sigma.view(-1, 1, 1, 1, 1)
    noisy = (1 - level) * latents + level * noise
    velocity = model(noisy, sigma * TIMESTEPS, text, return_dict=False)[0]
    return (velocity.float() - (noise - latents)).pow(2).mean((1, 2, 3, 4))
