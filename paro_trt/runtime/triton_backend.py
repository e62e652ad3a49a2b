"""An engine as a model of Triton's Python backend, which streams weights.

Triton's own TensorRT backend has no budget: it keeps all weights on the GPU. `paro-trt triton` with
a budget writes a repository whose `model.py` is this class.
"""

from __future__ import annotations

import importlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.dlpack import from_dlpack

from ..errors import ParoError
from .engine import Engine

ENGINE_FILE, BUDGET = "model.engine", "weight_streaming_budget"


class TritonPythonModel:
    """What Triton calls: initialize, execute for each batch of requests, finalize."""

    def initialize(self, args: Mapping[str, str]) -> None:
        """Load the engine of the model's version on the instance's GPU."""
        self._utils: Any = importlib.import_module("triton_python_backend_utils")
        said = json.loads(args["model_config"])["parameters"][BUDGET]["string_value"]
        folder = Path(args["model_repository"]) / args["model_version"]
        self._engine = Engine(
            folder / ENGINE_FILE,
            weight_streaming_budget="auto" if said == "auto" else int(said),
            gpu=int(args["model_instance_device_id"]),
        )

    def execute(self, requests: Sequence[Any]) -> list[Any]:
        """One response for each request. Requests run as one batch: weights cross the bus once."""
        try:
            inputs = [self._inputs(request) for request in requests]
            counts = [len(next(iter(given.values()))) for given in inputs]
            joined = {name: torch.cat([given[name] for given in inputs]) for name in inputs[0]}
            outputs = self._engine.run(joined)
        except ParoError as error:
            refusal = self._utils.TritonError(str(error))
            return [self._utils.InferenceResponse([], refusal) for _ in requests]
        parts = {name: torch.split(tensor, counts) for name, tensor in outputs.items()}
        return [
            self._utils.InferenceResponse(
                [
                    self._utils.Tensor.from_dlpack(name, part[index].contiguous())
                    for name, part in parts.items()
                ]
            )
            for index in range(len(requests))
        ]

    def finalize(self) -> None:
        """Release the engine."""
        self._engine.close()

    def _inputs(self, request: Any) -> dict[str, Tensor]:
        find = self._utils.get_input_tensor_by_name
        return {
            spec.name: from_dlpack(find(request, spec.name).to_dlpack()).contiguous()
            for spec in self._engine.manifest.inputs
        }
