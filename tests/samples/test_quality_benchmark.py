"""The quality ablation: its attention is the op's, its policies keep to their density."""

import dataclasses
import itertools
import json
import math
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from paro_trt.calibration import calibrate
from paro_trt.calibration.embeddings_source import EmbeddingsSource
from paro_trt.calibration.orders import visual_order
from paro_trt.calibration.statistics import Tiling
from paro_trt.models.load import load_model
from paro_trt.models.prompts import load_prompts
from paro_trt.op.mask import pack_block_mask, tile_order, unpack_block_mask
from paro_trt.op.spec import AttentionConfig, AttentionInputs
from paro_trt.plan import Grid
from samples.benchmarks.quality.attention import AttentionCall, Selection, selected_attention
from samples.benchmarks.quality.bench import Bench, Extent, measure_missing, stored_results
from samples.benchmarks.quality.dynamic import SpatialTemporal, TopBlocks
from samples.benchmarks.quality.evaluate import Quality, Sampling, measure
from samples.benchmarks.quality.masks import band_distance, nearest_blocks, window_distance
from samples.benchmarks.quality.policies import SPARSE_KINDS, Configuration, Kind, make_policy
from samples.benchmarks.quality.report import (
    Result,
    terminal_table,
    write_csv,
    write_page,
    write_plot,
)
from tests.support.numerics import compare
from tests.support.tiny_wan import TEXT_DIM, TEXT_TOKENS, tiny_wan

LATENT_SIZE, TOKENS = (4, 32, 16), 512
QUERY_BLOCKS, KEY_BLOCKS = 4, 8
EXTENT = Extent(
    densities=(0.5,),
    bits=((8, 8),),
    calibration_prompts=1,
    prompts_per_seed=1,
    seeds=(5, 6),
    sampling=Sampling(LATENT_SIZE, steps=4, probed_steps=(1, 3)),
)


@pytest.fixture(scope="module")
def model_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("model")
    tiny_wan(seed=3).save_pretrained(path)
    for name, seed in (("prompts", 1), ("heldout_prompts", 2)):
        generator = torch.Generator().manual_seed(seed)
        tensors = {
            "prompt_embeds": torch.randn(2, TEXT_TOKENS, TEXT_DIM, generator=generator),
            "negative_prompt_embeds": torch.zeros(TEXT_TOKENS, TEXT_DIM),
        }
        metadata = {"prompts": json.dumps(["one", "two"])}
        save_file(tensors, path / f"{name}.safetensors", metadata=metadata)
    return path


@pytest.fixture(scope="module")
def bench(model_path: Path) -> Bench:
    return Bench(model_path, EXTENT)


@pytest.mark.parametrize(
    ("qk_bits", "pv_bits", "pooled"), list(itertools.product((16, 8, 4), (16, 8, 4), (False, True)))
)
def test_attention_equals_the_reference(qk_bits: int, pv_bits: int, pooled: bool) -> None:
    batch, heads, channels = 2, 2, 64
    query, key, value = torch.randn(3, batch, TOKENS, heads, channels) + 0.3
    mask = torch.rand(1, heads, QUERY_BLOCKS, KEY_BLOCKS) < 0.4
    mask[..., 0] = True
    mask[0, 0, 0] = True
    order = torch.stack([torch.randperm(TOKENS) for _ in range(heads)])
    shifts, factors = torch.randn(2, heads, channels) * 0.2, torch.rand(2, heads, channels) + 0.5
    affine = torch.stack([shifts[0], factors[0], shifts[1], factors[1]])
    config = AttentionConfig(128, 64, qk_bits, pv_bits, pooled)
    call = AttentionCall(0, 500.0, query, key, value, channels**-0.5)

    output = selected_attention(call, Selection(order[None], mask), config, affine)

    words = pack_block_mask(mask.numpy())
    inputs = AttentionInputs(
        query, key, value, order.int(), torch.arange(heads).int(), torch.from_numpy(words),
        torch.from_numpy(tile_order(words)), affine, torch.zeros(batch).int(),
        torch.full((batch,), TOKENS).int(),
    )  # fmt: skip
    assert compare(output, inputs, config).failures == ()


