"""The table of memory by model: from the export of one layer and all of the parameters."""

from __future__ import annotations

import diffusers
import pytest

from samples.benchmarks.engine_memory import row
from samples.benchmarks.geometry.releases import Pixels, Release
from tests.engine.conftest import plugin_folder  # noqa: F401 (a fixture)

SMALL = Release(
    "small Wan",
    "WanTransformer3DModel",
    (Pixels(9, 128, 128),),
    {"num_attention_heads": 4, "attention_head_dim": 64, "num_layers": 3, "ffn_dim": 512,
     "text_dim": 32, "freq_dim": 32},
)  # fmt: skip


@pytest.mark.long
def test_a_row_of_the_table(plugin_folder, monkeypatch):  # noqa: F811
    monkeypatch.setenv("PARO_LIBRARY_DIR", str(plugin_folder))
    cells = [cell.strip() for cell in row(SMALL, SMALL.sizes[0]).strip("|").split("|")]
    whole = diffusers.WanTransformer3DModel(**SMALL.config)
    weights = 2e-9 * sum(entry.numel() for entry in whole.parameters())
    assert cells[:3] == ["small Wan", "9 x 128 x 128", f"{weights:.1f}"]
    assert cells[5:] == ["GPUs from 12 GB"] * 3
    assert "?" not in cells
