"""What PARO may gain in a model at a size: a model of the arithmetic, nothing that was timed."""

from __future__ import annotations

from dataclasses import dataclass
from types import SimpleNamespace

import diffusers
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from paro_trt.calibration.forecast import expected_speed
from paro_trt.families.base import AttentionSite, Geometry

from .releases import Pixels, Release
from .true_size import SETTINGS

TEXT_TOKENS = 512
"""Of a text encoder whose tokens do not join the sequence."""


@dataclass(frozen=True)
class Forecast:
    """Shares and gains, if all arithmetic ran at one rate.

    Args:
        total: floating-point operations of one evaluation, dense.
        attention_share: of the attention that a plan replaces.
        attention_speedup: at the density asked for, summary tokens included.
        model_speedup: of the whole evaluation.
    """

    total: float
    attention_share: float
    attention_speedup: float
    model_speedup: float


def forecast(release: Release, size: Pixels, density: float) -> Forecast:
    """Count a dense evaluation's operations on shapes alone; then the calibration's own formula."""
    geometry = release.geometry(size)
    sites = release.family.sites(release.full_config())
    total = float(dense_operations(release, geometry))
    share = attention_operations(geometry, sites) / total
    speed = expected_speed(
        share, density, SimpleNamespace(tokens=geometry.tokens, settings=SETTINGS)
    )
    return Forecast(total, share, speed["attention_speedup"], speed["model_speedup"])


def attention_operations(geometry: Geometry, sites: tuple[AttentionSite, ...]) -> float:
    """Multiplications and additions of QK^T and PV over all tokens: 4 S^2 H D a layer."""
    return float(sum(4 * geometry.tokens**2 * site.heads * site.head_dim for site in sites))


def dense_operations(release: Release, geometry: Geometry) -> int:
    """Operations of one sample's forward, by torch's counter on tensors without memory."""
    family, config = release.family, release.full_config()
    counter = FlopCounterMode(display=False)
    # The math backend's products are counted; the CPU's fused kernel has no count.
    with FakeTensorMode(allow_non_fake_inputs=True), sdpa_kernel(SDPBackend.MATH), torch.no_grad():
        model = getattr(diffusers, release.class_name)(**config).eval()
        inputs = {
            entry.name: torch.empty(
                _sizes(entry.shape, release.prompt.get(entry.name)), dtype=entry.dtype
            )
            for entry in family.conditioning_spec(config, geometry)
        }
        inputs |= family.constants(config, geometry)
        latents = torch.empty(1, *family.latent_shape(config, geometry))
        with family.adapted(model, geometry), counter:
            family.forward(model, geometry, latents, torch.full((1,), 500.0), inputs)
    return int(counter.get_total_flops())


def _sizes(shape: tuple[int | str, ...], given: tuple[int, ...] | None) -> tuple[int, ...]:
    """One sample, with the release's own sizes for free ones where it has them."""
    free = given or (TEXT_TOKENS,) * len(shape)
    return tuple(
        1 if size == "B" else free[axis - 1] if isinstance(size, str) else size
        for axis, size in enumerate(shape)
    )
