"""Reading weights: every name, shape and type is checked before anything is allocated."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeAlias

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from ..errors import ModelError
from .contents import first_line, refuse_foreign

_ADAPTERS = (
    ".base_layer.", ".lora_A.", ".lora_B.", ".lora_down.", ".lora_up.", ".lora_magnitude",
    ".lokr_", ".hada_",
)  # fmt: skip
"""Parts of names that adapters have and models have not."""

_QUANTIZED = (
    ".weight_scale", ".scale_weight", ".input_scale", ".scale_input", ".comfy_quant", "scaled_fp8",
    ".SCB", ".absmax", ".quant_map", ".quant_state", ".qweight", ".qzeros", ".weight_zero_point",
    "._data", "._scale", "_quantizer.", ".wscales", ".weight_packed",
)  # fmt: skip
"""Parts of names of what quantized weights need in order to be weights."""

_ORIGINAL = (
    "self_attn.q.weight", "double_blocks.", "double_stream_modulation", "joint_blocks.",
    "transformer.layers.0.attention.query_key_value", "net.blocks.", "blocks.0.qkv_x.",
    "model.diffusion_model.",
)  # fmt: skip
"""Parts of names of checkpoints as their authors published them, before diffusers renamed them."""

_WRAPPERS = ("_orig_mod.", "_fsdp_wrapped_module.", "_checkpoint_wrapped_module.")
"""What torch.compile and wrappers of training put into names, at any place."""

_FLOATS = ("F64", "F32", "F16", "BF16", "F8_E4M3", "F8_E5M2")
_WIDER_THAN_FLOAT16 = ("F64", "F32", "BF16")

Change: TypeAlias = Callable[[Tensor], Tensor]
"""What an adapter makes of a weight."""


@dataclass(frozen=True)
class StoredTensor:
    """Where a tensor lies.

    Args:
        file: the safetensors file.
        name: in that file.
        dtype: safetensors' name of its type, such as "BF16".
        shape: of the tensor.
    """

    file: Path
    name: str
    dtype: str
    shape: tuple[int, ...]


@dataclass(frozen=True)
class Checkpoint:
    """The weights of a model in their files; `open_checkpoint` makes one.

    Args:
        tensors: where each tensor lies, by its name in the model.
        dtypes: the type that each is converted to when it is read.
        changes: what is applied to a tensor, as stored, before it is converted.
    """

    tensors: Mapping[str, StoredTensor]
    dtypes: Mapping[str, torch.dtype]
    changes: Mapping[str, tuple[Change, ...]] = field(default_factory=dict)

    def __contains__(self, name: str) -> bool:
        return name in self.tensors

    def shape(self, name: str) -> tuple[int, ...] | None:
        """Of a tensor; None where the model has none of this name."""
        return self.tensors[name].shape if name in self.tensors else None

    def read(self, name: str) -> Tensor:
        """One tensor, in its type. The file is not held open or mapped afterwards.

        Raises:
            ModelError: the file changed since it was opened, or float16 cannot hold the values.
        """
        ((_, tensor),) = self._read_all([name])
        return tensor

    def read_all(self) -> dict[str, Tensor]:
        """Every tensor; of the unconverted, one at a time is in memory."""
        return dict(self._read_all(self.tensors))

    def _read_all(self, names: Iterable[str]) -> Iterator[tuple[str, Tensor]]:
        by_file: dict[Path, list[str]] = {}
        for name in names:
            by_file.setdefault(self.tensors[name].file, []).append(name)
        for path, wanted in by_file.items():
            with _opened(path) as file:
                for name in wanted:
                    stored = file.get_tensor(self.tensors[name].name)
                    yield name, self._converted(name, stored)

    def _converted(self, name: str, stored: Tensor) -> Tensor:
        place, dtype = self.tensors[name], self.dtypes[name]
        for change in self.changes.get(name, ()):
            stored = change(stored)
        converted = stored.to(dtype)
        wider = place.dtype in _WIDER_THAN_FLOAT16 or name in self.changes
        narrowed = dtype is torch.float16 and wider and converted.numel() > 0
        # Neither bound is finite where an element is NaN; unlike isfinite this takes no memory.
        if narrowed and not torch.isfinite(torch.stack(torch.aminmax(converted))).all():
            raise ModelError(
                f"{place.file}: {place.name}",
                expected="numbers that float16 can hold, up to 65504",
                actual=f"a larger one, or NaN, among {place.dtype}",
                remedy="use bfloat16 or float32",
            )
        return converted


def open_checkpoint(
    files: Iterable[Path],
    expected: Mapping[str, Tensor],
    dtypes: Mapping[str, torch.dtype],
    ignored: Iterable[str] = (),
) -> Checkpoint:
    """Find every tensor of a model in files, which must hold no others.

    Args:
        files: safetensors files.
        expected: the model's tensors by name; only their shapes and kinds are looked at.
        dtypes: the type that each shall have once it is read.
        ignored: tensors whose name contains one of these may be in the files and are left out.

    Raises:
        ModelError: a file is damaged or holds something other than weights; a tensor is missing,
            unexpected, of another shape, or not of floating point where the model's is.
    """
    files, ignored = tuple(files), tuple(ignored)
    stored: dict[str, StoredTensor] = {}
    for path in files:
        with _opened(path) as file:
            for name in file.keys():  # noqa: SIM118 (a safetensors file has no iterator)
                if any(part in name for part in ignored):
                    continue
                if name in stored:
                    raise ModelError(
                        f"{path}: {name}",
                        expected="a tensor in one file",
                        actual=f"another of this name in {stored[name].file.name}",
                        remedy="remove the files of an older checkpoint from the directory",
                    )
                entry = file.get_slice(name)
                shape = tuple(entry.get_shape())
                stored[name] = StoredTensor(path, name, entry.get_dtype(), shape)
    names = _names_in_model(list(stored), expected)
    _refuse_other_kinds(stored, names, expected)
    found = {names[name]: place for name, place in stored.items()}
    for name, place in found.items():
        _check_tensor(place, expected.get(name))
    missing = sorted(expected.keys() - found.keys())
    if missing:
        raise ModelError(
            str(next(iter(files), "weights")),
            expected=f"tensor {missing[0]}",
            actual=f"{len(missing)} of {len(expected)} tensors missing",
            remedy="config.json and the weights belong to different models, or a shard is missing",
        )
    return Checkpoint(found, {name: dtypes[name] for name in found})


@contextmanager
def _opened(path: Path) -> Iterator[safe_open]:
    try:
        with safe_open(path, framework="pt") as file:
            yield file
    except (SafetensorError, OSError) as error:
        refuse_foreign(path, "a safetensors file of weights")
        raise ModelError(
            str(path),
            expected="a complete safetensors file",
            actual=first_line(error),
            remedy="copy or download it again",
        ) from error


def _names_in_model(stored: list[str], expected: Mapping[str, Tensor]) -> dict[str, str]:
    """Stored name -> name in the model: what wrappers added is taken off where that fits."""
    names = {}
    for name in stored:
        bare = name
        for wrapper in _WRAPPERS:
            bare = bare.replace(wrapper, "")
        names[name] = bare
    prefix = _common_prefix(names.values(), expected)
    names = {name: bare.removeprefix(prefix) for name, bare in names.items()}
    fits = set(names.values()) >= set(expected) and len(set(names.values())) == len(names)
    return names if fits else {name: name for name in stored}


def _common_prefix(names: Iterable[str], expected: Iterable[str]) -> str:
    """What stands before every name, as DistributedDataParallel and pipelines put it; or ""."""
    names, wanted = list(names), next(iter(expected), "")
    for name in names:
        prefix = name.removesuffix(wanted)
        if name.endswith(f".{wanted}") and all(other.startswith(prefix) for other in names):
            return prefix
    return ""


def _refuse_other_kinds(
    stored: Mapping[str, StoredTensor], names: Mapping[str, str], expected: Mapping[str, Tensor]
) -> None:
    """ModelError where names tell what the file is instead of the weights of this model."""
    foreign = [name for name in stored if names[name] not in expected]
    known = any(names[name] in expected for name in stored)
    kinds = [
        (
            _ADAPTERS,
            "weights without adapters" if known else "the weights of a model",
            "LoRA adapters that are still apart" if known else "a LoRA adapter alone",
            "call unload_lora_weights() after fuse_lora(), and save again"
            if known
            else "pass the model's directory, and the adapter by --lora",
        ),
        (
            _QUANTIZED,
            "weights that are not quantized",
            "quantized weights and their scales",
            "use the checkpoint in bfloat16 or float16",
        ),
    ]
    if not known:
        kinds.append(
            (
                _ORIGINAL,
                "weights in diffusers' layout",
                "weights in their authors' own layout",
                "download the repository whose name ends in -Diffusers, or convert: "
                "diffusers' CLASS.from_single_file(FILE).save_pretrained(DIRECTORY)",
            )
        )
    for parts, wanted, actual, remedy in kinds:
        for name in foreign:
            if any(part in f".{name}" for part in parts):
                raise ModelError(
                    str(stored[name].file),
                    expected=wanted,
                    actual=f"{actual}, such as {name[:80]}",
                    remedy=remedy,
                )


def _check_tensor(place: StoredTensor, expected: Tensor | None) -> None:
    subject, shape = f"{place.file}: {place.name}", place.shape
    if expected is None or tuple(expected.shape) != shape:
        raise ModelError(
            subject,
            expected="no such tensor" if expected is None else f"shape {tuple(expected.shape)}",
            actual=f"shape {shape}",
            remedy="config.json and the weights belong to different models",
        )
    if expected.is_floating_point() and place.dtype not in _FLOATS:
        raise ModelError(
            subject,
            expected="floating-point numbers",
            actual=f"{place.dtype}, which are not weights as they are",
            remedy="use the checkpoint in bfloat16 or float16, not a quantized one",
        )
