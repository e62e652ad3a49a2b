"""An AutoencoderKLWan of computed weights: principal components of 4 x 4 pixels, no training.

`patch_size` 4 turns a frame into 48 channels on a grid of 16 x 16; one stage without resampling
leaves that grid alone. The residual branches and the attention end in zeros, so what is left of the
network is conv_in -> RMS norm -> SiLU -> conv_out. It is made linear to within 1e-3:

* One channel holds a large constant, which decides the norm. The others are divided by a constant.
* The others are moved to `OPERATING_POINT` times [0.5, 1.5], where SiLU is the identity.
"""

import torch
from diffusers import AutoencoderKLWan

from .scenes import draw

PATCH = 4
LATENT_CHANNELS = 16
CHANNELS = 24  # components, one constant, the rest unused
CONSTANT = 256.0
OPERATING_POINT = 16.0
SWING = 0.5  # of a component around 1, at its largest
LARGEST = 9.0  # a component's largest value; the constant colour 1 in one channel has 4
LOG_VARIANCE = -12.0


def patches(videos: torch.Tensor) -> torch.Tensor:
    """[B, 48, F, H / 4, W / 4] of videos [B, 3, F, H, W]: channels in diffusers' order c, x, y."""
    batch, _, frames, height, width = videos.shape
    cells = videos.reshape(batch, 3, frames, height // PATCH, PATCH, width // PATCH, PATCH)
    cells = cells.permute(0, 1, 6, 4, 2, 3, 5)
    return cells.reshape(batch, -1, frames, height // PATCH, width // PATCH)


def principal_components(
    count: int = LATENT_CHANNELS,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Mean [48], orthonormal components [48, count] and their standard deviations [count], f64.

    Of patches of 600 frames; the largest entry of a component is positive, which fixes its sign.
    """
    frames, _ = draw(600, torch.Generator().manual_seed(11), frames=(3,))
    cells = patches(frames).movedim(1, -1).reshape(-1, 48).double()
    mean = cells.mean(0)
    values, vectors = torch.linalg.eigh(torch.cov((cells - mean).T))
    vectors = vectors.flip(1)[:, :count]
    vectors = vectors * vectors.gather(0, vectors.abs().argmax(0, keepdim=True)).sign()
    return mean, vectors, values.flip(0)[:count].sqrt()


def _enter(conv: torch.nn.Conv3d, matrix: torch.Tensor, offset: torch.Tensor) -> None:
    """Channel i becomes 1 + s (matrix x + offset)_i, and the channel after them the constant."""
    count = len(matrix)
    step = SWING / LARGEST
    # The convolution is causal: its last tap in time is the present frame.
    conv.weight[:count, :, -1, 1, 1] = (step * matrix).to(conv.weight)
    conv.bias[:count] = (1 + step * offset).to(conv.bias)
    conv.bias[count] = CONSTANT


def _leave(
    norm: torch.nn.Module, conv: torch.nn.Conv3d, matrix: torch.Tensor, offset: torch.Tensor
) -> None:
    """What `_enter` packed, times `matrix` [out, count], plus `offset` [out]."""
    count = matrix.shape[1]
    norm.gamma.zero_()
    norm.gamma[:count] = OPERATING_POINT * (CONSTANT**2 + count) ** 0.5 / CHANNELS**0.5
    gain = LARGEST / (SWING * OPERATING_POINT)
    conv.weight[: len(matrix), :count, -1, 1, 1] = (gain * matrix).to(conv.weight)
    conv.bias[: len(matrix)] = (offset - LARGEST / SWING * matrix.sum(1)).to(conv.bias)


@torch.no_grad()
def build_vae() -> AutoencoderKLWan:
    """The autoencoder of 16 channels; a latent frame is a frame. No argument, no random number.

    The standard deviations of the latents are stored as their square roots relative to the first:
    the diffusion model sees edges, which are the weak components, better than in pixels.
    """
    mean, vectors, deviations = principal_components()
    power = deviations.sqrt()
    scaled = deviations / power
    latents_std = power * scaled.pow(2).mean().sqrt()
    vae = AutoencoderKLWan(
        base_dim=CHANNELS,
        z_dim=LATENT_CHANNELS,
        dim_mult=[1],
        num_res_blocks=1,
        temperal_downsample=[],
        in_channels=3 * PATCH**2,
        out_channels=3 * PATCH**2,
        patch_size=PATCH,
        scale_factor_temporal=1,
        scale_factor_spatial=PATCH,
        latents_mean=[0.0] * LATENT_CHANNELS,
        latents_std=[round(value, 5) for value in latents_std.tolist()],
    )
    for name, parameter in vae.named_parameters():
        if name.endswith("gamma"):
            parameter.fill_(1)
        else:
            parameter.zero_()
    same = torch.eye(LATENT_CHANNELS, dtype=torch.float64)
    zero = torch.zeros(LATENT_CHANNELS, dtype=torch.float64)
    _enter(vae.encoder.conv_in, vectors.T, -vectors.T @ mean)
    _leave(vae.encoder.norm_out, vae.encoder.conv_out, same, zero)
    vae.quant_conv.weight[:LATENT_CHANNELS, :LATENT_CHANNELS, 0, 0, 0] = same.float()
    vae.quant_conv.bias[LATENT_CHANNELS:] = LOG_VARIANCE
    vae.post_quant_conv.weight[:, :, 0, 0, 0] = same.float()
    _enter(vae.decoder.conv_in, same, zero)
    _leave(vae.decoder.norm_out, vae.decoder.conv_out, vectors, mean)
    return vae.eval().requires_grad_(False)


class LatentSpace:
    """The same encoding as one matrix product: latents as the transformer sees them.

    The matrix is read from the weights of `build_vae`, so that training agrees with the pipeline's
    files even where a change of the scenes would give other components.
    """

    def __init__(self, vae: AutoencoderKLWan) -> None:
        conv, count = vae.encoder.conv_in, LATENT_CHANNELS
        scale = LARGEST / SWING / torch.tensor(vae.config.latents_std)
        self._matrix = (scale[:, None] * conv.weight[:count, :, -1, 1, 1].detach()).T
        self._offset = scale * (conv.bias[:count].detach() - 1)

    def encode(self, videos: torch.Tensor) -> torch.Tensor:
        """[B, 16, F, 16, 16] of videos [B, 3, F, 64, 64], both f32."""
        cells = patches(videos).movedim(1, -1) @ self._matrix + self._offset
        return cells.movedim(-1, 1).contiguous()
