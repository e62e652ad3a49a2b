"""What the plugin answers a builder: without a GPU, and under a limit of its workspace."""

from __future__ import annotations

import ctypes
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from paro_trt.op.c_abi import attention_call, launch_on
from paro_trt.op.spec import AttentionConfig
from tests.native_builds import PLUGINS
from tests.support.cases import OpCase, random_inputs
from tests.support.numerics import compare

from .harness import SOURCES, HostBuild, emulated_build, live, run, write_case

MEBIBYTE = 1 << 20

# Eight heads whose prepared keys and values take some MiB together and less than one each.
LARGE = OpCase(
    "large", 330, batch=3, heads=8, kv_heads=8, density=0.2, dtype=torch.float16,
    config=AttentionConfig(block_q=64, block_k=64, qk_bits=16, pv_bits=16),
)  # fmt: skip


@pytest.fixture(scope="module")
def build() -> HostBuild:
    return emulated_build()


def workspace(library: Path, case: OpCase, sm: int) -> int:
    """Bytes that the library's C ABI asks for."""
    inputs, size = random_inputs(case, 0), ctypes.c_size_t()
    call, launch = attention_call(inputs, case.config), launch_on(sm=sm)
    ask = ctypes.CDLL(str(library)).paro_workspace_bytes
    assert ask(ctypes.byref(call), ctypes.byref(launch), ctypes.byref(size)) == 0
    return size.value


@pytest.mark.parametrize("bits", [(16, 16), (8, 8), (4, 4)])
def test_workspace_is_the_same_on_every_gpu(build: HostBuild, bits: tuple[int, int]) -> None:
    """What is asked at build time is asked for one generation, wherever the engine will run."""
    case = LARGE.with_bits(*bits, pool_dropped=True)
    sizes = {workspace(build.emulated_library, case, sm) for sm in (80, 86, 89, 90, 100, 120)}
    assert len(sizes) == 1


def without_a_gpu(build: HostBuild, folder: Path) -> Path:
    """The plugin on kernels that find no device, as CUDA's do on a machine without one."""
    source = folder / "no_device.cpp"
    text = (PLUGINS / "kernels/device_emulated.cpp").read_text()
    there = "  *sm = 80;\n  return PARO_OK;"
    assert there in text
    absent = '  (void)sm;\n  return fail(PARO_NO_DEVICE, "device: expected a GPU, got none");'
    source.write_text(text.replace(there, absent))
    library = folder / "libparo_attention.so"
    objects = [
        path
        for path in sorted(build.folder.rglob("*.o"))
        if "/paro_emulated_objects.dir/" in str(path)
        or "/paro_emulator.dir/" in str(path)
        or "/paro_tensorrt_objects.dir/" in str(path)
    ]
    kept = [path for path in objects if path.name != "device_emulated.cpp.o"]
    assert len(kept) == len(objects) - 1
    include = [f"-I{PLUGINS}", f"-I{PLUGINS / 'include'}", '-DPARO_VERSION="0.1.0"']
    exports = f"-Wl,-Bsymbolic,--version-script={SOURCES / 'exports.map'}"
    options = ["-std=c++20", "-fPIC", "-shared", "-pthread"]
    run("g++", *options, *include, source, *kept, exports, "-o", library)
    return library


def test_a_gpu_is_asked_for_only_when_an_engine_is_attached(
    build: HostBuild, tmp_path: Path, fresh_seed: int
) -> None:
    library = without_a_gpu(build, tmp_path)
    inputs = random_inputs(LARGE, fresh_seed)
    folder = write_case(tmp_path / "case", inputs, LARGE.config)
    said = run(build.program, "life", library, folder, tmp_path / "out", status=1)
    assert "attach to context: device: expected a GPU, got none" in said
    assert "configure" not in said
    assert "workspace: " not in said


@pytest.mark.parametrize("batch", [1, 3])
def test_heads_in_groups_compute_the_same_in_the_workspace_that_was_asked_for(
    build: HostBuild, batch: int, tmp_path: Path, fresh_seed: int
) -> None:
    """A profile goes up to two samples more than the case: of 8, 16 and 24 heads at most 8, 8 and 6
    fit at once, so that the smallest batch takes more than the largest."""
    assert workspace(build.emulated_library, LARGE, 80) > MEBIBYTE
    case = replace(LARGE, batch=batch)
    inputs = random_inputs(case, fresh_seed)
    folder = write_case(tmp_path, inputs, case.config, max_workspace_mib=1)
    comparison = compare(live(build, folder, inputs, build.emulated_library), inputs, case.config)
    assert comparison.ok, comparison.failures


def test_a_limit_below_one_head_is_refused(build: HostBuild, tmp_path: Path) -> None:
    case = replace(LARGE, tokens=5000, batch=1, heads=1, kv_heads=1)
    folder = write_case(tmp_path, random_inputs(case, 0), case.config, max_workspace_mib=1)
    said = run(build.program, "life", build.emulated_library, folder, tmp_path / "o", status=1)
    assert "max_workspace: expected at least" in said
