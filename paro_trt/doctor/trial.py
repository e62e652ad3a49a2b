"""What a native library or an implementation of the op does here, asked in a process of its own."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..errors import ParoError

if TYPE_CHECKING:
    from ..op.spec import AttentionConfig, AttentionInputs

_TOKENS, _HEAD_DIM = 128, 64


def describe(name: str) -> str:
    """What libparo_<name> calls itself, and the kernel it has for a small call on this machine.

    Raises:
        BackendUnavailableError: it does not load, or is of another release.
    """
    from ..op.native import library_path, load_library

    library = load_library(library_path(name))
    try:
        kernel = library.describe(small_call("cpu"), small_config())
    except ParoError as error:
        kernel = f"no kernel: {error.actual}"
    return f"{library.name}; {kernel}"


def describe_plugin(name: str) -> str:
    """The same of a TensorRT plugin library, with its ABI and its file."""
    from ..engine.plugin_library import find_plugin

    plugin = find_plugin()
    return f"{describe(name)}; ABI {plugin.abi}; {plugin.path}"


def register_custom_op() -> str:
    """Register libparo_onnxruntime.

    Raises:
        ParoError: ONNX Runtime or the library refuses.
    """
    from onnxruntime import SessionOptions

    from ..runtime.custom_op import register_custom_op as register

    register(SessionOptions())
    return "registers in this ONNX Runtime"


def compute(impl: str) -> str:
    """Compute a small call by an implementation; on a GPU where torch has one.

    Raises:
        BackendUnavailableError: the implementation refuses.
    """
    import torch

    from ..op.api import paro_attention

    device = "cuda" if impl == "cuda" and torch.cuda.is_available() else "cpu"
    paro_attention(*small_call(device), impl=impl, **small_config().keywords())
    return f"{_TOKENS} tokens computed on {device}"


def small_config() -> AttentionConfig:
    """8 bits in both products, blocks of the default sizes."""
    from ..op.spec import AttentionConfig

    return AttentionConfig(qk_bits=8, pv_bits=8)


def small_call(device: str) -> AttentionInputs:
    """Zeros: float16 query, key and value [1,128,1,64], every block attended."""
    import torch

    from ..op.spec import AttentionInputs

    query = torch.zeros(1, _TOKENS, 1, _HEAD_DIM, dtype=torch.float16, device=device)
    first = torch.zeros(1, dtype=torch.int32, device=device)
    channel = torch.zeros(1, _HEAD_DIM, device=device)
    return AttentionInputs(
        query, query, query,
        token_order=torch.arange(_TOKENS, dtype=torch.int32, device=device)[None],
        head_order=first,
        block_mask=torch.full((1, 1, 1, 1), 3, dtype=torch.int32, device=device),
        tile_order=first[None],
        channel_affine=torch.stack([channel, channel + 1] * 2),
        mask_bin=first,
        key_length=first + _TOKENS,
    )  # fmt: skip
