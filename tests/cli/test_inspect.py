"""inspect: what it says of plans and ONNX files, and of everything else."""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import replace

import msgspec
import pytest

from paro_trt.plan import Grid, load_plan, plan_mix, save_plan
from tests.support.plans import small_plan


def test_plan_as_json(paro, plan_file):
    document = paro("inspect", plan_file, "--json").document()
    plan = load_plan(plan_file)
    assert document["kind"] == "plan"
    assert document["content_hash"] == plan.content_hash()
    assert [layer["name"] for layer in document["layers"]] == [layer.name for layer in plan.layers]
    head = document["layers"][1]["heads"][0]
    assert head["density"] == list(plan.layers[1].heads[0].density)


def test_measured_effects_of_layers(paro, tmp_path):
    plan = small_plan()
    name = plan.layers[1].name
    measured = {f"effect.{name}": 0.0123, f"time_share.{name}": 0.25}
    plan = replace(plan, calibration=msgspec.structs.replace(plan.calibration, measured=measured))
    save_plan(plan, tmp_path / "plan")
    first, second = paro("inspect", tmp_path / "plan", "--json").document()["layers"]
    assert (first["measured_effect"], first["time_share"]) == (None, None)
    assert (second["measured_effect"], second["time_share"]) == (0.0123, 0.25)
    shown = paro("inspect", tmp_path / "plan").stdout
    assert "effect" in shown
    assert "0.0123" in shown
    assert "0.2500" in shown


def test_plan_as_tables(paro, plan_file):
    plan = load_plan(plan_file)
    outcome = paro("inspect", plan_file)
    assert outcome.status == 0
    for word in (plan.content_hash(), "WanTransformer3DModel", "2 x 8 x 8", "blocks.1.attn1"):
        assert word in outcome.stdout
    figures = plan.layers[0].heads[1].mass
    assert (
        "  ".join(f"{mass:.3f}" for mass in figures) in paro("inspect", plan_file, "--heads").stdout
    )


@pytest.mark.parametrize("rows", [(), ("--heads",)], ids=["layers", "heads"])
def test_names_and_figures_are_whole_in_a_pipe(paro, tmp_path, rows):
    """A plan of version 2 with four bins has the most columns and figures."""
    plan = small_plan(bins=4, pool_dropped=True, fine=0.5, corrected=(1,), dynamic=1)
    save_plan(plan, tmp_path / "plan")
    shown = paro("inspect", tmp_path / "plan", *rows).stdout
    assert "…" not in shown
    for layer in plan.layers:
        assert sum(line.split()[:1] == [layer.name] for line in shown.splitlines()) == 1


@pytest.fixture
def mixed_plan(tmp_path):
    """A plan with all of version 2 in its second layer."""
    whole = small_plan(
        pool_dropped=True, density=0.4, fine=0.5, corrected=(1,), dynamic=1, grid=Grid(2, 16, 16)
    )
    plain = replace(whole.layers[0], fine_mask=None, corrected_heads=None, dynamic_blocks=None)
    plan = replace(whole, layers=(plain, whole.layers[1]))
    save_plan(plan, tmp_path / "mixed")
    return plan, tmp_path / "mixed"


def test_the_mix_as_json(paro, mixed_plan, plan_file):
    plan, path = mixed_plan
    document = paro("inspect", path, "--json").document()
    mix = plan_mix(plan)
    assert document["format_version"] == 2
    assert document["mix"] == {**mix._asdict(), "dynamic_blocks": [0, 1]}
    first, second = document["layers"]
    assert (first["mix"]["fine"], first["dynamic_blocks"], first["corrected_heads"]) == (
        0,
        None,
        None,
    )
    assert (second["dynamic_blocks"], second["corrected_heads"]) == ([[1, 1], [0, 0]], [0, 1])
    assert sum(map(sum, second["fine_blocks"])) == plan.layers[1].fine_blocks().sum() > 0
    assert paro("inspect", plan_file, "--json").document()["format_version"] == 1


