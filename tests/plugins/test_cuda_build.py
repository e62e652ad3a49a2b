"""Every refusal of impl="cuda" without a GPU, and the library that `make plugin` builds."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from paro_trt.errors import ArgumentError, BackendUnavailableError
from paro_trt.op import native
from paro_trt.op.api import Implementation, check_devices, paro_attention
from paro_trt.op.spec import AttentionInputs
from tests.native_builds import PLUGINS, ROOT, require
from tests.support.cases import OpCase, random_inputs

from .emulator_builds import run

CASE = OpCase("refused", 200, dtype=torch.float16).with_bits(8, 8, True)
DEVICE_TEST = Path(__file__).with_name("cuda_device")
TARGETS, PTX = "80,86,89,90a,100,120", "120"
MAX_LIBRARY_BYTES = 8 * 2**20


def call(inputs: AttentionInputs) -> torch.Tensor:
    sizes = {"block_q": CASE.config.block_q, "block_k": CASE.config.block_k}
    return paro_attention(*inputs, **sizes, qk_bits=8, pv_bits=8, pool_dropped=1, impl="cuda")


@pytest.fixture
def stub_library(tmp_path, monkeypatch):
    """A library where impl="cuda" looks for its own (the CPU backend's copy)."""
    shutil.copy(native.library_path("cpu"), tmp_path / "libparo_attention.so")
    monkeypatch.setenv(native.LIBRARY_DIRECTORY_VARIABLE, str(tmp_path))


def test_without_its_library_the_build_command_is_named(tmp_path, monkeypatch, fresh_seed):
    monkeypatch.setenv(native.LIBRARY_DIRECTORY_VARIABLE, str(tmp_path))
    with pytest.raises(BackendUnavailableError, match=r"impl='cuda'.*make plugin"):
        call(random_inputs(CASE, fresh_seed))
    with pytest.raises(BackendUnavailableError, match="make emulated"):
        native.library_path("emulated")
    (tmp_path / "libparo_attention.so").write_bytes(b"not a library")
    with pytest.raises(BackendUnavailableError, match=r"C ABI.*make plugin"):
        native.NativeLibrary(native.library_path("attention"))


@pytest.mark.usefixtures("stub_library")
@pytest.mark.parametrize(
    ("cuda", "said"), [(None, "a torch without CUDA"), ("13.0", "none in a torch built for CUDA")]
)
def test_without_a_gpu_torch_is_named(cuda, said, monkeypatch, fresh_seed):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.version, "cuda", cuda)
    with pytest.raises(BackendUnavailableError, match=f"GPU that torch can use, got {said}"):
        call(random_inputs(CASE, fresh_seed))


@pytest.mark.usefixtures("stub_library")
def test_cpu_tensors_are_not_moved(monkeypatch, fresh_seed):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    with pytest.raises(
        BackendUnavailableError,
        match=r"^query: expected a CUDA tensor .*on cpu; fix: move the inputs",
    ):
        call(random_inputs(CASE, fresh_seed))


def on_gpu(inputs: AttentionInputs) -> AttentionInputs:
    """Tensors without content that claim to be on the first GPU."""
    with FakeTensorMode():
        return AttentionInputs(
            *(torch.empty(x.shape, dtype=x.dtype, device="cuda:0") for x in inputs[:10])
        )


@pytest.mark.parametrize("name", ["key", "block_mask", "key_length"])
def test_tensors_of_two_gpus_are_refused(name, fresh_seed):
    inputs = on_gpu(random_inputs(CASE, fresh_seed))
    check_devices(inputs, Implementation.CUDA)
    with FakeTensorMode():
        other = torch.empty(getattr(inputs, name).shape, device="cuda:1")
    with pytest.raises(ArgumentError, match=f"^{name}: expected a tensor on cuda:0, as query"):
        check_devices(inputs._replace(**{name: other}), Implementation.CUDA)


def test_a_strided_gpu_tensor_is_refused(fresh_seed):
    inputs = on_gpu(random_inputs(CASE, fresh_seed))
    with FakeTensorMode():
        value = torch.empty_strided((1, 200, 2, 64), (25600, 64, 12800, 1), device="cuda:0")
    strided = inputs._replace(value=value)
    with pytest.raises(
        ArgumentError, match=r"^value: expected a contiguous tensor.*contiguous\(\)"
    ):
        check_devices(strided, Implementation.CUDA)


