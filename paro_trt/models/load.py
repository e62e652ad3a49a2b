"""Loading a diffusers-format transformer from a directory."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..errors import ModelError
from ..families.base import Geometry, ModelFamily
from ..families.registry import family_for
from ..families.shared.diffusers_range import check_diffusers
from ..plan import ModelIdentity, model_identity
from .conditioning import cast_inputs
from .denoise import Velocity
from .experts import Expert, ExpertRole, expert_at
from .weights import first_line, read_json_object, read_weights, weight_files

CONFIG_NAME = "config.json"


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
    """

    model: torch.nn.Module
    family: ModelFamily
    config: Mapping[str, Any]
    path: Path
    identity: ModelIdentity
    dtype: torch.dtype = torch.float32
    expert: Expert | None = None

    def velocity(self, geometry: Geometry) -> Velocity:
        """float32 prediction of the model as it is, dense attention, for `denoise`."""
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


def load_model(path: str | PathLike[str], dtype: torch.dtype = torch.float32) -> LoadedModel:
    """Load a transformer from its directory, or from a pipeline directory containing it.

    Weights are safetensors files, whole or sharded. As in diffusers, modules that the model class
    keeps in float32 stay so at any dtype.

    Raises:
        ModelError: the directory, its config or its weights are missing, damaged, do not belong
            together, or the model is of an unknown family.
    """
    check_diffusers()
    directory = _transformer_directory(Path(path))
    raw = read_json_object(directory / CONFIG_NAME)
    class_name = raw.get("_class_name")
    family = family_for(class_name if isinstance(class_name, str) else repr(class_name))
    model_class = _diffusers_class(str(class_name))
    config = _full_config(model_class, raw)
    family.check_config(config)
    model = _build(directory, model_class, config, dtype)
    expert = expert_at(directory)
    identify = model_identity if expert is None else expert.identity
    identity = identify(str(class_name), config)
    return LoadedModel(model, family, config, directory, identity, dtype, expert)


def load_partner(loaded: LoadedModel) -> LoadedModel | None:
    """The other expert of a pipeline of two; None where the model is alone."""
    if loaded.expert is None:
        return None
    other = next(role for role in ExpertRole if role is not loaded.expert.role)
    return load_model(loaded.path.resolve().parent / other.value, loaded.dtype)


def _transformer_directory(path: Path) -> Path:
    remedy = f"pass a diffusers transformer directory, which holds {CONFIG_NAME} and its weights"
    if not path.is_dir():
        actual = "a file" if path.exists() else "no such directory"
        raise ModelError(str(path), expected="a model directory", actual=actual, remedy=remedy)
    for directory in (path, path / "transformer"):
        if (directory / CONFIG_NAME).exists():
            return directory
    raise ModelError(
        str(path), expected=f"{CONFIG_NAME} in it", actual="a directory without it", remedy=remedy
    )


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


def _full_config(model_class: Any, raw: Mapping[str, Any]) -> dict[str, Any]:
    """Constructor arguments from a config.json; what a version adds or drops is not an error."""
    parameters = inspect.signature(model_class.__init__).parameters
    defaults = {
        name: parameter.default
        for name, parameter in parameters.items()
        if parameter.default is not inspect.Parameter.empty
    }
    return {name: raw.get(name, default) for name, default in defaults.items()}


def _build(
    directory: Path, model_class: Any, config: Mapping[str, Any], dtype: torch.dtype
) -> torch.nn.Module:
    from diffusers.models.modeling_utils import no_init_weights

    files = weight_files(directory)
    # Shapes come from a model without memory, so that a hostile config allocates nothing.
    with torch.device("meta"):
        state = _construct(directory, model_class, config).state_dict()
    shapes = {name: tuple(tensor.shape) for name, tensor in state.items()}
    weights = read_weights(files, shapes, model_class._keys_to_ignore_on_load_unexpected or ())
    with no_init_weights():
        model = _construct(directory, model_class, config)
    kept = model_class._keep_in_fp32_modules or ()
    typed = {name: tensor.to(_dtype_of(name, dtype, kept)) for name, tensor in weights.items()}
    model.load_state_dict(typed, assign=True)
    return model.requires_grad_(False).eval()


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
