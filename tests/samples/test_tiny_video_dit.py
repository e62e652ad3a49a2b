"""The included model: its files load, its data is deterministic, and it has learned its task."""

import json
from pathlib import Path

import pytest
import torch
from diffusers import WanTransformer3DModel
from safetensors import safe_open

from samples.tiny_video_dit.dataset import FRAME_SIZE, FRAMES, Batch, sample_batch
from samples.tiny_video_dit.flow import load_model, velocity_errors
from samples.tiny_video_dit.prompts import CALIBRATION_PROMPTS, HELDOUT_PROMPTS
from samples.tiny_video_dit.sample import MODEL_DIR, sample_videos, write_gif, write_sheet
from samples.tiny_video_dit.text import (
    ALL_SCENES,
    TEXT_DIM,
    TEXT_LENGTH,
    VOCABULARY,
    embed_prompt,
    embed_prompts,
)

MODEL_SIZE_LIMIT = 16 * 2**20
# Share of the zero predictor's error allowed at each noise level; measured .021, .022 and .052.
ALLOWED_SHARE_OF_ZERO = {0.3: 0.05, 0.7: 0.05, 0.95: 0.1}
# Measured .53; 1 would mean that the prompt is ignored.
ALLOWED_SHARE_OF_WRONG_PROMPT = 0.85


@pytest.fixture(scope="module")
def model() -> WanTransformer3DModel:
    return load_model(MODEL_DIR)


@pytest.fixture(scope="module")
def batch() -> Batch:
    return sample_batch(4, torch.Generator().manual_seed(1234))


@torch.no_grad()
def errors_at(
    model: WanTransformer3DModel, batch: Batch, prompts: list[str], sigma: float
) -> torch.Tensor:
    noise = torch.randn(batch.videos.shape, generator=torch.Generator().manual_seed(5678))
    levels = torch.full((len(prompts),), sigma)
    return velocity_errors(model, batch.videos, embed_prompts(prompts), noise, levels)


class TestData:
    def test_videos_follow_from_the_seed(self) -> None:
        first, second = (sample_batch(3, torch.Generator().manual_seed(7)) for _ in range(2))
        assert first.scenes == second.scenes
        torch.testing.assert_close(first.videos, second.videos, rtol=0, atol=0)
        other = sample_batch(3, torch.Generator().manual_seed(8))
        assert not torch.equal(first.videos, other.videos)

    def test_videos_have_the_declared_shape_and_range(self, batch: Batch) -> None:
        assert batch.videos.shape == (4, 3, FRAMES, FRAME_SIZE, FRAME_SIZE)
        assert batch.videos.dtype == torch.float32
        assert batch.videos.abs().max() <= 1

    def test_every_frame_differs_from_the_one_before(self, batch: Batch) -> None:
        changes = batch.videos.diff(dim=2).abs().mean(dim=(1, 3, 4))
        assert changes.min() > 0.005


class TestText:
    def test_embeddings_are_the_recorded_ones(self) -> None:
        embedding = embed_prompt("a red circle")
        assert embedding.shape == (TEXT_LENGTH, TEXT_DIM)
        assert embedding.abs().eq(1).all()
        assert torch.equal(embedding, embed_prompt("A  RED circle"))
        assert embedding[:3, 1:6].tolist() == [
            [-1, 1, -1, 1, -1],
            [-1, 1, -1, -1, 1],
            [-1, -1, 1, 1, -1],
        ]

    def test_words_are_orthogonal(self) -> None:
        words = torch.stack([embed_prompt(word)[0] for word in VOCABULARY])
        assert torch.equal(words @ words.T, TEXT_DIM * torch.eye(len(VOCABULARY)))

    def test_unknown_word_is_named(self) -> None:
        with pytest.raises(ValueError, match="unknown words \\['pink'\\]"):
            embed_prompt("a pink circle")

    def test_too_long_prompt_is_refused(self) -> None:
        with pytest.raises(ValueError, match="9 words, expected at most 8"):
            embed_prompt("a " * 9)

    @pytest.mark.parametrize(
        ("name", "prompts"),
        [
            ("prompts.safetensors", CALIBRATION_PROMPTS),
            ("heldout_prompts.safetensors", HELDOUT_PROMPTS),
        ],
    )
    def test_prompt_files_hold_the_listed_prompts(
        self, name: str, prompts: tuple[str, ...]
    ) -> None:
        with safe_open(MODEL_DIR / name, framework="pt") as file:
            assert json.loads(file.metadata()["prompts"]) == list(prompts)
            assert torch.equal(file.get_tensor("prompt_embeds"), embed_prompts(list(prompts)))
            assert torch.equal(file.get_tensor("negative_prompt_embeds"), embed_prompt(""))

    def test_prompt_lists_are_disjoint_scenes(self) -> None:
        listed = [*CALIBRATION_PROMPTS, *HELDOUT_PROMPTS]
        assert len(set(listed)) == len(listed)
        assert set(listed) <= {scene.prompt for scene in ALL_SCENES}


class TestModel:
    def test_loads_through_diffusers(self, model: WanTransformer3DModel) -> None:
        pytest.importorskip("accelerate", reason="diffusers needs it for this class")
        loaded = WanTransformer3DModel.from_pretrained(MODEL_DIR, torch_dtype=torch.float32)
        for name, parameter in loaded.named_parameters():
            assert torch.equal(parameter, model.get_parameter(name)), name

    def test_fits_its_size_limit(self) -> None:
        assert sum(file.stat().st_size for file in MODEL_DIR.iterdir()) < MODEL_SIZE_LIMIT

    @pytest.mark.parametrize(("sigma", "allowed"), ALLOWED_SHARE_OF_ZERO.items())
    def test_denoises_far_better_than_zero(
        self, model: WanTransformer3DModel, batch: Batch, sigma: float, allowed: float
    ) -> None:
        error = errors_at(model, batch, [scene.prompt for scene in batch.scenes], sigma).mean()
        zero_error = 1 + batch.videos.pow(2).mean()
        assert error < allowed * zero_error

    def test_right_prompts_beat_wrong_ones(
        self, model: WanTransformer3DModel, batch: Batch
    ) -> None:
        right = [scene.prompt for scene in batch.scenes]
        wrong = right[1:] + right[:1]
        assert all(a != b for a, b in zip(right, wrong, strict=True))
        right_error = errors_at(model, batch, right, sigma=0.95).mean()
        wrong_error = errors_at(model, batch, wrong, sigma=0.95).mean()
        assert right_error < ALLOWED_SHARE_OF_WRONG_PROMPT * wrong_error

    def test_sampling_moves_from_noise_to_a_video(
        self, model: WanTransformer3DModel, tmp_path: Path
    ) -> None:
        prompts = ["a big red circle moving left"]
        videos = sample_videos(model, embed_prompts(prompts), steps=4, guidance=1.0)
        assert videos.shape == (1, 3, FRAMES, FRAME_SIZE, FRAME_SIZE)
        # Neighbouring pixels of noise are independent; those of a picture are alike.
        assert videos.diff(dim=-1).abs().mean() < 0.25
        write_sheet(videos, prompts, tmp_path / "sheet.png")
        write_gif(videos, tmp_path / "video.gif")
        assert (tmp_path / "sheet.png").stat().st_size > 0
        assert (tmp_path / "video.gif").stat().st_size > 0