def test_gpu_tensors_are_refused_by_the_others(fresh_seed):
    inputs = on_gpu(random_inputs(CASE, fresh_seed))
    for implementation in (Implementation.CPU, Implementation.EMULATED):
        with pytest.raises(BackendUnavailableError, match="expected a CPU tensor"):
            check_devices(inputs, implementation)


def build_device_program(folder: Path, targets: str, ptx: str) -> Path:
    """device_cuda.cpp over a runtime that tells what the environment says."""
    require("g++")
    program = folder / "device"
    sources = [PLUGINS / "kernels/device_cuda.cpp", PLUGINS / "common/error.cpp"]
    defines = [f'-DPARO_CUDA_TARGETS="{targets}"', f'-DPARO_CUDA_PTX="{ptx}"']
    defines += ['-DPARO_CUDA_BITS=""', '-DPARO_VERSION=""']
    include = [f"-I{DEVICE_TEST}", f"-I{PLUGINS}", f"-I{PLUGINS / 'include'}"]
    words = ["g++", "-std=c++20", "-Wall", "-Wextra", "-Werror", *defines, *include]
    run([*words, DEVICE_TEST / "main.cpp", *sources, "-o", program])
    return program


@pytest.fixture(scope="module")
def device_program(tmp_path_factory) -> Path:
    """For the shipped targets."""
    return build_device_program(tmp_path_factory.mktemp("device"), TARGETS, PTX)


def device(program: Path, **environment: int) -> tuple[int, int, str]:
    """Status, SM and message of a device."""
    fake = {name: str(value) for name, value in environment.items()}
    status, sm, message = run([program], {**os.environ, **fake}).split(" ", 2)
    return int(status), int(sm), message


@pytest.mark.parametrize("sm", [80, 86, 87, 89, 90, 100, 103, 120, 121, 130])
def test_a_gpu_with_code_is_taken(device_program, sm):
    assert device(device_program, FAKE_SM=sm)[:2] == (0, sm)


@pytest.mark.parametrize("sm", [91, 110])
def test_a_gpu_without_code_is_told_the_targets(device_program, sm):
    status, _, message = device(device_program, FAKE_SM=sm)
    assert status == 2
    assert f"sm_{TARGETS}, PTX of '{PTX}'" in message
    assert f"device 3 is sm_{sm}" in message


@pytest.mark.parametrize(
    ("targets", "ptx", "taken", "refused"),
    [
        ("103f", "", [103], [80, 90, 100, 120]),
        ("100f,120f", "", [100, 103, 120, 121], [80, 90, 110]),
        ("89,100a", "", [89], [86, 103, 120]),
        ("89", "120f", [89, 120, 121], [100, 130]),
        ("89", "90a", [89, 90], [100, 120]),
    ],
)
def test_targets_of_a_family_are_taken_or_refused(targets, ptx, taken, refused, tmp_path):
    """A loop over them once had no end where the GPU was another one."""
    program = build_device_program(tmp_path, targets, ptx)
    answers = {sm: device(program, FAKE_SM=sm)[0] for sm in (*taken, *refused)}
    assert answers == dict.fromkeys(taken, 0) | dict.fromkeys(refused, 2)


def test_driver_and_device_are_told_apart(device_program):
    old = device(device_program, FAKE_ERROR=35, FAKE_DRIVER=12080)
    assert old == (
        4,
        0,
        "driver: expected one of CUDA 13.0 or later, got one of CUDA 12.8; update it",
    )
    assert "found none" in device(device_program, FAKE_ERROR=35)[2]
    assert "CUDA says: no CUDA-capable device" in device(device_program, FAKE_ERROR=100)[2]


@pytest.mark.parametrize(
    ("bits", "sm", "here", "has_body"),
    [
        (8, 90, 90, True),
        (8, 90, 100, False),  # wgmma
        (8, 100, 90, True),  # mma.sync on a Hopper, for comparison
        (8, 80, 120, True),
        (4, 89, 80, True),
        (4, 89, 90, False),  # native 4-bit products
        (4, 90, 86, False),  # unpacked ones
        (4, 90, 120, True),
        (16, 80, 90, True),
    ],
)
def test_a_kernel_without_a_body_on_this_gpu_is_known(bits, sm, here, has_body, tmp_path):
    """Kernels of other generations are compiled to nothing: outputs would stay as they were."""
    require("g++")
    (tmp_path / "main.cpp").write_text(
        '#include <cstdlib>\n#include "kernels/device.h"\n#include "kernels/instructions.h"\n'
        "bool paro::kernels::has_wgmma_code() noexcept { return true; }\n"
        "int main(int, char** words) {\n  paro_attention call{};\n"
        "  call.qk_bits = call.pv_bits = std::atoi(words[1]);\n  return "
        "paro::kernels::has_kernel_of(call, std::atoi(words[2]), std::atoi(words[3])) ? 0 : 1;\n}\n"
    )
    include = [f"-I{PLUGINS}", f"-I{PLUGINS / 'include'}"]
    program, rule = tmp_path / "rule", PLUGINS / "kernels/instructions.cpp"
    run(["g++", "-std=c++20", *include, tmp_path / "main.cpp", rule, "-o", program])
    done = subprocess.run([program, str(bits), str(sm), str(here)], check=False)
    assert done.returncode == (0 if has_body else 1)


