"""Which backends run on this machine, from the components that it has."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from enum import Enum
from typing import Any

from . import driver, libraries, probes, tensorrt
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
        machine: cpu, cores, features, memory, driver and gpus.
        components: what is here and what is not.
        backends: what will run.
        mismatches: what is here and does not go together, a line each that says the fix.
    """

    machine: dict[str, Any]
    components: tuple[Component, ...]
    backends: tuple[Backend, ...]
    mismatches: tuple[str, ...] = ()

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
    """Look at this machine: some seconds, most of them imports in other processes."""
    with ThreadPoolExecutor() as pool:
        found_driver = pool.submit(driver.find_driver)
        packages = pool.submit(probes.packages, CHAIN)
        native = pool.submit(libraries.examine_libraries)
        engines = pool.submit(tensorrt.components)
    here, why_no_driver = found_driver.result()
    components = (
        probes.python_component(),
        *packages.result(),
        *native.result(),
        *engines.result(),
        *driver.components(here, why_no_driver),
        *(probes.unloaded_package(name, purpose) for name, purpose in OPTIONAL.items()),
        probes.tool("nvcc", "compiling the CUDA kernels; make plugin gets its own", ""),
    )
    machine = {
        **probes.cpu_facts(),
        **probes.memory_facts(),
        "driver": here.described if here else "",
        "gpus": [asdict(gpu) for gpu in here.gpus] if here else [],
    }
    mismatches = driver.mismatches(here, components)
    parts = {part.name: part for part in components}
    return Diagnosis(machine, components, _backends(parts, mismatches), mismatches)


def _backends(parts: dict[str, Component], mismatches: tuple[str, ...]) -> tuple[Backend, ...]:
    def needs(*names: str) -> tuple[State, str]:
        lacking = [name for name in names if not parts[name].present]
        remedies = {parts[name].remedy for name in lacking}
        remedy = remedies.pop() if len(remedies) == 1 else ""
        why_not = f"needs {', '.join(lacking)}" + (f": {remedy}" if remedy else "")
        return (State.MISSING, why_not) if lacking else (State.RUNS, "")

    def computes(impl: str, what: str, *names: str) -> Backend:
        state, why_not = needs(*names)
        if state is State.RUNS:
            computed, why_not = libraries.computes(impl)
            state = State.RUNS if computed else State.MISSING
        return Backend(impl, state, what if state is State.RUNS else why_not)

    reference, why_not = needs("torch", "numpy")
    native, why_not_native = needs("torch", "onnxruntime", "libparo_cpu", "libparo_onnxruntime")
    ort, why_no_ort = needs("onnx", "onnxruntime", "numpy")
    engines, why_no_engines = needs(*tensorrt.RUNTIME_PARTS)
    if mismatches and engines is State.RUNS:
        engines, why_no_engines = State.MISSING, mismatches[0]
    rtx, why_no_rtx = needs(*tensorrt.RTX_PARTS)
    return (
        Backend("reference", reference, why_not or "the op in eager PyTorch: the specification"),
        Backend("ort", ort, why_no_ort or "exported models in plain ONNX Runtime, on the CPU"),
        Backend(
            "cpu",
            native,
            why_not_native or "the op in native CPU kernels, from Python and in ONNX Runtime",
        ),
        computes("emulated", "the CUDA kernels' source on the CPU", "torch", "libparo_emulated"),
        computes("cuda", "CUDA kernels, called from Python", "torch", "GPU", "libparo_attention"),
        Backend("tensorrt", engines, why_no_engines or "engines with the PAROAttention plugin"),
        Backend(
            "tensorrt_rtx",
            rtx,
            why_no_rtx or "building engines with the plugin, for GPUs that need not be here",
        ),
    )
