"""What the torch op `paro::attention` costs on the host, next to a direct call of the CPU library.

    python samples/benchmarks/op_host_cost.py

One token, one head: the computation itself is negligible. Contenders take turns in one run.
"""

from __future__ import annotations

import torch

from paro_trt.bench.case import OpCase, random_inputs
from paro_trt.bench.timing import HostClock, Rounds, Run, median_difference, time_in_turns
from paro_trt.op.api import attention_op, paro_attention
from paro_trt.op.c_abi import WORKSPACE_ALIGNMENT, attention_call, launch_on
from paro_trt.op.native import library_path, load_library
from paro_trt.op.spec import AttentionConfig


@torch.no_grad()
def main() -> None:
    """Print the medians in microseconds."""
    torch.set_num_threads(1)
    config = AttentionConfig(64, 64, 8, 8)
    inputs = random_inputs(OpCase("one token", 1, heads=1, kv_heads=1, config=config), 0)
    library = load_library(library_path("cpu"))
    output = torch.empty_like(inputs.query)
    call, launch = attention_call(inputs, config, output), launch_on(threads=1)
    size = library.workspace_bytes_of(call, launch)
    workspace = torch.empty(size + WORKSPACE_ALIGNMENT, dtype=torch.uint8)
    address = -(-workspace.data_ptr() // WORKSPACE_ALIGNMENT) * WORKSPACE_ALIGNMENT
    runs: dict[str, Run] = {
        "library": lambda _: library.forward_raw(call, launch, address, size),
        "paro_attention": lambda _: paro_attention(
            *inputs, block_q=64, block_k=64, qk_bits=8, pv_bits=8, impl="cpu", check_values=False
        ),
        "torch op": lambda _: attention_op(*inputs, 0.0, 64, 64, 8, 8, 0, "cpu"),
    }
    timings = time_in_turns(runs, HostClock(), Rounds(wanted=201, turn_seconds=0.001))
    for name, timing in timings.items():
        added = median_difference(timing, timings["library"])
        print(f"{name:16} {timing.median * 1e6:6.1f} us   adds {added * 1e6:5.1f} us")


if __name__ == "__main__":
    main()