def check_library(path: Path) -> None:
    """Checks of the shipped library that need no GPU."""
    assert path.stat().st_size <= MAX_LIBRARY_BYTES
    dynamic = run(["readelf", "-d", path])
    needed = set(re.findall(r"NEEDED.*\[(.+?)\.so", dynamic))
    system = {"libc", "libm", "libdl", "librt", "libpthread", "libgcc_s", "ld-linux-x86-64"}
    assert needed <= system
    listing = run(["nm", "-D", "--defined-only", path]).splitlines()
    names = {line.split()[-1] for line in listing}
    assert {name for name in names if not name.startswith("paro_")} == {
        "getCreators",
        "setLoggerFinder",
    }
    script = (
        "import sys; from pathlib import Path; from paro_trt.op import native\n"
        "from tests.support.cases import OpCase, random_inputs; import torch\n"
        "case = OpCase('small', 300, dtype=torch.float16).with_bits(8, 8, True)\n"
        "library, inputs = native.NativeLibrary(Path(sys.argv[1])), random_inputs(case, 1)\n"
        "print(library.name, library.describe(inputs, case.config, sm=89))\n"
        "print(library.workspace_bytes(inputs, case.config, sm=89))\n"
        "if torch.cuda.is_available(): sys.exit()\n"
        "try: library.forward(inputs, case.config)\n"
        "except native.BackendUnavailableError as error: print('refused:', error)\n"
    )
    said = run([sys.executable, "-c", script, path], {**os.environ, "PYTHONPATH": str(ROOT)})
    assert said.startswith("paro-cuda ")
    if not torch.cuda.is_available():
        assert "refused: paro-cuda" in said
        assert "found none" in said or "CUDA says" in said


def test_the_installed_library():
    try:
        path = native.library_path("attention")
    except BackendUnavailableError:
        pytest.skip("libparo_attention.so is not built (make plugin)")
    check_library(path)


def unit_commands(folder: Path, **options: str) -> dict[str, str]:
    """How each source file of CUDA is compiled, by its name."""
    require("cmake", "g++", "nvcc")
    options |= {"PARO_BUILD_CPU": "OFF", "PARO_BUILD_CUDA": "ON", "PARO_BUILD_EMULATOR": "OFF"}
    options |= {"PARO_TRT_ABI_SHIM": "ON", "CMAKE_EXPORT_COMPILE_COMMANDS": "ON"}
    run(["cmake", "-S", PLUGINS, "-B", folder, *(f"-D{k}={v}" for k, v in options.items())])
    commands = json.loads((folder / "compile_commands.json").read_text())
    return {Path(entry["file"]).stem: entry["command"] for entry in commands}


@pytest.mark.parametrize(
    ("targets", "ptx", "native", "unpacked", "wgmma"),
    [
        ("80;86;89;90a;100;120", "120", {"80", "86", "89"}, {"90a", "100", "120"}, {"90a"}),
        ("89", "", {"89"}, set(), set()),
        ("120", "120", set(), {"120"}, set()),
    ],
)
def test_no_kernel_is_compiled_for_a_gpu_without_its_instructions(
    targets, ptx, native, unpacked, wgmma, tmp_path
):
    """Where no target has them, the unit has the rows of its kernels alone."""
    units = unit_commands(tmp_path, PARO_CUDA_TARGETS=targets, PARO_CUDA_PTX=ptx)
    # For one GPU, each pair of number types is a unit.
    several = ";" in targets
    keys_native = f"sparse_attention_{'keys_s4' if several else 's4-s8'}_native"
    wanted = {
        keys_native: native,
        f"sparse_attention_{'values_s4' if several else 's8-s4'}_unpacked": unpacked,
        "sparse_attention_wgmma": wgmma,
        f"sparse_attention_{'values_s8' if several else 's8-s8'}": set(targets.split(";")),
        "reorder_quantize": set(targets.split(";")),
    }
    for unit, compiled in wanted.items():
        found = set(re.findall(r"code=sm_(\w+)", units[unit]))
        assert ("PARO_ROWS_ALONE" in units[unit]) == (not compiled)
        assert found == (compiled or {targets.split(";")[0]})
        for_later = re.findall(r"code=compute_(\w+)", units[unit])
        has_later = bool(ptx) and unit not in (keys_native, "sparse_attention_wgmma")
        assert for_later == ([ptx] if has_later else [])


