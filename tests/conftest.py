"""Fixtures for all tests."""

from __future__ import annotations

import logging
import os
import secrets

import pytest
import torch

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
