"""The structures of the C ABI (plugins/include/paro/paro_c.h), for those who do without torch."""

from __future__ import annotations

import ctypes
from enum import IntEnum

from .spec import AttentionInputs

DTYPE_CODES = {"float16": 0, "bfloat16": 1, "float32": 2}
"""`paro_dtype`, by NumPy's name or "bfloat16"."""


class Status(IntEnum):
    """`paro_status`."""

    OK = 0
    INVALID_ARGUMENT = 1
    UNSUPPORTED = 2
    WORKSPACE_TOO_SMALL = 3
    NO_DEVICE = 4
    RUNTIME_ERROR = 5


class CAttention(ctypes.Structure):
    """`paro_attention`, field by field."""

    _fields_ = (
        ("struct_size", ctypes.c_size_t),
        ("batch", ctypes.c_int32),
        ("tokens", ctypes.c_int32),
        ("heads", ctypes.c_int32),
        ("kv_heads", ctypes.c_int32),
        ("head_dim", ctypes.c_int32),
        ("orders", ctypes.c_int32),
        ("bins", ctypes.c_int32),
        ("dtype", ctypes.c_int32),
        ("block_q", ctypes.c_int32),
        ("block_k", ctypes.c_int32),
        ("qk_bits", ctypes.c_int32),
        ("pv_bits", ctypes.c_int32),
        ("pool_dropped", ctypes.c_int32),
        ("fine_summaries", ctypes.c_int32),
        ("mean_correction", ctypes.c_int32),
        ("routing", ctypes.c_int32),
        ("smoothing", ctypes.c_int32),
        ("scale", ctypes.c_float),
        *((name, ctypes.c_void_p) for name in AttentionInputs._fields),
        ("output", ctypes.c_void_p),
    )


class CLaunch(ctypes.Structure):
    """`paro_launch`, field by field."""

    _fields_ = (
        ("struct_size", ctypes.c_size_t),
        ("stream", ctypes.c_void_p),
        ("threads", ctypes.c_int32),
        ("sm", ctypes.c_int32),
        ("max_workspace", ctypes.c_size_t),
    )
