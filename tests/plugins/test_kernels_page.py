"""docs/kernels.md: its excerpt of the budget, and its model of the time, follow from what
plugins/kernels/sass/budget.json records."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass

import pytest

from tests.native_builds import PLUGINS, ROOT

PAGE = ROOT / "docs" / "kernels.md"
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


@dataclass(frozen=True)
class Gpu:
    """What the model takes from datasheets; 8-bit operations are those of mma.sync.

    modelled: TOPS that the scheduler model gave the hot loops, by `SIZES`; recorded by hand.
    """

    name: str
    target: str
    sms: int
    ghz: float
    operations_a_clock: int
    modelled: tuple[int, int, int, int]

    def row(self, head_dim: int, step_keys: int, instructions: float) -> str:
        """A line of the model: clocks of an SM for one score, and 10^12 operations a second."""
        tensor, ex2 = 4 * head_dim / self.operations_a_clock, 1 / 16
        issue, shared = instructions / 128, shared_bytes(head_dim, step_keys) / 128
        bound = 4 * head_dim * self.sms * self.ghz / 1000 / max(tensor, ex2, issue, shared)
        clocks = " | ".join(f"{cost:.3f}" for cost in (tensor, ex2, issue, shared))
        case = f"{self.name} ({self.ghz} GHz), {head_dim}, {step_keys}"
        modelled = self.modelled[SIZES.index((head_dim, step_keys))]
        assert modelled <= bound, f"{case}: {modelled} modelled, {bound:.0f} possible"
        return f"| {case} | {clocks} | {bound:.0f} | {modelled} |"


GPUS = (
    Gpu("A100", "80", 108, 1.41, 4096, (270, 300, 310, 430)),
    Gpu("RTX 4090", "89", 128, 2.52, 2048, (515, 560, 530, 580)),
    Gpu("H200 by mma.sync", "90a", 132, 1.7, 4900, (445, 450, 580, 645)),
    Gpu("RTX 5090", "120", 170, 2.41, 2048, (730, 720, 750, 760)),
)


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
    for gpu in GPUS:
        for head_dim, step_keys in SIZES:
            name = f"sparse_attention {head_dim}x128x{step_keys} s8-s8"
            lines.append(gpu.row(head_dim, step_keys, kernels[gpu.target][name]["per_score"]))
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


@pytest.mark.parametrize("part", ["budget", "model", "stage1"])
def test_the_page_follows_from_the_record(part):
    kernels = json.loads(BUDGET.read_text())["kernels"]
    tables = {"budget": budget_table, "model": model_table, "stage1": stage1_table}
    wanted = tables[part](kernels)
    found = re.search(rf"<!-- {part} -->\n(.*?)\n<!-- /{part} -->", PAGE.read_text(), re.DOTALL)
    assert found is not None
    assert found[1] == wanted, f"put this between the marks:\n{wanted}"
