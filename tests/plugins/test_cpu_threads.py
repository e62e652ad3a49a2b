"""The CPU backend if the system cannot start more threads."""

from __future__ import annotations

import subprocess
import sys

SCRIPT = """
import re, resource
from pathlib import Path
import pytest, torch
from paro_trt.op import native
from tests.support.cases import OpCase, random_inputs

case = OpCase("threads", 300)
inputs = random_inputs(case, 1)
library = native.load_library(native.library_path("cpu"))
expected = library.forward(inputs, case.config, 2)
size = int(re.search(r"VmSize:\\s+(\\d+)", Path("/proc/self/status").read_text())[1]) * 1024
# Room for the workspace and for some stacks of 1,000 threads.
stack = 8 << 20
resource.setrlimit(resource.RLIMIT_STACK, (stack, stack))
resource.setrlimit(resource.RLIMIT_AS, (size + (1 << 30), resource.RLIM_INFINITY))
with pytest.raises(native.NativeError, match="threads: expected 1000, the system says: "):
    library.forward(inputs, case.config, 1000)
assert torch.equal(library.forward(inputs, case.config, 2), expected)
print("refused, and works on")
"""


def test_a_team_that_cannot_start_is_refused_and_leaves_nothing_behind():
    """Those of its threads that did start must end, not wait at a barrier for the others."""
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT], capture_output=True, text=True, timeout=120
    )
    assert done.stdout == "refused, and works on\n", done.stderr
