"""LoRA adapters fused into the weights of a model while they are read."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch import Tensor

from ..errors import ArgumentError, ModelError
from .contents import first_line, read_json_object, refuse_foreign
from .weight_files import ADAPTER_FILES
from .weights import Checkpoint

_LOADERS = {
    "cogvideox": "CogVideoXLoraLoaderMixin",
    "flux": "FluxLoraLoaderMixin",
    "flux2": "Flux2LoraLoaderMixin",
    "hunyuan_video": "HunyuanVideoLoraLoaderMixin",
    "ltx_video": "LTXVideoLoraLoaderMixin",
    "ltx2": "LTX2LoraLoaderMixin",
    "mochi": "Mochi1LoraLoaderMixin",
    "qwen_image": "QwenImageLoraLoaderMixin",
    "sd3": "SD3LoraLoaderMixin",
    "wan": "WanLoraLoaderMixin",
}
"""Family -> the class of diffusers that knows in which layouts its adapters are published."""

_FIRST = (".lora_A.weight", ".lora_A.default.weight", ".lora_down.weight")
_SECOND = (".lora_B.weight", ".lora_B.default.weight", ".lora_up.weight")
_ALPHA = ".alpha"
_TEXT_ENCODERS = ("text_encoder", "te_", "lora_te")
_OWN, _LOW_NOISE = "transformer.", "transformer_2."
_PEFT_FILE, _PEFT_SETTINGS = "adapter_model.safetensors", "adapter_config.json"
_FUSE = "fuse it in diffusers (fuse_lora, unload_lora_weights, save_pretrained)"
_PREFIXES = ("base_model.model.", "diffusion_model.", _OWN, _LOW_NOISE)


@dataclass(frozen=True)
class LoraFile:
    """An adapter to fuse.

    Args:
        path: a safetensors file, or a directory that diffusers or PEFT saved one in.
        scale: that its change of the weights is multiplied by.
    """

    path: Path
    scale: float = 1.0


def parse_lora(text: str) -> LoraFile:
    """FILE or FILE:SCALE; ArgumentError where the scale is not finite."""
    path, colon, number = text.rpartition(":")
    try:
        scale = float(number)
    except ValueError:
        colon = ""
    if not colon:
        return LoraFile(Path(text))
    if not math.isfinite(scale):
        raise ArgumentError("--lora", expected="FILE[:SCALE], a finite number", actual=text)
    return LoraFile(Path(path), scale)


def with_adapters(
    checkpoint: Checkpoint, adapters: Sequence[LoraFile], family: str, *, low_noise: bool = False
) -> Checkpoint:
    """The weights with adapters fused: W + scale * alpha / rank * B A, computed in float32.

    Args:
        checkpoint: of the model.
        adapters: one after the other.
        family: name of the model's family.
        low_noise: the model is `transformer_2` of a pipeline of two.

    Raises:
        ModelError: a file is damaged, has no adapter of this model, or changes something that the
            model does not have or that has another shape.
    """
    changes = dict(checkpoint.changes)
    for adapter in adapters:
        for name, change in _changes(checkpoint, adapter, family, low_noise).items():
            changes[name] = (*changes.get(name, ()), change)
    return replace(checkpoint, changes=changes)


@dataclass(frozen=True)
class LowRankChange:
    """What an adapter adds to a weight [N, K]: `scale` times second [N, R] @ first [R, K]."""

    first: Tensor
    second: Tensor
    scale: float

    def __call__(self, weight: Tensor) -> Tensor:
        """The weight changed, float32."""
        return torch.addmm(
            weight.float(), self.second.float(), self.first.float(), alpha=self.scale
        )


def _changes(
    checkpoint: Checkpoint, adapter: LoraFile, family: str, low_noise: bool
) -> dict[str, LowRankChange]:
    path = _adapter_file(adapter.path)
    tensors, default_alpha = _in_diffusers_names(checkpoint, path, family)
    tensors = _of_this_transformer(tensors, low_noise)
    made: dict[str, LowRankChange] = {}
    used: set[str] = set()
    for name, first in tensors.items():
        suffix = next((end for end in _FIRST if name.endswith(end)), None)
        if suffix is None:
            continue
        module = name.removesuffix(suffix)
        partner = module + _SECOND[_FIRST.index(suffix)]
        second, alpha = tensors.get(partner), tensors.get(module + _ALPHA)
        weight = f"{module}.weight"
        shape = checkpoint.shape(weight)
        if second is None or shape is None or not _fits(first, second, shape):
            actual = "no partner" if second is None else f"{list(second.shape)}"
            raise ModelError(
                f"{path}: {name}"[:300],
                expected=f"a low-rank change of {weight}, "
                + ("which the model does not have" if shape is None else f"{list(shape)}"),
                actual=f"{list(first.shape)} and {actual}",
                remedy="use an adapter that was trained for this model",
            )
        rank = first.shape[0]
        strength = (default_alpha or rank if alpha is None else float(alpha)) / rank
        made[weight] = LowRankChange(first, second, adapter.scale * strength)
        used.update((name, partner, module + _ALPHA))
    left = sorted(tensors.keys() - used)
    if left or not made:
        raise ModelError(
            str(path),
            expected="a LoRA of this model's linear layers",
            actual=f"{left[0][:120]}" if left else "no change of any of them",
            remedy=_FUSE,
        )
    return made


def _fits(first: Tensor, second: Tensor, shape: tuple[int, ...]) -> bool:
    return (
        first.ndim == second.ndim == len(shape) == 2
        and first.shape[0] == second.shape[1]
        and (second.shape[0], first.shape[1]) == shape
    )


def _of_this_transformer(tensors: Mapping[str, Tensor], low_noise: bool) -> dict[str, Tensor]:
    """Without prefixes; of a file with changes for two transformers, those of this one."""
    two = any(name.startswith(_LOW_NOISE) for name in tensors)
    kept = {}
    for name, tensor in tensors.items():
        if name.startswith(_TEXT_ENCODERS):
            continue
        of_one = two and name.startswith((_OWN, _LOW_NOISE))
        if of_one and name.startswith(_LOW_NOISE) is not low_noise:
            continue
        kept[_bare(name)] = tensor
    return kept


def _bare(name: str) -> str:
    for prefix in _PREFIXES:
        name = name.removeprefix(prefix)
    return name


def _adapter_file(path: Path) -> Path:
    """The adapter in a directory; a file as it is."""
    if not path.is_dir():
        return path
    found = [path / name for name in ADAPTER_FILES if (path / name).is_file()]
    found = found or sorted(path.glob("*.safetensors"))
    if len(found) == 1:
        return found[0]
    raise ModelError(
        str(path),
        expected=f"{' or '.join(ADAPTER_FILES)} in it",
        actual=", ".join(file.name for file in found)[:200] or "a directory without it",
        remedy="pass the safetensors file itself",
    )


def _in_diffusers_names(
    checkpoint: Checkpoint, path: Path, family: str
) -> tuple[dict[str, Tensor], float | None]:
    """The tensors of a file, and the alpha of all where its settings have one.

    Files of other layouts than diffusers' are renamed by diffusers.
    """
    try:
        tensors = load_file(path)
        with safe_open(path, framework="pt") as file:
            alpha = _alpha(path, file.metadata() or {})
    except (SafetensorError, OSError) as error:
        refuse_foreign(path, "a LoRA in a safetensors file")
        raise ModelError(
            str(path), expected="a LoRA in a safetensors file", actual=first_line(error)
        ) from error
    for name in tensors:
        if "dora_scale" in name or "lora_magnitude" in name:
            raise _beyond_low_rank(path, name)
    known = any(
        checkpoint.shape(f"{_bare(name).removesuffix(end)}.weight")
        for name in tensors
        for end in _FIRST
        if name.endswith(end)
    )
    if not known and family in _LOADERS:
        import diffusers.loaders

        loader = getattr(diffusers.loaders, _LOADERS[family], None)
        # Whatever a conversion makes of names that it does not know: they stay as they are.
        with suppress(Exception):
            tensors = loader.lora_state_dict(dict(tensors))  # type: ignore[union-attr]
    return tensors, alpha


def _alpha(path: Path, header: Mapping[str, str]) -> float | None:
    """Of PEFT's settings, which diffusers writes into the file and PEFT itself next to it."""
    own_file = path.with_name(_PEFT_SETTINGS)
    try:
        settings = json.loads(header.get("lora_adapter_metadata", "{}"))
        if path.name == _PEFT_FILE and own_file.is_file():
            settings = read_json_object(own_file)
        own = {key.removeprefix(_OWN): value for key, value in settings.items()}
        alpha = own.get("lora_alpha")
        alpha = None if alpha is None else float(alpha)
    except (ValueError, TypeError, AttributeError, RecursionError) as error:
        raise ModelError(
            f"{path}: settings of PEFT", expected="lora_alpha and others", actual=first_line(error)
        ) from error
    for key in ("use_rslora", "use_dora", "alpha_pattern"):
        if own.get(key):
            raise _beyond_low_rank(path, key)
    return alpha


def _beyond_low_rank(path: Path, what: str) -> ModelError:
    return ModelError(
        str(path),
        expected="a LoRA with one alpha for its rank",
        actual=what[:120],
        remedy=_FUSE,
    )
