"""The loop of samples/python and samples/triton once more, to hold theirs against."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file

STEPS, SHIFT, GUIDANCE, SEED = 5, 2.5, 3.0, 11
BOUNDARIES = (700.0, 250.0)
LATENTS = (4, 2, 16, 16)

OPTIONS = ("--steps", STEPS, "--shift", SHIFT, "--guidance-scale", GUIDANCE, "--seed", SEED)

Velocity = Callable[[np.ndarray, float, np.ndarray, int], np.ndarray]
"""(float16 latents, timestep, float16 text [L, C], bin) -> velocity of one sample."""


@dataclass(frozen=True)
class Prompts:
    """Random text of each prompt [P, L, C] and of the negative one [L, C], in a file."""

    path: Path
    texts: np.ndarray
    negative: np.ndarray

    @classmethod
    def random(cls, path: Path, seed: int, count: int = 3) -> Prompts:
        """Write such a file."""
        rng = np.random.default_rng(seed)
        texts = rng.normal(0.2, 1, (count, 6, 16)).astype(np.float32)
        negative = rng.normal(-0.4, 1, (6, 16)).astype(np.float32)
        tensors = {
            "encoder_hidden_states": texts,
            "negative_prompt_embeds": negative,  # as diffusers' pipelines call it
        }
        save_file(tensors, path)
        return cls(path, texts, negative)


def denoised(velocity: Velocity, prompts: Prompts, index: int) -> np.ndarray:
    """Latents of one prompt, a sample and a step at a time."""
    latents = np.random.default_rng(SEED + index).standard_normal(LATENTS, np.float32)
    for step in range(STEPS):
        ends = []
        for end in (step, step + 1):
            even = 1 - end / STEPS
            ends.append(SHIFT * even / (1 + (SHIFT - 1) * even))
        timestep = float(np.float32(1000 * ends[0]))
        mask_bin = sum(timestep < edge for edge in BOUNDARIES)
        of_prompt, of_negative = (
            velocity(latents.astype(np.float16), timestep, text.astype(np.float16), mask_bin)
            for text in (prompts.texts[index], prompts.negative)
        )
        guided = of_negative + GUIDANCE * (of_prompt.astype(np.float32) - of_negative)
        latents = latents + np.float32(ends[1] - ends[0]) * guided
    return latents[None]