def test_the_mix_as_tables(paro, mixed_plan, plan_file):
    plan, path = mixed_plan
    mix = plan_mix(plan)
    shown = paro("inspect", path).stdout
    for words in (
        f"{mix.cost:.4f} of the keys",
        f"exact {mix.exact:.4f}, fine {mix.fine:.4f}, coarse {mix.coarse:.4f}",
        "0 to 1 blocks a query block",
        f"1 of 4, which costs {mix.correction:.4f} of the keys",
        f"choosing costs {mix.routing:.4f} of the keys",
        "blocks a query block chooses at run time",
    ):
        assert words in shown
    of_heads = [
        line for line in paro("inspect", path, "--heads").stdout.splitlines() if "yes" in line
    ]
    assert len(of_heads) == 1
    assert "run-time k" not in paro("inspect", plan_file).stdout


def test_smoothed_layers(paro, plan_file, tmp_path):
    plan = small_plan(heads=4, kv_heads=2, qk_bits=4, rotated=(1,))
    plain = replace(plan.layers[0], rotation=None)
    path = tmp_path / "smoothed"
    save_plan(replace(plan, layers=(plain, plan.layers[1])), path)
    first, second = paro("inspect", path, "--json").document()["layers"]
    assert (first["smoothed"], first["rotated_heads"]) == (False, None)
    assert (second["smoothed"], second["rotated_heads"]) == (True, [0, 1])
    shown = paro("inspect", path).stdout
    for words in ("1 of 2 layers, 1 of their 2 key/value heads rotated", "4 s1/8", "4/8"):
        assert words in shown
    assert "smoothed" not in paro("inspect", plan_file).stdout


def test_affine_counts_heads_that_use_each_part():
    from paro_trt.cli.plan_document import affine_use

    assert set(affine_use(small_plan(identity_affine=True).layers[0]).values()) == {0}
    assert set(affine_use(small_plan(heads=4, kv_heads=2).layers[0]).values()) == {2}


def test_onnx_as_json_and_tables(paro, onnx_file, plan_file):
    document = paro("inspect", onnx_file, "--json").document()
    plan = load_plan(plan_file)
    assert document["metadata"]["paro.plan_hash"] == plan.content_hash()
    nodes = document["paro_attention"]
    assert len(nodes) == len(plan.layers)
    assert nodes[0]["attributes"]["qk_bits"] == plan.layers[0].qk_bits
    assert document["functions"] == ["paro::PAROAttention"]
    assert [tensor["name"] for tensor in document["inputs"]] == [
        "hidden_states", "timestep", "encoder_hidden_states", "mask_bin",
    ]  # fmt: skip
    outcome = paro("inspect", onnx_file)
    assert plan.content_hash() in outcome.stdout
    assert "2 nodes, function body: sparse" in outcome.stdout


def test_content_decides_not_the_name(paro, plan_file, onnx_file, tmp_path):
    for source, kind in ((plan_file, "plan"), (onnx_file, "onnx")):
        disguised = tmp_path / f"{kind}.engine"
        shutil.copy(source, disguised)
        assert paro("inspect", disguised, "--json").document()["kind"] == kind


def test_what_it_cannot_read(paro, plan_file, onnx_file, prompts_file, tmp_path):
    paro("inspect", tmp_path / "none").assert_refused("no such file")
    paro("inspect", tmp_path).assert_refused("a directory")
    empty = tmp_path / "empty"
    empty.touch()
    paro("inspect", empty).assert_refused("an empty file")
    (tmp_path / "text").write_text("hello, this is no model")
    paro("inspect", tmp_path / "text").assert_refused("begins with 68 65")
    (tmp_path / "manifest").write_text(json.dumps({"engine": 1}))
    paro("inspect", tmp_path / "manifest").assert_refused(
        "paro_engine: expected format 1, got none"
    )
    paro("inspect", prompts_file).assert_refused(str(prompts_file))
    for source in (plan_file, onnx_file):
        cut = tmp_path / f"cut-{source.name}"
        shutil.copy(source, cut)
        os.truncate(cut, cut.stat().st_size // 2)
        paro("inspect", cut).assert_refused(cut.name)
