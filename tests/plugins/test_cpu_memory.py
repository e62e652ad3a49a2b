"""Memory of the CPU backend beyond inputs and outputs: at most 1.5 INT8 copies of Q, K and V."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from paro_trt.bench.case import OpCase, random_inputs
from paro_trt.op import native
from tests.plugins.cpu_instruction_sets import instruction_set, of_this_processor

LARGEST = 1.5
CASE = OpCase("memory", 8192, heads=4, kv_heads=4)


@pytest.mark.parametrize("head_dim", [64, 128])
@pytest.mark.parametrize("bits", [8, 4])
@pytest.mark.parametrize("tokens", [2048, 8192])
@pytest.mark.parametrize("version", [1, 2])
def test_workspace_is_bounded(version, tokens, bits, head_dim):
    case = replace(CASE, tokens=tokens, head_dim=head_dim).with_bits(bits, bits, True)
    if version == 2:
        every = {"fine_summaries": True, "mean_correction": True, "routing": True}
        config = replace(case.config, smoothing=bits == 4, **every)
        case = replace(case, config=config)
    inputs = random_inputs(case, 0)
    copies = sum(tensor.numel() for tensor in inputs[:3])
    library = native.load_library(native.library_path("cpu"))
    for isa in of_this_processor():
        with instruction_set(isa):
            assert library.workspace_bytes(inputs, case.config, 2) <= LARGEST * copies, isa


@pytest.mark.skipif(
    not Path("/proc/self/clear_refs").exists(), reason="needs Linux's peak of resident memory"
)
def test_peak_is_bounded():
    """Of a whole call, as the system counts it: workspace, schedule, checks, threads."""
    script = """
import re
from dataclasses import replace
from pathlib import Path
from paro_trt.op import native
from tests.support.cases import random_inputs
from tests.plugins.test_cpu_memory import CASE

def kilobytes(field):
    return int(re.search(field + r":\\s+(\\d+) kB", Path("/proc/self/status").read_text())[1])

library = native.load_library(native.library_path("cpu"))
case = CASE.with_bits(8, 8, True)
library.forward(random_inputs(replace(case, tokens=256), 0), case.config, 2)
inputs = random_inputs(case, 0)
before = kilobytes("VmRSS")
Path("/proc/self/clear_refs").write_text("5")
output = library.forward(inputs, case.config, 2)
print((kilobytes("VmHWM") - before) * 1024 - output.numel() * output.element_size())
"""
    done = subprocess.run(
        [sys.executable, "-c", script],
        # Freed memory goes back to the system, so that none is taken anew without being counted.
        env={**os.environ, "MALLOC_MMAP_THRESHOLD_": "65536"},
        capture_output=True,
        text=True,
        timeout=300,
        check=True,
    )
    copies = 3 * CASE.tokens * CASE.heads * CASE.head_dim * torch.int8.itemsize
    beyond = int(done.stdout)
    assert 0 < beyond <= LARGEST * copies, beyond / copies
