"""`paro-trt run`."""

from __future__ import annotations

import time
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer

from ..errors import ArgumentError, ParoError
from . import output
from .choices import BackendName
from .paths import ForceOption, Kind, check_output, require_file
from .policy import end_unmet
from .sizes import parse_budget

if TYPE_CHECKING:
    from ..runtime.session import Arrays


def run(
    model: Annotated[Path, typer.Argument(metavar="FILE", help="An exported model or an engine.")],
    inputs: Annotated[
        Path, typer.Option(help="Safetensors file with one tensor for each input of the model.")
    ],
    target: Annotated[
        Path, typer.Option("-o", "--output", help="Safetensors file for the outputs.")
    ],
    backend: Annotated[
        BackendName | None,
        typer.Option(help="Who executes it. [default: tensorrt for an engine, else ort]"),
    ] = None,
    threads: Annotated[int | None, typer.Option(help="CPU threads of the backend.")] = None,
    weight_streaming_budget: Annotated[
        str | None,
        typer.Option(
            metavar="SIZE|auto",
            help="Of an engine that streams its weights: what stays on the GPU, such as 8GB.",
        ),
    ] = None,
    no_hash: Annotated[
        bool,
        typer.Option("--no-hash", help="Do not compare an engine with its manifest's hash."),
    ] = False,
    allow_nonfinite: Annotated[
        bool, typer.Option("--allow-nonfinite", help="Write outputs with NaN or infinity too.")
    ] = False,
    force: ForceOption = False,
    as_json: output.JsonOption = False,
) -> None:
    """Run an exported model once on given inputs.

    Exit status 1, and nothing written, if an output has NaN or infinity.
    """
    check_output(target, Kind.TENSORS, force=force, reads=(model, inputs))
    arrays = _read(require_file(inputs, "a safetensors file of inputs"))

    from ..runtime.backends import default_backend, open_session
    from ..runtime.values import NonFiniteWarning, not_finite

    backend = backend or default_backend(model).value
    budget = None if weight_streaming_budget is None else parse_budget(weight_streaming_budget)
    with open_session(
        model, backend, threads, weight_streaming_budget=budget, check_hash=not no_hash
    ) as session:
        started = time.perf_counter()
        with output.status(f"running {model.name}"), warnings.catch_warnings():
            warnings.simplefilter("ignore", NonFiniteWarning)  # an error below
            outputs = session.run(arrays)
        seconds = time.perf_counter() - started
    broken = not_finite(outputs)
    if broken and not allow_nonfinite:
        _refuse(broken, not_finite(arrays))
    _write(outputs, target)
    summary = {
        "model": str(model),
        "backend": backend,
        "seconds": round(seconds, 4),
        "file": str(target),
        "outputs": {name: _describe(array) for name, array in outputs.items()},
        "not_finite": broken,
    }
    if as_json:
        output.print_json(summary)
    else:
        shapes = {name: f"{array.dtype} {list(array.shape)}" for name, array in outputs.items()}
        facts = {"backend": backend, "time": f"{seconds:.3f} s", **shapes}
        facts |= {f"{name} has": what for name, what in broken.items()}
        output.print_facts(f"wrote {target}", facts)


def _refuse(outputs: Mapping[str, str], inputs: Mapping[str, str]) -> NoReturn:
    """End with status 1 and a line that names the outputs, and the inputs where they are at fault.

    Args:
        outputs: what is not finite, by name.
        inputs: the same of what the model was given.
    """
    (name, what), *others = outputs.items()
    causes = [f"input {given} has {of}" for given, of in inputs.items()]
    end_unmet(
        ParoError(
            "output " + ", ".join((name, *(other for other, _ in others))),
            expected="finite numbers",
            actual="; ".join((what, *causes)),
            remedy="correct the input; --allow-nonfinite writes the outputs as they are"
            if causes
            else "paro-trt verify shows from which timestep on; float16 holds numbers up to 65504, "
            "so export in bfloat16 or float32; --allow-nonfinite writes the outputs as they are",
        )
    )


def _read(path: Path) -> Arrays:
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    try:
        arrays: Arrays = load_file(path)
    # bfloat16 and 8-bit floats have no NumPy type: safetensors raises a bare error for them.
    except (SafetensorError, OSError, TypeError, AttributeError, KeyError) as error:
        raise ArgumentError(
            str(path),
            expected="a safetensors file of tensors that NumPy knows",
            actual=str(error).strip().splitlines()[0][:200] if str(error) else repr(error),
        ) from error
    return arrays


def _write(outputs: Arrays, target: Path) -> None:
    import numpy as np
    from safetensors.numpy import save

    from ..files import atomic_write

    content = save({name: np.ascontiguousarray(array) for name, array in outputs.items()})
    with atomic_write(target) as file:
        file.write(content)


def _describe(array: Any) -> dict[str, Any]:
    return {"dtype": str(array.dtype), "shape": list(array.shape)}