def test_bits_that_are_left_out_have_rows_alone(tmp_path):
    """PARO_CUDA_BITS: pairs of other bits are not compiled, whatever their 16-bit type is."""
    units = unit_commands(tmp_path, PARO_CUDA_TARGETS="89,90a", PARO_CUDA_BITS="8-8,4-8,16-16")
    compiled = {
        name.removeprefix("sparse_attention_")
        for name, command in units.items()
        if name.startswith("sparse_attention_") and "PARO_ROWS_ALONE" not in command
    }
    pairs = {"s8-s8", "f16-f16", "bf16-bf16", "s4-s8_native", "s4-s8_unpacked", "wgmma"}
    assert compiled == pairs
    assert "reorder_quantize" in units
    assert "8-8,4-8,16-16" in units["device_cuda"]


def test_bits_that_do_not_exist_are_refused(tmp_path):
    require("cmake", "g++", "nvcc")
    options = ["-DPARO_BUILD_CUDA=ON", "-DPARO_CUDA_TARGETS=89", "-DPARO_CUDA_BITS=8-8,8-3"]
    command = ["cmake", "-S", PLUGINS, "-B", tmp_path, *options]
    result = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert result.returncode != 0
    assert "PARO_CUDA_BITS: expected pairs of 16, 8 or 4" in " ".join(result.stderr.split())


@pytest.mark.long
def test_all_targets_build():
    """As `make plugin` does, without installing."""
    require("cmake", "g++", "readelf", "nm")
    if not (os.environ.get("CUDACXX") or shutil.which("nvcc")):
        pytest.skip("no nvcc on the PATH or in CUDACXX")
    subprocess.run(["cmake", "--preset", "plugin"], cwd=ROOT, check=True, timeout=120)
    command = ["cmake", "--build", "--preset", "plugin", "--parallel", "2"]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=1500)
    assert result.returncode == 0, result.stderr[-4000:]
    library = next((ROOT / "build" / "plugin").rglob("libparo_attention.so"))
    stripped = library.with_suffix(".stripped.so")
    run(["strip", "-o", stripped, library])
    check_library(stripped)


@pytest.mark.long
def test_device_checks_say_which_index_was_clamped(tmp_path):
    """In the emulator, whose kernels are compiled with the same option."""
    require("cmake", "g++")
    folder = ROOT / "build" / "kernels-checks"
    flags = ["-DCMAKE_BUILD_TYPE=Test", "-DCMAKE_CXX_FLAGS_TEST=-O1", "-DPARO_BUILD_CPU=OFF"]
    flags += ["-DPARO_BUILD_TENSORRT=OFF", "-DPARO_DEVICE_CHECKS=ON"]
    run(["cmake", "-S", PLUGINS, "-B", folder, *flags])
    run(["cmake", "--build", folder, "--target", "paro_emulated", "--parallel", "2"])
    script = tmp_path / "forward.py"
    script.write_text(
        "import sys, torch; from pathlib import Path; from paro_trt.op import native\n"
        "from tests.support.cases import OpCase, random_inputs\n"
        "case = OpCase('checks', 100, dtype=torch.float16).with_bits(8, 8, True)\n"
        "inputs = random_inputs(case, 1)\n"
        "order = inputs.token_order.clone()\n"
        "order[:, 7] = int(sys.argv[2])\n"
        "library = native.NativeLibrary(Path(sys.argv[1]))\n"
        "library.forward(inputs._replace(token_order=order), case.config)\n"
    )
    library = folder / "kernels" / "libparo_emulated.so"
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    said = run([sys.executable, script, library, "1000"], environment)
    assert "token_order: expected 0..99, got 1000" in said
    assert run([sys.executable, script, library, "99"], environment) == ""
