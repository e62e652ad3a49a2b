"""What the transformers answered in a dense run that is not finished, so that it can go on.

A pipeline cannot be entered in the middle of its run. It is run again from its start instead, and
the calls that were computed before are answered from their files.
"""

from __future__ import annotations

import inspect
import itertools
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..families.shared.adapt import replaced
from .calls import load_values, save_values


class UnfinishedRun:
    """The calls of one prompt's dense run, in their order, in the directory `path`.

    Args:
        path: of this run alone.
        peaks: what `recorded_peaks` collects in this run; kept with every call, as a layer of a
            call that is not computed shows none.
    """

    def __init__(self, path: Path, peaks: dict[str, Tensor]) -> None:
        self._path, self._peaks = path, peaks

    @property
    def calls(self) -> int:
        """Calls that an earlier process has computed."""
        return sum(1 for _ in itertools.takewhile(Path.exists, map(self._file, itertools.count())))

    @contextmanager
    def continued(self, models: Sequence[torch.nn.Module]) -> Iterator[None]:
        """Within the context the models' calls are answered from files, or computed and kept.

        Args:
            models: every transformer that the run calls; which are called in the same order, with
                the same arguments, each time that the run is started.

        Raises:
            ArgumentError: a file is damaged.
            ParoError: a file cannot be written.
        """
        self._path.mkdir(exist_ok=True)
        answers, order = self.calls, itertools.count()
        if answers:
            self._peaks.update(load_values(self._file(answers - 1))["peaks"])

        def answered(
            forward: Callable[..., Any], signature: inspect.Signature
        ) -> Callable[..., Any]:
            def call(*args: Any, **kwargs: Any) -> Any:
                index = next(order)
                if index >= answers:
                    result = forward(*args, **kwargs)
                    self._keep(index, result if isinstance(result, tuple) else result.to_tuple())
                    return result
                bound = signature.bind(None, *args, **kwargs).arguments
                device = bound["hidden_states"].device
                outputs = load_values(self._file(index))["outputs"]
                return as_output(bound, tuple(output.to(device) for output in outputs))

            return call

        with ExitStack() as stack:
            for model in models:
                signature = inspect.signature(type(model).forward)
                stack.enter_context(replaced(model, "forward", answered(model.forward, signature)))
            yield

    def remove(self) -> None:
        """Delete the files. Harmless when repeated."""
        shutil.rmtree(self._path, ignore_errors=True)

    def _file(self, index: int) -> Path:
        return self._path / f"call{index}.pt"

    def _keep(self, index: int, outputs: tuple[Tensor, ...]) -> None:
        peaks = {name: peak.detach().cpu() for name, peak in self._peaks.items()}
        kept = tuple(output.detach().cpu() for output in outputs)
        save_values(self._file(index), {"outputs": kept, "peaks": peaks})


def as_output(arguments: Mapping[str, Any], outputs: tuple[Tensor, ...]) -> Any:
    """What a diffusers transformer returns for these outputs.

    Args:
        arguments: of the call, by name.
        outputs: the tensors.
    """
    from diffusers.models.modeling_outputs import Transformer2DModelOutput

    if arguments.get("return_dict") is False:
        return outputs
    return Transformer2DModelOutput(*outputs)
