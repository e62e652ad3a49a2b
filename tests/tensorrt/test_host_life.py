"""The plugin's whole life in the harness: every step checked, the output equal to the reference."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from paro_trt.op.spec import AttentionConfig
from tests.support.cases import (
    BIT_PAIRS,
    CASES,
    SMOOTHED_CASES,
    VERSION_2_CASES,
    OpCase,
    at_bits,
    random_inputs,
)
from tests.support.numerics import compare

from .harness import host_build, live, run, write_case

STAND_IN_DRIVER = Path(__file__).parent / "stand_in_driver.c"

BATCHED = OpCase(
    "batched", 203, batch=3, heads=4, kv_heads=2, bins=2, key_length=(203, 77, 0),
    empty_rows=True, config=AttentionConfig(block_q=128, block_k=64, scale=0.11),
)  # fmt: skip


ALL_FEATURES = {
    "fine_summaries": True, "mean_correction": True, "routing": True, "smoothing": True,
}  # fmt: skip


def assert_life_ends_in_the_reference(case: OpCase, seed: int, folder: Path) -> None:
    inputs = random_inputs(case, seed)
    output = live(host_build(), write_case(folder, inputs, case.config), inputs)
    comparison = compare(output, inputs, case.config)
    assert comparison.ok, comparison.failures


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_every_case(case: OpCase, fresh_seed: int, tmp_path: Path) -> None:
    narrow = case if case.dtype is not torch.float32 else replace(case, dtype=torch.float16)
    assert_life_ends_in_the_reference(narrow, fresh_seed, tmp_path)


@pytest.mark.parametrize(
    "name",
    [
        "fine-padded",
        "corrected",
        "routed-wide",
        "all",
        "all-bfloat16",
        "smoothed-tall-wide",
        "smoothed-all",
    ],
)
def test_version_2(name: str, fresh_seed: int, tmp_path: Path) -> None:
    case = next(case for case in (*VERSION_2_CASES, *SMOOTHED_CASES) if case.name == name)
    if case.dtype is torch.float32:
        case = replace(case, dtype=torch.float16)
    bits = 4 if case.config.smoothing else 8
    assert_life_ends_in_the_reference(at_bits(case, bits, 8), fresh_seed, tmp_path)


def test_version_2_without_its_features_is_version_1(fresh_seed: int, tmp_path: Path) -> None:
    case = replace(BATCHED, dtype=torch.float16).with_bits(8, 8, pool_dropped=True)
    inputs = random_inputs(case, fresh_seed)
    older = live(host_build(), write_case(tmp_path / "1", inputs, case.config), inputs)
    folder = write_case(tmp_path / "2", inputs, case.config, version=2)
    assert torch.equal(live(host_build(), folder, inputs), older)


def test_engines_of_version_1_keep_their_fields() -> None:
    """What an engine stores, and what its timing cache knows it by, as 0.1.0 wrote it."""
    build = host_build()
    contract = json.loads(run(build.program, "contract", build.library))[0]
    assert [field["name"] for field in contract["stored"]] == [
        "scale", "block_q", "block_k", "qk_bits", "pv_bits", "pool_dropped", "max_workspace_mib",
        "kernel_library",
    ]  # fmt: skip
    assert contract["timing_cache_id"].startswith(
        "scale=0x0p+0 block_q=64 block_k=64 qk_bits=16 pv_bits=16 pool_dropped=0 "
        "max_workspace_mib=0 kernels="
    )
    assert "routing" not in contract["timing_cache_id"]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("bits", BIT_PAIRS[1::3], ids=str)
def test_dynamic_batch_of_grouped_heads(
    dtype: torch.dtype, bits: tuple[int, int], fresh_seed: int, tmp_path: Path
) -> None:
    case = replace(BATCHED, dtype=dtype).with_bits(*bits, pool_dropped=True)
    assert_life_ends_in_the_reference(case, fresh_seed, tmp_path)


@pytest.mark.parametrize("variant", ["plain", pytest.param("sanitizers", marks=pytest.mark.long)])
@pytest.mark.parametrize("features", [{}, ALL_FEATURES], ids=["1", "2"])
def test_misuse_is_answered_by_a_status_and_one_line(
    features: dict[str, bool], variant: str, fresh_seed: int, tmp_path: Path
) -> None:
    bits = 4 if features else 8
    case = replace(BATCHED, dtype=torch.bfloat16).with_bits(bits, 8, pool_dropped=bool(features))
    case = replace(case, config=replace(case.config, **features))
    folder = write_case(tmp_path, random_inputs(case, fresh_seed), case.config)
    build = host_build(variant)
    said = run(build.program, "misuse", build.library, folder)
    assert ", 0 failed" in said


@pytest.mark.long
def test_life_under_sanitizers(fresh_seed: int, tmp_path: Path) -> None:
    case = replace(BATCHED, dtype=torch.float16).with_bits(8, 4, pool_dropped=True)
    inputs = random_inputs(case, fresh_seed)
    output = live(host_build("sanitizers"), write_case(tmp_path, inputs, case.config), inputs)
    assert compare(output, inputs, case.config).ok


def test_life_through_the_driver(fresh_seed: int, tmp_path: Path) -> None:
    """The harness's way to a GPU, with a stub of the driver."""
    build = host_build()
    run("gcc", "-shared", "-fPIC", "-o", tmp_path / "libcuda.so.1", STAND_IN_DRIVER)
    case = replace(BATCHED, dtype=torch.float16).with_bits(8, 8, pool_dropped=True)
    inputs = random_inputs(case, fresh_seed)
    folder = write_case(tmp_path / "case", inputs, case.config)
    words = (build.library, folder, tmp_path / "out.bin", "cuda")
    said = run(build.program, "life", *words, LD_LIBRARY_PATH=str(tmp_path))
    assert ", 0 failed" in said
    expected = live(build, folder, inputs).view(torch.uint8).numpy().tobytes()
    assert (tmp_path / "out.bin").read_bytes() == expected
    words = (build.library, folder, "cuda")
    assert ", 0 failed" in run(build.program, "misuse", *words, LD_LIBRARY_PATH=str(tmp_path))


def test_without_a_driver_the_gpu_is_refused(tmp_path: Path, fresh_seed: int) -> None:
    if Path("/dev/nvidiactl").exists():
        pytest.skip("this machine has a GPU's driver")
    build = host_build()
    folder = write_case(tmp_path, random_inputs(BATCHED, fresh_seed), BATCHED.config)
    said = run(build.program, "life", build.library, folder, tmp_path / "o", "cuda", status=1)
    assert "FAILED: libcuda.so.1" in said
