"""Planted bugs keep up with the sources: whoever moves a line moves its bug."""

from __future__ import annotations

import pytest

from tests.native_builds import PLUGINS

from . import kernel_mutants, smoothing_mutants, test_cpu_smoothing_mutants, version_2_mutants
from .planted import Mutant

KERNELS = PLUGINS / version_2_mutants.KERNELS
PLANTED = [
    (PLUGINS / kernel_mutants.STAGE2, kernel_mutants.MUTANTS),
    (KERNELS, version_2_mutants.MUTANTS),
    (KERNELS, smoothing_mutants.MUTANTS),
    (PLUGINS / "cpu" / "isa", test_cpu_smoothing_mutants.MUTANTS),
]


@pytest.mark.parametrize(("folder", "mutants"), PLANTED)
def test_each_text_is_there_once_and_all_but_one_change_it(folder, mutants):
    unchanged = [
        bug.name for bug in mutants if bug.source(folder) == (folder / bug.file).read_text()
    ]
    assert unchanged == ["none"]


def test_a_text_that_is_gone_is_refused(tmp_path):
    (tmp_path / "file.h").write_text("twice twice")
    for text, found in (("gone", 0), ("twice", 2)):
        with pytest.raises(
            ValueError, match=f"a bug: expected its text once in file.h, found {found}"
        ):
            Mutant("a bug", "file.h", text, "").plant(tmp_path)
    assert (tmp_path / "file.h").read_text() == "twice twice"
