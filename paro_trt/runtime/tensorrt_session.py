"""An engine behind the interface of all sessions."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..onnx_file.info import ExportInfo
from ..onnx_file.tensors import TensorSpec
from .engine import Engine
from .session import Arrays, Session

if TYPE_CHECKING:
    from torch import Tensor


class TensorRtSession(Session):
    """A TensorRT engine that runs on NumPy arrays; `run_tensors` takes torch's where they are.

    Args:
        engine: closed with the session.
    """

    def __init__(self, engine: Engine) -> None:
        self.engine = engine

    @property
    def inputs(self) -> tuple[TensorSpec, ...]:
        """What `run` takes, all of it."""
        return self.engine.manifest.inputs

    @property
    def outputs(self) -> tuple[TensorSpec, ...]:
        """What `run` returns."""
        return self.engine.manifest.outputs

    @property
    def info(self) -> ExportInfo:
        """What the manifest says of the model it was made from."""
        return self.engine.manifest.info

    def close(self) -> None:
        """Release the engine."""
        self.engine.close()

    def run_tensors(self, inputs: dict[str, Tensor]) -> dict[str, Tensor]:
        """Outputs by name, on the device of the inputs; see `EngineContext.run`."""
        return self.engine.run(inputs)

    def _execute(self, inputs: Arrays) -> Arrays:
        return self.engine.run(inputs)
