"""How much each word of a prompt matters to the model: its loss when that word is wrong.

    python -m samples.tiny_wan.diagnose

A word that the model has learned raises the loss at high noise, where it decides what is drawn. The
measure is available long before samples can be judged.
"""

from collections.abc import Mapping
from dataclasses import fields, replace

import torch
from diffusers import WanPipeline

from .build import PIPELINE_DIR
from .flow import prepare_for_training, velocity_errors
from .scenes import (
    ALL_SCENES,
    COLOURS,
    EXTENTS,
    FRAMES,
    HELDOUT_SCENES,
    SHAPES,
    Scene,
    draw,
    pick_frames,
)
from .text import embed
from .vae import LatentSpace

LEVELS = (0.8, 0.95)
_WORDS = {"size": tuple(EXTENTS), "colour": tuple(COLOURS), "shape": SHAPES}


def with_wrong_word(scene: Scene, field: str) -> Scene:
    """`scene` with the next word of the vocabulary in `field`."""
    words = _WORDS[field]
    following = words[(words.index(getattr(scene, field)) + 1) % len(words)]
    return replace(scene, **{field: following})


class Validation:
    """Clips of `frames` frames of held-out scenes, and noise; always the same."""

    def __init__(self, space: LatentSpace, frames: int) -> None:
        generator = torch.Generator().manual_seed(77)
        self.frames = pick_frames(frames, generator)
        videos, self.scenes = draw(max(4, 16 // frames), generator, self.frames, HELDOUT_SCENES)
        self.latents = space.encode(videos)
        self.noise = torch.randn(self.latents.shape, generator=generator)

    @torch.no_grad()
    def measure(
        self, model: torch.nn.Module, text: torch.Tensor, numbers: Mapping[Scene, int]
    ) -> dict[str, float]:
        """`held_out`: mean loss over `LEVELS`; per field, its rise in percent when wrong.

        `text` [P, LENGTH, 64] has the embedding of a scene in row `numbers[scene]`.
        """

        def loss(scenes: list[Scene]) -> float:
            rows = text[[numbers[scene] for scene in scenes]]
            total = 0.0
            for level in LEVELS:
                sigma = torch.full((len(scenes),), level)
                with torch.autocast("cpu", torch.bfloat16):
                    errors = velocity_errors(
                        model, self.latents, rows, self.noise, sigma, self.frames
                    )
                total += errors.mean().item()
            return total / len(LEVELS)

        right = loss(self.scenes)
        found = {"held_out": right}
        for field in fields(Scene):
            wrong = loss([with_wrong_word(scene, field.name) for scene in self.scenes])
            found[field.name] = 100 * (wrong / right - 1)
        return found


def main() -> None:
    """Print the loss on held-out scenes, and its rise for each wrong word."""
    pipeline = WanPipeline.from_pretrained(PIPELINE_DIR)
    text = embed(pipeline.tokenizer, pipeline.text_encoder, [s.prompt for s in ALL_SCENES])
    numbers = {scene: index for index, scene in enumerate(ALL_SCENES)}
    model = prepare_for_training(pipeline.transformer.float())
    found = Validation(LatentSpace(pipeline.vae), FRAMES).measure(model, text, numbers)
    print(f"loss {found.pop('held_out'):.4f}")
    for name, rise in found.items():
        print(f"wrong {name}: {rise:+.1f} %")


if __name__ == "__main__":
    main()
