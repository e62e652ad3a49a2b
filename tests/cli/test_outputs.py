"""Names of outputs: an earlier result is replaced and stderr says so; nothing else is."""

from __future__ import annotations

from pathlib import Path

import pytest
import typer

from paro_trt.cli.app import app
from paro_trt.cli.paths import Kind, check_output
from paro_trt.errors import ArgumentError

WRITERS = ("calibrate", "report", "export", "build", "generate", "run", "bench", "encode", "refit")


@pytest.fixture
def results(plan_file: Path, onnx_file: Path, prompts_file: Path, paro, tmp_path) -> dict:
    """A result of each kind."""
    page = tmp_path / "page.html"
    assert paro("report", plan_file, "-o", page).status == 0
    engine, manifest = tmp_path / "a.engine", tmp_path / "a.engine.json"
    engine.write_bytes(b"ftrt")
    manifest.write_text("{}")
    table, picture = tmp_path / "rows.csv", tmp_path / "picture.png"
    bench = paro(
        "bench", "--tokens", "64", "--head-dim", "64", "--heads", "1", "--density", "1",
        "--rounds", "1", "--no-flex", "--csv", table, "--plot", picture,
    )  # fmt: skip
    assert bench.status == 0
    return {
        Kind.PLAN: plan_file, Kind.TENSORS: prompts_file, Kind.ONNX: onnx_file, Kind.PAGE: page,
        Kind.ENGINE: engine, Kind.TABLE: table, Kind.MEDIA: picture,
    }  # fmt: skip


def test_each_kind_is_known_by_its_content(results, capsys):
    for kind in Kind:
        for of, path in results.items():
            capsys.readouterr()
            if of is kind:
                assert check_output(path, kind, force=False) == path
                announced = "is there and will be replaced" in capsys.readouterr().err
                assert announced is (kind is not Kind.ENGINE)
            else:
                with pytest.raises(ArgumentError, match="--force replaces it"):
                    check_output(path, kind, force=False)
                check_output(path, kind, force=True)


def test_free_names_empty_files_and_places_where_no_file_can_be(tmp_path, capsys):
    check_output(tmp_path / "new", Kind.PLAN)
    (tmp_path / "empty").touch()
    check_output(tmp_path / "empty", Kind.PLAN)
    assert capsys.readouterr().err == ""
    with pytest.raises(ArgumentError, match="got a directory"):
        check_output(tmp_path)
    with pytest.raises(ArgumentError, match=r"mkdir -p '.*/no such'"):
        check_output(tmp_path / "no such" / "file")


def test_a_directory_that_takes_no_files_is_refused_before_any_work(plan_file, paro):
    # /proc takes none, not even from root, for whom permission bits say nothing.
    refused = paro("report", plan_file, "-o", "/proc/page.html")
    refused.assert_refused("-o /proc/page.html: expected a file in a directory that takes files")
    assert not list(Path("/proc").glob(".paro-*"))


def test_files_of_other_kinds_are_refused_by_their_kind(
    paro, plan_file, onnx_file, prompts_file, tmp_path
):
    manifest = tmp_path / "a.onnx"
    manifest.write_text('  {"format": 1}')
    for other, kind in (
        (plan_file, "a plan (safetensors)"),
        (prompts_file, "a safetensors file"),
        (manifest, "a JSON document"),
    ):
        refused = paro("doctor", "--file", other)
        refused.assert_refused(f"{other}: expected an ONNX file, got {kind}")
    page = tmp_path / "page.html"
    for other, kind in ((onnx_file, "an ONNX model"), (manifest, "a JSON document")):
        refused = paro("report", other, "-o", page)
        refused.assert_refused(f"expected a plan (safetensors), got {kind}")
    assert not page.exists()


def test_what_is_read_is_never_replaced(paro, plan_file, onnx_file, prompts_file, tmp_path):
    link = tmp_path / "link.safetensors"
    link.symlink_to(prompts_file)
    before = {path: path.read_bytes() for path in (plan_file, onnx_file, prompts_file)}
    for words in (
        ("report", plan_file, "-o", plan_file),
        ("run", onnx_file, "--inputs", prompts_file, "-o", onnx_file),
        ("run", onnx_file, "--inputs", prompts_file, "-o", link),
        ("export", tmp_path, "--plan", plan_file, "-o", plan_file),
        ("build", onnx_file, "-o", onnx_file),
    ):
        paro(*words, "--force").assert_refused("-o", "the file that is read")
    assert all(path.read_bytes() == content for path, content in before.items())


@pytest.mark.parametrize("verb", WRITERS)
def test_every_verb_that_writes_has_force(verb):
    parameters = typer.main.get_command(app).commands[verb].params
    assert "--force" in {option for parameter in parameters for option in parameter.opts}
