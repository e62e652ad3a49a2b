"""A session in the place of a diffusers transformer, inside the model's own pipeline."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from os import PathLike
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..errors import ArgumentError, ModelError
from ..models.contents import read_json_object
from ..models.experts import is_of_model
from ..plan import mask_bins, model_identity
from .session import Session
from .tensorrt_session import TensorRtSession
from .velocity import LATENTS, MASK_BIN, SAMPLE, TIMESTEP

WAN = "WanTransformer3DModel"


class EngineTransformer(torch.nn.Module):
    """Replaces `pipeline.transformer`: the same call and result, computed by a session.

    Each sample's `mask_bin` follows from its timestep by the bins that the session's file carries.
    Wan, text to video.

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
        super().__init__()
        self._check_model(session, config)
        self._session = session
        self._dtypes = {spec.name: getattr(torch, spec.dtype) for spec in session.inputs}
        self._boundaries = session.info.bin_boundaries or ()
        self._device = torch.device(device)
        self.config = SimpleNamespace(**config)

    @classmethod
    def from_engine(
        cls,
        engine: str | PathLike[str],
        config_file: str | PathLike[str],
        *,
        cuda_graph: bool = True,
    ) -> EngineTransformer:
        """From an engine file and the model's config.json; tensors live on the current GPU."""
        from pathlib import Path

        config = read_json_object(Path(config_file))
        return cls(TensorRtSession(engine, cuda_graph=cuda_graph), config, "cuda")

    @property
    def dtype(self) -> torch.dtype:
        """Of latents and conditioning."""
        dtype: torch.dtype = self._dtypes[LATENTS]
        return dtype

    @property
    def device(self) -> torch.device:
        """Where the pipeline's tensors live."""
        return self._device

    @contextmanager
    def cache_context(self, *_pass: Any, **_options: Any) -> Iterator[None]:
        """Pipelines name their passes for diffusers' caches, which an engine does not have."""
        yield

    def forward(
        self,
        hidden_states: Tensor,
        timestep: Tensor,
        encoder_hidden_states: Tensor,
        encoder_hidden_states_image: Tensor | None = None,
        return_dict: bool = True,
        attention_kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """Velocity [B, C, F, H, W] of latents at timesteps [B], as the transformer's forward.

        Raises:
            ArgumentError: image conditioning, attention arguments or a timestep for each token,
                which the exported model has not; or tensors that the session refuses.
        """
        for name, value in (
            ("encoder_hidden_states_image", encoder_hidden_states_image),
            ("attention_kwargs", attention_kwargs or None),
        ):
            if value is not None:
                raise ArgumentError(name, expected="none: it was not exported", actual="a value")
        if timestep.ndim != 1:
            raise ArgumentError(
                "timestep", expected="one for each sample, [B]", actual=str(list(timestep.shape))
            )
        tensors = {
            LATENTS: hidden_states,
            TIMESTEP: timestep,
            "encoder_hidden_states": encoder_hidden_states,
        }
        inputs = {
            name: tensor.to(self._dtypes[name]).contiguous() for name, tensor in tensors.items()
        }
        if MASK_BIN in self._dtypes:
            bins = mask_bins(timestep.detach().float().cpu().numpy(), self._boundaries)
            inputs[MASK_BIN] = torch.from_numpy(bins).to(hidden_states.device)
        sample = run_tensors(self._session, inputs)[SAMPLE].to(hidden_states.dtype)
        return _output(sample) if return_dict else (sample,)

    @staticmethod
    def _check_model(session: Session, config: Mapping[str, Any]) -> None:
        name = session.info.model.class_name
        if name != WAN:
            raise ModelError("session", expected=WAN, actual=name)
        identity = model_identity(name, config)
        if not is_of_model(session.info.model, identity, config):
            raise ModelError(
                "config", expected=f"config hash {session.info.model.config_hash[:16]}",
                actual=identity.config_hash[:16],
                remedy="pass the configuration of the model that was exported",
            )  # fmt: skip


def run_tensors(session: Session, inputs: dict[str, Tensor]) -> dict[str, Tensor]:
    """Outputs by name: on the tensors' device by an engine, by way of NumPy by any other."""
    if isinstance(session, TensorRtSession):
        return session.run_tensors(inputs)
    arrays = {name: np.asarray(tensor.cpu().numpy()) for name, tensor in inputs.items()}
    device = inputs[LATENTS].device
    return {name: torch.from_numpy(array).to(device) for name, array in session.run(arrays).items()}


def _output(sample: Tensor) -> Any:
    from diffusers.models.modeling_outputs import Transformer2DModelOutput

    return Transformer2DModelOutput(sample=sample)
