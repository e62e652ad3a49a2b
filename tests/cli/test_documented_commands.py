"""Every `paro-trt` line of the documentation is one that the command line takes."""

from __future__ import annotations

import ast
import functools
import inspect
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer

from paro_trt.cli.app import app
from paro_trt.cli.sizes import parse_picture_size, parse_video_size
from paro_trt.runtime.transformer import EngineTransformer

ROOT = Path(__file__).resolve().parents[2]
WALKTHROUGHS = sorted((ROOT / "docs" / "walkthroughs").glob("*.md"))
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")), *WALKTHROUGHS]
_COMMAND = re.compile(r"^ {4}(?:.* do )?paro-trt (.*)$")
_PYTHON = re.compile(r"^```python.*?\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def commands(text: str) -> Iterator[list[str]]:
    """Words of each command of the page after `paro-trt`, continued lines joined."""
    for line in re.sub(r"\\\n\s*", " ", text).splitlines():
        # Brackets around options are the notation of a synopsis.
        if (found := _COMMAND.match(line)) and "[-" not in line:
            # Where prose follows in a column of its own, it is not the command's.
            words = shlex.split(re.split(r" {3,}(?!#)", found[1])[0], comments=True)
            if "&" in words:
                words = words[: words.index("&")]
            # A variable stands for one word, a device's for its number.
            yield [re.sub(r"\$\w+", "0", word) for word in words]


@functools.cache
def command_line() -> Any:
    """The group of all commands."""
    return typer.main.get_command(app)


def parse(words: list[str]) -> dict[str, Any]:
    """What the command line makes of the words; it runs nothing."""
    name, *rest = words
    params: dict[str, Any] = command_line().commands[name].make_context(name, rest).params
    # Sizes are text until the command runs.
    if params.get("video"):
        parse_video_size("--video", params["video"])
    if name != "build" and params.get("size"):
        parse_picture_size("--size", params["size"])
    return params


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_commands_parse(page: Path) -> None:
    for words in commands(page.read_text(encoding="utf-8")):
        try:
            parse(words)
        except Exception as error:  # typer's have no public base
            pytest.fail(f"{page.name}: paro-trt {shlex.join(words)}: {error!r} {error}")


def test_walkthroughs_go_the_whole_way() -> None:
    models = [page for page in WALKTHROUGHS if page.name != "README.md"]
    assert len(models) == 4
    for page in models:
        verbs = [words[0] for words in commands(page.read_text())]
        assert list(dict.fromkeys(verb for verb in verbs if verb != "verify")) == [
            "calibrate", "generate", "export", "build",
        ]  # fmt: skip
        assert verbs[-1] == "generate"
        assert page.name in (page.parent / "README.md").read_text()


def test_walkthroughs_hand_on_what_they_made() -> None:
    """Each plan, file and engine that a command takes was written by one before it."""
    for page in WALKTHROUGHS:
        written: set[str] = set()
        for words in commands(page.read_text()):
            if words == ["doctor"]:
                continue
            params = parse(words)
            plans = () if words[0] == "calibrate" else params.get("plan") or ()
            taken = [params.get("onnx_file"), params.get("engine"), params.get("engine_2")]
            taken += plans if isinstance(plans, list | tuple) else [plans]
            missing = {str(path) for path in taken if path} - written
            assert not missing, (page.name, words)
            written.add(words[words.index("-o") + 1] if "-o" in words else "")


@pytest.mark.parametrize("page", WALKTHROUGHS, ids=lambda page: page.name)
def test_programs_of_walkthroughs_compile_and_call_what_there_is(page: Path) -> None:
    for code in _PYTHON.findall(page.read_text()):
        for node in ast.walk(ast.parse(code)):
            if isinstance(node, ast.Call) and "from_engine" in ast.unparse(node.func):
                inspect.signature(EngineTransformer.from_engine).bind(*node.args)


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("build a.onnx -o b --levels 3", "--levels"),
        ("build a.onnx", "Missing parameter: target"),
        ("build a.onnx -o b --tensorrt trt", "trt"),
        ("calibrate p --prompts a --video 81,480", "--video"),
        ("generate p --prompt a -o b --size 1024", "--size"),
    ],
)
def test_what_the_command_line_does_not_take_is_found(line: str, said: str) -> None:
    with pytest.raises(Exception, match=said):
        parse(line.split())
