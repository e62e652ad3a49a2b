"""docs/kernels.md and kernels-hopper.md: the excerpt of the budget and the forecasts follow from
what plugins/kernels/sass records."""

from __future__ import annotations

import json
import re

import pytest

from plugins.kernels.sass import forecast
from tests.native_builds import PLUGINS, ROOT

DOCS = ROOT / "docs"
BUDGET = PLUGINS / "kernels" / "sass" / "budget.json"
TARGETS = ("80", "86", "89", "90a", "100", "120")
EXCERPT = [
    f"{sizes} {numbers}"
    for numbers, all_sizes in {
        "s8-s8": ("64x128x64", "64x128x128", "128x128x64", "128x128x128"),
        "f16-f16": ("64x128x64", "128x128x64"),
    }.items()
    for sizes in all_sizes
]


def budget_table(kernels: dict[str, dict[str, dict[str, float]]]) -> str:
    """What the page must hold between its marks."""
    lines = [
        "| D x block_q x step keys, Q K - P V | " + " | ".join(f"sm_{t}" for t in TARGETS) + " |",
        "|---|" + "---|" * len(TARGETS),
    ]
    for name in EXCERPT:
        costs = [kernels[target][f"sparse_attention {name}"] for target in TARGETS]
        cells = [f"{c['registers']} / {c['per_score']:.1f} / {c['local']}" for c in costs]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


SIZES = [(64, 64), (64, 128), (128, 64), (128, 128)]


OPERATIONS_A_CLOCK = {"A100": 4096, "RTX 4090": 2048, "H200 by mma.sync": 4900, "RTX 5090": 2048}
"""Of 8 bits and an SM, from datasheets; those of mma.sync."""

WGMMA, MMA_SYNC = "H200 by wgmma", "sparse_attention "
CALIBRATION = 900 / 1170
"""Of SageAttention's wgmma kernel on an H100: TOPS in publications, and those of the model."""

BEST_BF16 = {64: 450, 128: 620}
"""TFLOPS of the best attention on a Hopper in publications, by head_dim."""


def modelled(gpu: str, kernel: str) -> int:
    """TOPS of a recorded forecast."""
    return next(row.tops for row in forecast.load() if (row.gpu, row.kernel) == (gpu, kernel))


def model_row(gpu: forecast.Gpu, head_dim: int, step_keys: int, instructions: float) -> str:
    """A line of the model: clocks of an SM for one score, and 10^12 operations a second."""
    tensor, ex2 = 4 * head_dim / OPERATIONS_A_CLOCK[gpu.name], 1 / 16
    issue, shared = instructions / 128, shared_bytes(head_dim, step_keys) / 128
    bound = 4 * head_dim * gpu.sms * gpu.ghz / 1000 / max(tensor, ex2, issue, shared)
    clocks = " | ".join(f"{cost:.3f}" for cost in (tensor, ex2, issue, shared))
    case = f"{gpu.name} ({gpu.ghz} GHz), {head_dim}, {step_keys}"
    tops = modelled(gpu.name, f"{MMA_SYNC}{head_dim}x128x{step_keys} s8-s8")
    assert tops <= bound, f"{case}: {tops} modelled, {bound:.0f} possible"
    return f"| {case} | {clocks} | {bound:.0f} | {tops} |"


def shared_bytes(head_dim: int, step_keys: int) -> float:
    """Read from shared memory for a score: K and V once for a warp's rows, Q once a step."""
    rows = 32 if step_keys == 64 else 16
    return 2 * head_dim / rows + head_dim / step_keys


def model_table(kernels: dict[str, dict[str, dict[str, float]]]) -> str:
    """What the page must hold between its marks."""
    lines = [
        "| GPU, D, step keys | tensor | ex2 | issue | shared | bound | modelled |",
        "|---|---|---|---|---|---|---|",
    ]
    for gpu in forecast.GPUS:
        if gpu.name == WGMMA:
            continue
        for head_dim, step_keys in SIZES:
            name = f"{MMA_SYNC}{head_dim}x128x{step_keys} s8-s8"
            per_score = kernels[gpu.target][name]["per_score"]
            lines.append(model_row(gpu, head_dim, step_keys, per_score))
    return "\n".join(lines)


def stage1_table(kernels: dict[str, dict[str, dict[str, float]]]) -> str:
    """What the page must hold between its marks: instructions for each byte."""
    lines = [
        "| D x block_k | sm_90a, dropped | pooled | sm_80, dropped | pooled |",
        "|---|---|---|---|---|",
    ]
    for head_dim, block_k in SIZES:
        names = [f"reorder_tokens {head_dim}x{block_k} f16{pooled}" for pooled in ("", " pooled")]
        costs = [kernels[target][name]["per_byte"] for target in ("90a", "80") for name in names]
        cells = " | ".join(f"{cost:.3f}" for cost in costs)
        lines.append(f"| {head_dim} x {block_k} | {cells} |")
    return "\n".join(lines)


def wgmma_table(_: dict[str, dict[str, dict[str, float]]]) -> str:
    """What kernels-hopper.md must hold between its marks."""
    lines = [
        "| D, block_k | modelled TOPS | scaled by the calibration | 1.3 x the best BF16 |",
        "|---|---|---|---|",
    ]
    for head_dim, block_k in reversed(SIZES):
        tops = modelled(WGMMA, f"sparse_attention_wgmma {head_dim}x128x{block_k}")
        target = 1.3 * BEST_BF16[head_dim]
        lines.append(
            f"| {head_dim}, {block_k} | {tops:,} | {tops * CALIBRATION:.0f} | {target:.0f} |"
        )
    return "\n".join(lines)


@pytest.mark.parametrize(
    ("page", "part", "wanted"),
    [
        ("kernels.md", "budget", budget_table),
        ("kernels.md", "model", model_table),
        ("kernels.md", "stage1", stage1_table),
        ("kernels-hopper.md", "forecast", wgmma_table),
    ],
)
def test_the_pages_follow_from_the_record(page, part, wanted):
    text = wanted(json.loads(BUDGET.read_text())["kernels"])
    found = re.search(
        rf"<!-- {part} -->\n(.*?)\n<!-- /{part} -->", (DOCS / page).read_text(), re.DOTALL
    )
    assert found is not None
    assert found[1] == text, f"put this between the marks:\n{text}"
