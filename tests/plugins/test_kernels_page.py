"""docs/kernels.md: its excerpt of the budget is what plugins/kernels/sass/budget.json records."""

from __future__ import annotations

import json
import re

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


def test_the_budget_excerpt_is_the_record():
    if not BUDGET.exists():
        pytest.skip(f"{BUDGET} does not exist: make sass")
    wanted = budget_table(json.loads(BUDGET.read_text())["kernels"])
    found = re.search(r"<!-- budget -->\n(.*?)\n<!-- /budget -->", PAGE.read_text(), re.DOTALL)
    assert found is not None
    assert found[1] == wanted, f"put this between the marks:\n{wanted}"
