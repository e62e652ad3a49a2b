"""Fixtures for all tests."""

from __future__ import annotations

import logging
import os
import secrets
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from tests.support.family_files import family_files

# Test tensors are tiny: a second thread costs more than it gives, and xdist uses the cores.
torch.set_num_threads(1)

# Thousands of lines of structured trace, which pytest would print under a failed export.
logging.getLogger("torch.__trace").propagate = False


@pytest.fixture
def fresh_seed(request: pytest.FixtureRequest) -> int:
    """A new random seed for each run; PARO_TEST_SEED=<n> repeats a failing one."""
    fixed = os.environ.get("PARO_TEST_SEED")
    seed = int(fixed) if fixed else secrets.randbelow(2**31)
    request.node.user_properties.append(("seed", seed))
    print(f"PARO_TEST_SEED={seed}")
    return seed


@pytest.fixture(scope="session")
def family_file(tmp_path_factory: pytest.TempPathFactory, worker_id: str) -> Callable[[str], Path]:
    """From a family's name to its exported file, which the processes of a run share."""
    folder = tmp_path_factory.getbasetemp()
    return family_files((folder if worker_id == "master" else folder.parent) / "families")