def test_attention_follows_each_sample() -> None:
    query, key, value = torch.randn(3, 2, TOKENS, 1, 64) + 0.3
    mask = torch.rand(2, 1, QUERY_BLOCKS, KEY_BLOCKS) < 0.5
    mask[..., 1] = True
    order = torch.stack([torch.randperm(TOKENS) for _ in range(2)])[:, None]
    config = AttentionConfig()
    both = selected_attention(
        AttentionCall(0, 1.0, query, key, value, 0.1), Selection(order, mask), config
    )
    for sample in range(2):
        inputs = (tensor[sample : sample + 1] for tensor in (query, key, value))
        alone = selected_attention(
            AttentionCall(0, 1.0, *inputs, 0.1), Selection(order[sample, None], mask[sample, None]),
            config,
        )  # fmt: skip
        assert torch.equal(both[sample], alone[0])


@pytest.mark.parametrize("density", [0.1, 0.3, 0.47, 1.0])
def test_nearest_blocks_keep_the_budget_and_the_nearest(density: float) -> None:
    distance = torch.rand(3, 16, 32)
    mask = nearest_blocks(distance, density)
    assert mask.sum(dim=(1, 2)).tolist() == [math.floor(density * 16 * 32 + 1e-9)] * 3
    assert int(mask.sum(dim=2).max() - mask.sum(dim=2).min()) <= 1
    farthest_kept = distance.masked_fill(~mask, -1).amax(dim=2)
    nearest_left = distance.masked_fill(mask, 2).amin(dim=2)
    assert bool((farthest_kept < nearest_left).all())


def test_window_is_a_box_around_the_query() -> None:
    grid = Grid(4, 16, 16)
    order = torch.from_numpy(visual_order(grid, "tile4x4x4")).long()
    distance = window_distance(grid, order, Tiling(64, 64), (1.0, 1.0, 1.0))
    centre = 1 * 4 + 1  # tile row 1, column 1 of 4 x 4 tiles
    kept = nearest_blocks(distance, 9 / 16)[centre].nonzero().flatten().tolist()
    assert kept == [0, 1, 2, 4, 5, 6, 8, 9, 10]


def test_heads_are_told_apart_as_spatial_and_temporal() -> None:
    grid = Grid(8, 8, 8)
    frame, place = torch.arange(512) // 64, torch.arange(512) % 64
    codes = torch.randn(64, 64)
    spatial, temporal = codes[frame], codes[place]
    query = torch.stack([spatial, temporal], dim=1)[None]
    orders = torch.stack([torch.from_numpy(visual_order(grid, n)).long() for n in ("fhw", "hwf")])
    mask = nearest_blocks(band_distance(512, Tiling(128, 64)), 0.25)
    policy = SpatialTemporal(orders, mask, Tiling(128, 64))
    call = AttentionCall(0, 1.0, query, query, torch.randn(1, 512, 2, 64), 1.0)
    assert torch.equal(policy(call).order[0], orders)


def test_top_blocks_finds_the_block_that_matters() -> None:
    query, key = torch.randn(2, 1, TOKENS, 1, 64) * 0.1
    query[:, 128:256] += 1.0
    key[:, 320:384] += 1.0
    policy = TopBlocks(torch.arange(TOKENS), Tiling(128, 64), 1 / KEY_BLOCKS)
    selection = policy(AttentionCall(0, 1.0, query, key, key, 1.0))
    assert selection.mask[0, 0, 1].nonzero().flatten().tolist() == [5]


@pytest.mark.parametrize("kind", SPARSE_KINDS)
@pytest.mark.parametrize("density", [0.35, 0.6])
def test_masks_have_the_density_asked_for(kind: Kind, density: float, bench: Bench) -> None:
    policy = make_policy(Configuration(kind, density), bench.captures)
    one_block = 1 / (QUERY_BLOCKS * KEY_BLOCKS)
    reached = [policy.attend(call)[1] for call, _ in bench.runs(5).calls]
    mean = sum(reached) / len(reached)
    assert density - one_block < mean <= density + 1e-6


