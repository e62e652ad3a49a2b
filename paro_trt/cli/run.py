"""`paro-trt run`."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..errors import ArgumentError
from . import output
from .choices import BackendName
from .paths import check_output, require_file
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
    as_json: output.JsonOption = False,
) -> None:
    """Run an exported model once on given inputs."""
    check_output(target)
    arrays = _read(require_file(inputs, "a safetensors file of inputs"))

    from ..runtime.backends import default_backend, open_session

    backend = backend or default_backend(model).value
    budget = None if weight_streaming_budget is None else parse_budget(weight_streaming_budget)
    with open_session(
        model, backend, threads, weight_streaming_budget=budget, check_hash=not no_hash
    ) as session:
        started = time.perf_counter()
        with output.remarks().status(f"running {model.name}"):
            outputs = session.run(arrays)
        seconds = time.perf_counter() - started
    _write(outputs, target)
    summary = {
        "model": str(model),
        "backend": backend,
        "seconds": round(seconds, 4),
        "file": str(target),
        "outputs": {name: _describe(array) for name, array in outputs.items()},
    }
    if as_json:
        output.print_json(summary)
    else:
        shapes = {name: f"{array.dtype} {list(array.shape)}" for name, array in outputs.items()}
        facts = {"backend": backend, "time": f"{seconds:.3f} s", **shapes}
        output.print_facts(f"wrote {target}", facts)


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
