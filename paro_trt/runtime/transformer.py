"""A session in the place of a diffusers transformer, inside the model's own pipeline."""

from __future__ import annotations

from collections.abc import Mapping
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..errors import ModelError
from ..families.base import Geometry
from ..families.registry import family_for
from ..models.calls import bins_of, fitted_call, named_arguments, returned
from ..models.contents import read_json_object
from ..models.experts import ExpertRole, is_of_model
from ..models.substitute import SubstituteTransformer
from ..plan import ModelIdentity, model_identity
from .engine import Engine, EngineTurns
from .session import Session
from .tensorrt_session import TensorRtSession
from .velocity import LATENTS, MASK_BIN, TIMESTEP
from .weight_streaming import Budget


class EngineTransformer(SubstituteTransformer):
    """Replaces `pipeline.transformer`: the same call and result, computed by a session.

    Each sample's `mask_bin` follows from its timestep by the bins that the session's file carries.
    Serves every family; a pipeline of two experts takes one of each expert's file.

    Args:
        session: of the exported model: an engine, or ONNX Runtime.
        config: the transformer's, as `transformer.config` or its config.json read.
        device: where the pipeline's tensors live; an engine takes them there without a copy.

    Raises:
        ModelError: the session is of another model class or configuration.
    """

    def __init__(
        self,
        session: Session,
        config: Mapping[str, Any],
        device: str | torch.device = "cpu",
    ) -> None:
        info = session.info
        _check_model(info.model, config)
        dtypes = {spec.name: getattr(torch, spec.dtype) for spec in session.inputs}
        super().__init__(info.model.class_name, config, dtypes[LATENTS], device)
        self._family = family_for(self.class_name)
        self._geometry = Geometry(info.grid, info.text)
        self._session, self._dtypes = session, dtypes
        self._boundaries = info.bin_boundaries or ()

    @classmethod
    def from_engine(
        cls,
        engine: str | PathLike[str],
        config_file: str | PathLike[str],
        *,
        cuda_graph: bool = True,
        weight_streaming_budget: Budget = None,
        gpu: int | None = None,
        check_hash: bool = True,
        turns: EngineTurns | None = None,
    ) -> EngineTransformer:
        """From an engine file and the model's config.json; tensors live on the engine's GPU.

        Args:
            engine: the file; its manifest is next to it.
            config_file: of the model that it was exported from.
            cuda_graph: capture and replay, unless weights are streamed.
            weight_streaming_budget: bytes of weights on the GPU, or "auto".
            gpu: index of the GPU; None: the current one.
            check_hash: compare the file with its manifest's hash.
            turns: shared with another engine, of which one is loaded at a time.

        Raises: as `Engine`, and ModelError where the configuration is another model's.
        """
        config = read_json_object(Path(config_file))
        opened = Engine(
            engine, cuda_graph=cuda_graph, weight_streaming_budget=weight_streaming_budget,
            gpu=gpu, check_hash=check_hash, turns=turns,
        )  # fmt: skip
        return cls(TensorRtSession(opened), config, "cuda" if gpu is None else f"cuda:{gpu}")

    def unload(self) -> None:
        """Release the GPU's memory until the next call, which loads the engine again.

        A session of ONNX Runtime stays as it is.
        """
        if isinstance(self._session, TensorRtSession):
            self._session.engine.unload()

    @torch.no_grad()
    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """What the transformer's own forward returns, for the arguments that it takes.

        Raises:
            ArgumentError: arguments that the exported model has not, such as ControlNet residuals
                or attention arguments; or tensors that the session refuses.
            ModelError: the call is of another resolution than the file.
        """
        own = named_arguments(self.model_class.forward, args, kwargs)
        read = self._family.read_call(self.config, own)
        call = fitted_call(self._family, self.config, read, self._geometry)
        tensors = {LATENTS: call.latents, TIMESTEP: call.timestep, **call.inputs}
        if MASK_BIN in self._dtypes:
            tensors[MASK_BIN] = bins_of(call, self._boundaries)
        inputs = {
            name: tensor.to(self._dtypes.get(name, tensor.dtype)).contiguous()
            for name, tensor in tensors.items()
        }
        found = run_tensors(self._session, inputs)
        outputs = tuple(found[name].to(call.latents.dtype) for name in self._family.output_names)
        return returned(self.class_name, self._family.call_output(self.config, own, outputs), own)


def _check_model(model: ModelIdentity, config: Mapping[str, Any]) -> None:
    """Raise ModelError unless a configuration is the model's, alone or as one of two experts."""
    name, roles = model.class_name, (None, *(role.value for role in ExpertRole))
    known = [model_identity(name, config, role) for role in roles]
    if not any(is_of_model(model, identity, config) for identity in known):
        raise ModelError(
            "config",
            expected=f"config hash {model.config_hash[:16]} of a {model.class_name}",
            actual=known[0].config_hash[:16],
            remedy="pass the configuration of the model that was exported",
        )


def run_tensors(session: Session, inputs: dict[str, Tensor]) -> dict[str, Tensor]:
    """Outputs by name: on the tensors' device by an engine, by way of NumPy by any other."""
    if isinstance(session, TensorRtSession):
        return session.run_tensors(inputs)
    arrays = {name: np.asarray(tensor.cpu().numpy()) for name, tensor in inputs.items()}
    device = inputs[LATENTS].device
    return {name: torch.from_numpy(array).to(device) for name, array in session.run(arrays).items()}
