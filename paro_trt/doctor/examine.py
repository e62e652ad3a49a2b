"""From what a machine has to which backends run on it."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import Any

from . import probes, tensorrt
from .probes import Component

CHAIN = {
    "numpy": "plans",
    "torch": "models, calibration, the reference",
    "diffusers": "model classes",
    "safetensors": "weights and plans",
    "onnx": "export",
    "onnxscript": "export",
    "onnxruntime": "running exported models",
}
"""What the chain calibrate, export, verify, run needs on a CPU, and for what."""

OPTIONAL = {
    "polygraphy": "inspecting and comparing ONNX files",
    "tritonclient": "checking Triton's configurations",
}
"""Looked for by name and not loaded."""


class State(str, Enum):
    """Whether a backend will run here."""

    RUNS = "runs"
    MISSING = "missing"
    PLANNED = "not in this release"


@dataclass(frozen=True)
class Backend:
    """One way of computing the op or of running an exported model."""

    name: str
    state: State
    detail: str


@dataclass(frozen=True)
class Diagnosis:
    """What `examine` found.

    Args:
        machine: cpu, cores, features, memory and gpus.
        components: what is here and what is not.
        backends: what will run.
    """

    machine: dict[str, Any]
    components: tuple[Component, ...]
    backends: tuple[Backend, ...]

    @property
    def cpu_chain(self) -> bool:
        """Whether calibrate, export, verify and run all work on this machine's CPU."""
        return not self.missing

    @property
    def missing_for_engines(self) -> tuple[Component, ...]:
        """What building and running engines with the plugin lacks, each with its remedy."""
        return tuple(
            part
            for part in self.components
            if part.name in tensorrt.RUNTIME_PARTS and not part.present
        )

    @property
    def missing(self) -> tuple[Component, ...]:
        """What the chain lacks, each with its remedy."""
        needed = {"python", *CHAIN}
        return tuple(part for part in self.components if part.name in needed and not part.present)


def examine() -> Diagnosis:
    """Look at this machine: some seconds, most of them imports in another process."""
    gpus = probes.gpus()
    components = (
        probes.python_component(),
        *probes.packages(CHAIN),
        probes.native_library("cpu", "the op on the CPU, fast"),
        probes.custom_op("the same in ONNX Runtime"),
        *tensorrt.components(gpus),
        *(probes.unloaded_package(name, purpose) for name, purpose in OPTIONAL.items()),
        probes.tool("nvcc", "compiling the CUDA kernels, in a later release", ""),
    )
    present = {part.name: part.present for part in components}
    machine = {**probes.cpu_facts(), **probes.memory_facts(), "gpus": list(gpus)}
    return Diagnosis(machine, components, _backends(present))


def _backends(present: dict[str, bool]) -> tuple[Backend, ...]:
    def needs(*names: str) -> tuple[State, str]:
        lacking = [name for name in names if not present[name]]
        return (State.MISSING, f"needs {', '.join(lacking)}") if lacking else (State.RUNS, "")

    reference, why_not = needs("torch", "numpy")
    native, why_not_native = needs("torch", "onnxruntime", "libparo_cpu", "libparo_onnxruntime")
    ort, why_no_ort = needs("onnx", "onnxruntime", "numpy")
    engines, why_no_engines = needs(*tensorrt.RUNTIME_PARTS)
    rtx, why_no_rtx = needs(*tensorrt.RTX_PARTS)
    return (
        Backend("reference", reference, why_not or "the op in eager PyTorch: the specification"),
        Backend("ort", ort, why_no_ort or "exported models in plain ONNX Runtime, on the CPU"),
        Backend(
            "cpu",
            native,
            why_not_native or "the op in native CPU kernels, from Python and in ONNX Runtime",
        ),
        Backend("emulated", State.PLANNED, "the CUDA kernels' source, run on the CPU"),
        Backend("cuda", State.PLANNED, "CUDA kernels, called from Python"),
        Backend("tensorrt", engines, why_no_engines or "engines with the PAROAttention plugin"),
        Backend(
            "tensorrt_rtx",
            rtx,
            why_no_rtx or "building engines of the function body, for GPUs that need not be here",
        ),
    )
