"""Calls of the CUDA library whose output, workspace and surroundings are poisoned beforehand."""

from __future__ import annotations

import torch
from torch import Tensor

from paro_trt.op.c_abi import WORKSPACE_ALIGNMENT, attention_call, launch_on
from paro_trt.op.native import NativeLibrary
from paro_trt.op.spec import AttentionConfig, AttentionInputs

GUARD = 4096
POISON = 0xFF
"""The value of every byte: NaN as a float of any size, -1 as an integer."""

GENERATIONS = {"chosen": 0, "mma.sync": 100}
"""As which GPU the library runs: as this one, or as one that has the mma.sync kernels alone."""


class Poisoned:
    """Device memory between two guards, all bytes poisoned."""

    def __init__(self, size: int) -> None:
        self.size = size
        self._buffer = torch.full((size + 2 * GUARD,), POISON, dtype=torch.uint8, device="cuda")
        assert self._buffer.data_ptr() % WORKSPACE_ALIGNMENT == 0

    @property
    def memory(self) -> Tensor:
        """uint8 [size]."""
        return self._buffer[GUARD : GUARD + self.size]

    def check_guards(self) -> None:
        """Check that nothing was written before or after the memory."""
        assert bool((self._buffer[:GUARD] == POISON).all())
        assert bool((self._buffer[GUARD + self.size :] == POISON).all())


def to_gpu(inputs: AttentionInputs, index: int = 0) -> AttentionInputs:
    """The inputs on a GPU."""
    return inputs.converted(lambda tensor: tensor.to(f"cuda:{index}"))


def forward(
    library: NativeLibrary,
    inputs: AttentionInputs,
    config: AttentionConfig,
    sm: int = 0,
    max_workspace: int = 0,
) -> Tensor:
    """The output [B,S,H,D] on the CPU for inputs on the CPU; `sm` as in `GENERATIONS`."""
    placed = to_gpu(inputs)
    query = placed.query
    output = Poisoned(query.numel() * query.element_size())
    call = attention_call(placed, config, output.memory.view(query.dtype).view(query.shape))
    launch = launch_on(query.device, sm=sm, max_workspace=max_workspace)
    workspace = Poisoned(library.workspace_bytes_of(call, launch))
    library.forward_raw(call, launch, workspace.memory.data_ptr(), workspace.size)
    torch.cuda.synchronize()
    output.check_guards()
    workspace.check_guards()
    return output.memory.view(query.dtype).view(query.shape).cpu()
