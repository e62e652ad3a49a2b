"""Planted bugs: each changes a shipped source at one place, and some test must notice."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Mutant:
    """`text` of a file, which is there once, becomes `becomes`. file: relative to a folder that all
    mutants of a list share."""

    name: str
    file: str
    text: str
    becomes: str

    def source(self, folder: Path) -> str:
        """The file with the bug. Raises ValueError where its text is not there once."""
        text = (folder / self.file).read_text()
        if text.count(self.text) != 1:
            found = text.count(self.text)
            raise ValueError(f"{self.name}: expected its text once in {self.file}, found {found}")
        return text.replace(self.text, self.becomes)

    def plant(self, folder: Path) -> None:
        """Change the file in a copy of the folder."""
        changed = self.source(folder)
        (folder / self.file).write_text(changed)
