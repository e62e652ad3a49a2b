"""Prompts of the fixed vocabulary and their embeddings.

Words map to rows of a Hadamard matrix: orthogonal, +-1, exact in every float format and the same on
every machine, so no text encoder and no random number generator stands between prompt and model.
"""

from dataclasses import dataclass
from itertools import product

import torch

TEXT_DIM = 32
TEXT_LENGTH = 8

SIZES = ("small", "big")
COLOURS = ("red", "green", "blue", "yellow", "purple", "white")
SHAPES = ("circle", "square", "triangle", "cross")
DIRECTIONS = ("left", "right", "up", "down")

PAD = "<pad>"
VOCABULARY = (PAD, "a", "moving", *SIZES, *COLOURS, *SHAPES, *DIRECTIONS)


@dataclass(frozen=True)
class Scene:
    """What a prompt says: one word of each list above."""

    size: str
    colour: str
    shape: str
    direction: str

    @property
    def prompt(self) -> str:
        return f"a {self.size} {self.colour} {self.shape} moving {self.direction}"


ALL_SCENES = tuple(Scene(*words) for words in product(SIZES, COLOURS, SHAPES, DIRECTIONS))


def _hadamard(order: int) -> torch.Tensor:
    """Sylvester's Hadamard matrix [order, order] f32; `order` is a power of two."""
    matrix = torch.ones(1, 1)
    while matrix.shape[0] < order:
        matrix = torch.cat([torch.cat([matrix, matrix], 1), torch.cat([matrix, -matrix], 1)])
    return matrix


_WORD_VECTORS = dict(zip(VOCABULARY, _hadamard(TEXT_DIM), strict=False))


def embed_prompt(prompt: str) -> torch.Tensor:
    """Embedding [TEXT_LENGTH, TEXT_DIM] f32 of a prompt; "" is the unconditional one (all padding).

    Raises ValueError for a word outside the vocabulary or a prompt longer than TEXT_LENGTH words.
    """
    words = prompt.lower().split()
    unknown = [word for word in words if word not in _WORD_VECTORS]
    if unknown:
        known = ", ".join(VOCABULARY[1:])
        raise ValueError(f"prompt {prompt!r}: unknown words {unknown}; the vocabulary is: {known}")
    if len(words) > TEXT_LENGTH:
        raise ValueError(f"prompt {prompt!r}: {len(words)} words, expected at most {TEXT_LENGTH}")
    padded = words + [PAD] * (TEXT_LENGTH - len(words))
    return torch.stack([_WORD_VECTORS[word] for word in padded])


def embed_prompts(prompts: list[str]) -> torch.Tensor:
    """Embeddings [P, TEXT_LENGTH, TEXT_DIM] f32."""
    return torch.stack([embed_prompt(prompt) for prompt in prompts])
