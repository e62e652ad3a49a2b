"""Loading a diffusers-format transformer from a directory."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..errors import ModelError
from ..families.base import Geometry, ModelFamily
from ..families.presets import PRESETS
from ..families.registry import family_for
from ..families.shared.diffusers_range import check_diffusers
from ..plan import ModelIdentity, model_identity
from .conditioning import cast_inputs
from .contents import first_line
from .denoise import Velocity
from .directory import CONFIG_NAME, constructor_arguments, read_config, transformer_directory
from .experts import Expert, ExpertRole, expert_at, partner_directory
from .lora import LoraFile, with_adapters
from .weight_files import weight_files
from .weights import Checkpoint, open_checkpoint


@dataclass(frozen=True)
class LoadedModel:
    """A transformer in eval mode and what is known of it.

    Args:
        model: the diffusers module, on the CPU.
        family: how the rest of the package sees it.
        config: constructor arguments, defaults filled in.
        path: the directory it came from.
        identity: class and config hash, as plans and ONNX files record them.
        dtype: floating-point type of weights, latents and conditioning.
        expert: its part of the schedule, where the pipeline has two transformers.
        stored: the weights of a model that was loaded without them; the module's parameters are
            fake tensors then, for tracing alone.
    """

    model: torch.nn.Module
    family: ModelFamily
    config: Mapping[str, Any]
    path: Path
    identity: ModelIdentity
    dtype: torch.dtype = torch.float32
    expert: Expert | None = None
    stored: Checkpoint | None = None

    def velocity(self, geometry: Geometry) -> Velocity:
        """float32 prediction of the model as it is, dense attention, for `denoise`.

        Raises:
            ModelError: the weights were left in their files.
        """
        if self.stored is not None:
            raise ModelError(
                str(self.path),
                expected="a model with its weights in memory",
                actual="one that was loaded for tracing alone",
                remedy="load it without weights_in_files",
            )
        spec = self.family.conditioning_spec(self.config, geometry)
        constants = self.family.constants(self.config, geometry)

        @torch.no_grad()
        def predict(
            latents: Tensor, timestep: Tensor, conditioning: Mapping[str, Tensor]
        ) -> Tensor:
            inputs = cast_inputs(spec, conditioning, self.dtype)
            fixed = {name: tensor.to(latents.device) for name, tensor in constants.items()}
            outputs = self.family.forward(
                self.model, geometry, latents.to(self.dtype), timestep, inputs | fixed
            )
            return outputs[0].float()

        return predict


def load_model(
    path: str | PathLike[str],
    dtype: torch.dtype = torch.float32,
    *,
    variant: str | None = None,
    lora: Sequence[LoraFile] = (),
    weights_in_files: bool = False,
) -> LoadedModel:
    """Load a transformer from its directory, or from a pipeline directory containing it.

    Weights are safetensors files, whole or sharded. As in diffusers, modules that the model class
    keeps in float32 stay so at any dtype.

    Args:
        path: of the directory.
        dtype: the floating-point type that weights are converted to.
        variant: of the weight files, such as "fp16"; None takes those without one, or the only one.
        lora: adapters to fuse into the weights.
        weights_in_files: leave the weights where they are. The model can be traced, not run.

    Raises:
        ModelError: the directory, its config or its weights are missing, damaged, do not belong
            together, or the model is of an unknown family.
    """
    check_diffusers()
    directory = transformer_directory(Path(path))
    raw = read_config(directory)
    class_name, family = raw.get("_class_name"), family_of(raw)
    model_class = _diffusers_class(str(class_name))
    config = constructor_arguments(model_class, raw, directory / CONFIG_NAME)
    family.check_config(config)
    checkpoint = _open_weights(directory, model_class, config, dtype, variant)
    expert = expert_at(directory)
    if lora:
        low_noise = expert is not None and expert.role is ExpertRole.LOW_NOISE
        checkpoint = with_adapters(checkpoint, lora, family.name, low_noise=low_noise)
    model = _construct_without_init(directory, model_class, config)
    state = _only_buffers(model, checkpoint) if weights_in_files else checkpoint.read_all()
    model.load_state_dict(state, assign=True)
    model.requires_grad_(False).eval()
    identify = model_identity if expert is None else expert.identity
    identity = identify(str(class_name), config)
    stored = checkpoint if weights_in_files else None
    return LoadedModel(model, family, config, directory, identity, dtype, expert, stored)


def released_dtype(path: str | PathLike[str]) -> torch.dtype:
    """The type that the largest models of a directory's family were released in.

    Raises:
        ModelError: the directory or its config is missing or damaged, or of an unknown family.
    """
    raw = read_config(transformer_directory(Path(path)))
    name = PRESETS[family_of(raw).name].dtype
    released: torch.dtype = getattr(torch, name)
    return released


def family_of(config: Mapping[str, Any]) -> ModelFamily:
    """The family that a config.json names."""
    class_name = config.get("_class_name")
    return family_for(class_name if isinstance(class_name, str) else repr(class_name))


def load_partner(loaded: LoadedModel) -> LoadedModel | None:
    """The other expert of a pipeline of two; None where the model is alone."""
    if loaded.expert is None:
        return None
    return load_model(partner_directory(loaded.path, loaded.expert.role), loaded.dtype)


def _diffusers_class(class_name: str) -> Any:
    import diffusers

    try:
        return getattr(diffusers, class_name)
    except (AttributeError, RuntimeError, ImportError) as error:
        raise ModelError(
            "diffusers",
            expected=f"a version that has {class_name}",
            actual=f"version {diffusers.__version__}",
            remedy="pip install --upgrade diffusers",
        ) from error


def _open_weights(
    directory: Path,
    model_class: Any,
    config: Mapping[str, Any],
    dtype: torch.dtype,
    variant: str | None,
) -> Checkpoint:
    files = weight_files(directory, variant)
    # Shapes come from a model without memory, so that a hostile config allocates nothing.
    with torch.device("meta"):
        state = _construct(directory, model_class, config).state_dict()
    kept = model_class._keep_in_fp32_modules or ()
    dtypes = {
        name: _dtype_of(name, dtype, kept) if tensor.is_floating_point() else tensor.dtype
        for name, tensor in state.items()
    }
    ignored = model_class._keys_to_ignore_on_load_unexpected or ()
    return open_checkpoint(files, state, dtypes, ignored)


def _construct_without_init(
    directory: Path, model_class: Any, config: Mapping[str, Any]
) -> torch.nn.Module:
    """Buffers are computed; parameters are allocated, and no page of them is touched."""
    from diffusers.models.modeling_utils import no_init_weights

    with no_init_weights():
        return _construct(directory, model_class, config)


def _only_buffers(model: torch.nn.Module, checkpoint: Checkpoint) -> dict[str, Tensor]:
    """A state whose parameters have a shape and a type and nothing else."""
    from torch._subclasses import FakeTensorMode
    from torch.fx.experimental.symbolic_shapes import ShapeEnv

    # The exporter traces in this mode too, and its batch size is symbolic.
    mode = FakeTensorMode(shape_env=ShapeEnv(), allow_non_fake_inputs=True)
    state = {name: checkpoint.read(name) for name, _ in model.named_buffers() if name in checkpoint}
    with mode:
        for name, parameter in model.named_parameters():
            state[name] = torch.empty(parameter.shape, dtype=checkpoint.dtypes[name])
    return state


def _construct(directory: Path, model_class: Any, config: Mapping[str, Any]) -> torch.nn.Module:
    try:
        model: torch.nn.Module = model_class(**config)
    except Exception as error:  # whatever a model class makes of arguments it does not expect
        raise ModelError(
            str(directory / CONFIG_NAME),
            expected=f"arguments that {model_class.__name__} accepts",
            actual=first_line(error),
        ) from error
    return model


def _dtype_of(name: str, dtype: torch.dtype, kept_in_float32: tuple[str, ...]) -> torch.dtype:
    """diffusers' rule: a parameter stays float32 where a part of its path is on the list."""
    kept = any(part in name.split(".") for part in kept_in_float32)
    return torch.float32 if kept else dtype
