"""Calibration and held-out prompts, and the files of their embeddings next to the model.

Rewrite the files after a change of either list:

    python -m samples.tiny_video_dit.prompts
"""

import json
from collections.abc import Sequence
from pathlib import Path

from safetensors.torch import save_file

from .text import embed_prompt, embed_prompts

MODEL_DIR = Path(__file__).resolve().parent / "model"

# Both lists name every word of the vocabulary at least once; no prompt is in both.
CALIBRATION_PROMPTS = (
    "a big red circle moving left",
    "a small green square moving right",
    "a big blue triangle moving up",
    "a small yellow cross moving down",
    "a big purple square moving right",
    "a small white circle moving up",
    "a big green cross moving left",
    "a small red triangle moving down",
)
HELDOUT_PROMPTS = (
    "a big yellow circle moving right",
    "a small blue square moving left",
    "a big red cross moving down",
    "a small purple triangle moving up",
    "a big white square moving down",
    "a small green circle moving left",
    "a big purple cross moving up",
    "a small red square moving right",
)


def write_prompts(prompts: Sequence[str], path: Path) -> None:
    """Writes `prompt_embeds` [P, L, 32], `negative_prompt_embeds` [L, 32] f32 and the texts."""
    tensors = {
        "prompt_embeds": embed_prompts(list(prompts)),
        "negative_prompt_embeds": embed_prompt(""),
    }
    save_file(tensors, path, metadata={"prompts": json.dumps(list(prompts))})


if __name__ == "__main__":
    write_prompts(CALIBRATION_PROMPTS, MODEL_DIR / "prompts.safetensors")
    write_prompts(HELDOUT_PROMPTS, MODEL_DIR / "heldout_prompts.safetensors")
