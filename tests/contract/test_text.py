"""What the gate holds of the project's text: plain words, and a design that matches the tree."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

NOT_PLAIN = {
    "mend": "fix",
    "mends": "fixes",
    "mended": "fixed",
    "mending": "fixing",
    "beside": "next to, or in addition to",
    "dearest": "most expensive",
    "whence": "from where",
    "by nobody": "by no one; better: nothing does it",
    "without a word": "silently",
}
"""Words that make a reader stop -> what to write instead."""

_TEXT = {".py", ".md", ".txt", ".toml", ".cmake", ".sh", ".h", ".cuh", ".cu", ".cpp", ".js", ".css",
         ".j2", ".yaml", ".json", ""}  # fmt: skip
_PATTERN = re.compile(rf"\b(?:{'|'.join(NOT_PLAIN)})\b", re.IGNORECASE)


def findings(text: str) -> list[str]:
    """Words of `text` that are not plain, with what to write instead."""
    return [
        f"line {number}: {found.group()!r}: write {NOT_PLAIN[found.group().lower()]}"
        for number, line in enumerate(text.splitlines(), 1)
        for found in _PATTERN.finditer(line)
    ]


def tracked_files() -> list[Path]:
    """Text files under version control."""
    names = subprocess.check_output(["git", "ls-files", "-z"], cwd=ROOT, text=True).split("\0")
    paths = [ROOT / name for name in names if name and name != "LICENSE"]
    return [path for path in paths if path.suffix in _TEXT and path.is_file()]


def test_text_uses_plain_words() -> None:
    files = [path for path in tracked_files() if path != Path(__file__).resolve()]
    assert len(files) > 300
    wrong = [
        f"{path.relative_to(ROOT)} {finding}"
        for path in files
        for finding in findings(path.read_text(encoding="utf-8"))
    ]
    assert wrong == []


@pytest.mark.parametrize("word", NOT_PLAIN)
def test_each_word_is_found(word: str) -> None:
    assert len(findings(f"one\ntwo {word.upper()} three")) == 1
    assert findings("besides, amend, recommended") == []


def tree_of_the_design() -> set[str]:
    """Folders named in the tree of docs/design.md, as paths with a slash at the end."""
    page = (ROOT / "docs" / "design.md").read_text(encoding="utf-8")
    block = re.search(r"```tree\n(.*?)```", page, re.DOTALL)
    assert block is not None
    named, parents = set(), list[str]()
    for line in block[1].splitlines():
        found = re.match(r"( *)([\w.-]+/)", line)
        if found:
            depth = len(found[1]) // 2
            parents[depth:] = [found[2]]
            named.add("".join(parents))
    return named


def test_tree_of_the_design_is_the_repository() -> None:
    folders = {
        f"{parent}/"
        for path in subprocess.check_output(["git", "ls-files", "-z"], cwd=ROOT, text=True).split(
            "\0"
        )
        for parent in list(Path(path).parents)[:-1]
        if not parent.parts[0].startswith(".")
    }
    depths = {"paro_trt": 2, "plugins": 2, "tests": 1, "samples": 2, "docs": 1, "export": 1}
    expected = {
        folder for folder in folders if folder.count("/") <= depths.get(folder.split("/")[0], 1)
    }
    assert tree_of_the_design() == expected
