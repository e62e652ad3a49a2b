"""Builds of the plugin on the CPU backend with its harness, and cases for it to read."""

from __future__ import annotations

import os
import subprocess
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch

from paro_trt.op.spec import AttentionConfig, AttentionInputs, op_attributes, op_inputs
from tests.native_builds import PLUGINS, plugins_build
from tests.support.cases import node_inputs

SOURCES = PLUGINS / "tensorrt"

TYPE_NAMES = {
    torch.float16: "FP16",
    torch.bfloat16: "BF16",
    torch.float32: "FP32",
    torch.int32: "INT32",
}


def run(*words: object, status: int = 0, **environment: str) -> str:
    """Standard output and errors; the test fails where the command ends with another status."""
    done = subprocess.run(
        [str(word) for word in words],
        env={**os.environ, **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=500,
    )
    if done.returncode != status:
        command = " ".join(map(str, words))
        pytest.fail(f"{command} ended with {done.returncode}:\n{done.stdout[-6000:]}")
    return done.stdout


@dataclass(frozen=True)
class HostBuild:
    """One build: the plugin's libraries and the program that drives them."""

    folder: Path

    @property
    def library(self) -> Path:
        """The plugin on the CPU backend."""
        return self.folder / "tensorrt/host/libparo_attention_cpu_host.so"

    @property
    def emulated_library(self) -> Path:
        """The plugin on the emulated CUDA kernels, in a build of `emulated_build`."""
        return self.folder / "tensorrt/libparo_attention_emulated.so"

    @property
    def autoreg(self) -> Path:
        """What registers it when loaded by dlopen."""
        return self.folder / "tensorrt/host/libparo_attention_cpu_host_autoreg.so"

    @property
    def program(self) -> Path:
        """The harness."""
        return self.folder / "tensorrt/host/paro_plugin_harness"


def host_build(variant: str = "plain") -> HostBuild:
    """A build of one of the variants of `plugins_build`."""
    libraries = ("paro_attention_cpu_host", "paro_attention_cpu_host_autoreg")
    return HostBuild(plugins_build(variant, *libraries, "paro_plugin_harness"))


def emulated_build(variant: str = "plain") -> HostBuild:
    """The same with the emulated CUDA kernels."""
    return HostBuild(plugins_build(variant, "paro_attention_emulated", "paro_plugin_harness"))


def write_case(
    folder: Path,
    inputs: AttentionInputs,
    config: AttentionConfig,
    max_workspace_mib: int = 0,
    version: int | None = None,
) -> Path:
    """A folder in the form that plugins/tensorrt/host/case.h describes.

    version: of the op; None: the first that has what the config uses. In version 2, inputs that
    are not used are zeros.
    """
    folder.mkdir(parents=True, exist_ok=True)
    version = version or config.version
    lines = [f"version {version}", f"field scale FLOAT32 {config.scale!r}"]
    for entry in op_attributes(version):
        if entry.kind is int:
            lines.append(f"field {entry.name} INT32 {int(getattr(config, entry.name))}")
    lines.append(f"field max_workspace_mib INT32 {max_workspace_mib}")
    for entry, tensor in zip(op_inputs(version), node_inputs(inputs, version), strict=True):
        name = entry.name
        sizes = " ".join(map(str, tensor.shape))
        lines.append(f"tensor {name} {TYPE_NAMES[tensor.dtype]} {sizes}")
        tensor.contiguous().view(torch.uint8).numpy().tofile(folder / f"{name}.bin")
    (folder / "case.txt").write_text("\n".join(lines) + "\n")
    return folder


def live(
    build: HostBuild, folder: Path, inputs: AttentionInputs, library: Path | None = None
) -> torch.Tensor:
    """The output of the last enqueue in a plugin's whole life."""
    output = folder / "output.bin"
    said = run(build.program, "life", library or build.library, folder, output)
    assert "FAILED" not in said
    content = torch.from_numpy(np.fromfile(output, np.uint8))
    return content.view(inputs.query.dtype).view(inputs.query.shape)