def test_paro_masks_are_those_of_calibrate(bench: Bench, model_path: Path, tmp_path: Path) -> None:
    settings = dataclasses.replace(
        EXTENT.settings(), density=0.4, qk_bits=16, pv_bits=16, time_attention=False
    )
    prompts = load_prompts(model_path / "prompts.safetensors")
    source = EmbeddingsSource(load_model(model_path), prompts, LATENT_SIZE, EXTENT.schedule)
    plan = calibrate(source, settings, tmp_path / "plan.paro.safetensors")
    masks = make_policy(Configuration(Kind.PARO_POOLED, 0.4), bench.captures).select
    for index, layer in enumerate(plan.layers):
        assert masks.names[index] == tuple(head.order for head in layer.heads)
        expected = unpack_block_mask(layer.block_mask, KEY_BLOCKS)
        assert torch.equal(masks.masks[index], torch.from_numpy(expected))


def test_every_seed_has_its_own_prompts(bench: Bench) -> None:
    assert [bench.runs(seed).prompts.texts for seed in (5, 6)] == [("one",), ("two",)]
    assert not torch.equal(bench.runs(5).noise, bench.runs(6).noise)


def test_dense_is_exact_and_the_rest_is_not(bench: Bench) -> None:
    def quality(*configuration: object):
        return measure(make_policy(Configuration(*configuration), bench.captures), bench.runs(6))

    dense = quality(Kind.DENSE, 1.0)
    assert dense.psnr == [math.inf]
    assert dense.relative_l2 == [0.0] * len(dense.relative_l2)
    eight, four = (quality(Kind.DENSE, 1.0, bits, bits) for bits in (8, 4))
    assert math.inf > eight.psnr[0] > four.psnr[0]
    assert quality(Kind.RANDOM, 0.3).psnr[0] < eight.psnr[0]


def test_results_resume_and_are_reported(
    bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn: list[tuple[Configuration, int]] = []

    def draw(configuration: Configuration, seed: int) -> Quality:
        drawn.append((configuration, seed))
        psnr, ssim, relative_l2 = torch.rand(3, 4).tolist()
        return Quality(configuration.density, psnr, ssim, relative_l2)

    monkeypatch.setattr(bench, "measure", draw)
    measure_missing(bench, tmp_path / "work")
    results = stored_results(EXTENT, tmp_path / "work")
    assert drawn == [(c, seed) for seed in (5, 6) for c in EXTENT.configurations(seed)]
    assert [len(result.quality.psnr) for result in results] == [
        4 if result.configuration.quantized else 8 for result in results
    ]
    measured = len(drawn)
    next((tmp_path / "work").iterdir()).unlink()
    measure_missing(bench, tmp_path / "work")
    again = stored_results(EXTENT, tmp_path / "work")
    assert len(drawn) == measured + 1
    assert sum(old != new for old, new in zip(results, again, strict=True)) == 1

    output = tmp_path / "quality"
    write_csv(results, TOKENS, output.with_suffix(".csv"))
    write_plot(results, output.with_suffix(".png"))
    write_page(results, [("date", "today")], output.with_suffix(".png"), output.with_suffix(".md"))
    assert terminal_table(results).row_count == len(results)
    assert len(output.with_suffix(".csv").read_text().splitlines()) == len(results) + 1
    page = output.with_suffix(".md").read_text()
    assert all(kind.value in page for kind in SPARSE_KINDS)
    assert output.with_suffix(".png").stat().st_size > 0


def test_a_report_of_a_few_results_says_what_is_missing(tmp_path: Path) -> None:
    quality = Quality(0.3, [20.0, 21.0], [0.9, 0.8], [0.1, 0.2])
    results = [
        Result(Configuration(Kind.PARO_POOLED, density), quality) for density in (0.5, 0.3)
    ] + [Result(Configuration(Kind.RANDOM, 0.3), quality)]
    page = tmp_path / "quality.md"
    write_page(results, [], tmp_path / "quality.png", page)
    assert "Density 0.5: not measured" in page.read_text()
    assert "Density 0.3: PARO, pooled is +0.00" in page.read_text()
