"""Planted bugs in the plugin: the harness, or the comparison of its output, must see each."""

from __future__ import annotations

import subprocess
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import torch

from paro_trt.op.spec import AttentionConfig, AttentionInputs
from tests.native_builds import PLUGINS
from tests.support.cases import OpCase, random_inputs
from tests.support.numerics import compare

from .harness import SOURCES, HostBuild, host_build, write_case

CASE = OpCase(
    "everything", 203, batch=2, heads=4, kv_heads=2, bins=2, density=0.1, key_length=(203, 77),
    dtype=torch.bfloat16,
    config=AttentionConfig(block_q=128, block_k=64, qk_bits=8, pv_bits=4, pool_dropped=True,
                           scale=0.2),
)  # fmt: skip


CASE_2 = replace(
    CASE,
    config=replace(
        CASE.config, qk_bits=4, fine_summaries=True, mean_correction=True, routing=True,
        smoothing=True,
    ),
)  # fmt: skip
CASES = {1: CASE, 2: CASE_2}

DESCRIBE_CALL = "../common/describe_call.cpp"


@dataclass(frozen=True)
class Mutant:
    """A bug: in `file`, a path from plugins/tensorrt, `old` becomes `new`. A case of this version
    of the op shows it."""

    file: str
    old: str
    new: str
    version: int = 1


MUTANTS = {
    "wrong output type": Mutant(
        "plugin.cpp", "outputTypes[0] = inputTypes[0];", "outputTypes[0] = DataType::kHALF;"
    ),
    "output shaped as key": Mutant(
        "plugin.cpp", "outputs[0] = inputs[0];", "outputs[0] = inputs[1];"
    ),
    "two outputs": Mutant(
        "plugin.cpp", "{ return kOutputCount; }", "{ return kOutputCount + 1; }"
    ),
    "any format": Mutant(
        "plugin.cpp", "if (tensor.format != TensorFormat::kLINEAR) return false;", ""
    ),
    "reads undecided tensors": Mutant(
        "plugin.cpp",
        "if (pos == 0) return is_query_type(query);",
        "if (pos == 0) return is_query_type(query) && inOut[1].desc.type == query;",
    ),
    "wrong output format type": Mutant(
        "plugin.cpp", "input_type(pos, query) : query", "input_type(pos, query) : DataType::kHALF"
    ),
    "FP32 taken": Mutant(
        "tensors.cpp",
        "return type == DataType::kHALF ||",
        "return type == DataType::kFLOAT || type == DataType::kHALF ||",
    ),
    "clone forgets attributes": Mutant(
        "plugin.cpp", "AttentionPlugin(attributes_);", "AttentionPlugin(PluginAttributes{});"
    ),
    "clone is the object itself": Mutant(
        "plugin.cpp",
        "auto* const copy = new (std::nothrow) AttentionPlugin(attributes_);",
        "auto* const copy = this;",
    ),
    "timing cache ID without a field": Mutant(
        "plugin.cpp", "attributes.qk_bits, attributes.pv_bits", "attributes.qk_bits, 0"
    ),
    "timing cache ID with a rounded scale": Mutant("plugin.cpp", '"scale=%a', '"scale=%.3f'),
    "workspace of one byte": Mutant(
        "plugin.cpp",
        "describe(attributes_, largest, call)) return 0;",
        "describe(attributes_, largest, call)) return 0;\n  return 1;",
    ),
    "scale not passed on": Mutant(
        DESCRIBE_CALL, "call.scale = attributes.scale;", "call.scale = 0.0f;"
    ),
    "block sizes swapped": Mutant(
        DESCRIBE_CALL, "call.block_q = attributes.block_q;", "call.block_q = attributes.block_k;"
    ),
    "pooling not passed on": Mutant(
        DESCRIBE_CALL, "call.pool_dropped = attributes.pool_dropped;", "call.pool_dropped = 0;"
    ),
    "bits swapped": Mutant(
        DESCRIBE_CALL, "call.pv_bits = attributes.pv_bits;", "call.pv_bits = attributes.qk_bits;"
    ),
    "key and value swapped": Mutant(
        DESCRIBE_CALL, "call.value = inputs[kValue];", "call.value = inputs[kKey];"
    ),
    "lengths read as bins": Mutant(
        DESCRIBE_CALL, "integers(kMaskBin)", "integers(kKeyLength)"
    ),
    "type not passed on": Mutant(
        "tensors.cpp", "? PARO_FLOAT16 : PARO_BFLOAT16", "? PARO_FLOAT16 : PARO_FLOAT16"
    ),
    "empty batch refused": Mutant(
        "plugin.cpp",
        "// An empty batch needs no work, and its pointers may be null.\n"
        "  if (call.batch == 0) return PARO_OK;",
        "",
    ),
    "failure swallowed": Mutant(
        "plugin.cpp",
        'return status == PARO_OK ? status : refuse_as_kernels_did(status, "enqueue");',
        'if (status != PARO_OK) refuse_as_kernels_did(status, "enqueue");\n  return PARO_OK;',
    ),
    "failure unsaid": Mutant(
        "plugin.cpp", ': refuse_as_kernels_did(status, "enqueue");', ": status;"
    ),
    "wide bounds refused": Mutant("plugin.cpp", "if (unknown) inputs", "if (false) inputs"),
    "known batches overridden": Mutant("plugin.cpp", "if (unknown) inputs", "inputs"),
    "any tactic": Mutant("plugin.cpp", "if (tactic == 0)", "if (tactic >= 0)"),
    "types unchecked": Mutant("tensors.cpp", "if (actual == expected) continue;", "continue;"),
    "shapes unchecked": Mutant(
        DESCRIBE_CALL,
        "if (std::equal(expected.begin()",
        "if (true || std::equal(expected.begin()",
    ),
    "wrong stored type": Mutant(
        "attributes.cpp",
        "&(attributes.*known.value), PluginFieldType::kINT32",
        "&(attributes.*known.value), PluginFieldType::kFLOAT32",
    ),
    "wrong stored value": Mutant(
        "attributes.cpp", "&(attributes.*known.value),", "&attributes.block_q,"
    ),
    "stored field left out": Mutant(
        "attributes.cpp",
        "add(PluginField(known.name, &(", "if (known.has_default) add(PluginField(known.name, &(",
    ),
    "advertised field left out": Mutant(
        "attributes.cpp", "collection = {count, fields.data()}", "collection = {5, fields.data()}"
    ),
    "field types unchecked": Mutant("attributes.cpp", "field.type != type ||", ""),
    "field lengths unchecked": Mutant("attributes.cpp", "|| field.length != 1)", ")"),
    "required fields optional": Mutant("attributes.cpp", "if (known.has_default ||", "if (true ||"),
    "repeated fields taken": Mutant(
        "attributes.cpp",
        "if (holds({i, fields->fields}, fields->fields[i].name)) {",
        "if (false) {",
    ),
    "engines of other kernels taken": Mutant(
        "attributes.cpp", "if (stored == paro_library_name())", "if (stored != nullptr)"
    ),
    "control characters printed": Mutant(
        "log.cpp", "if (static_cast<unsigned char>(*byte) < ' ') *byte = '?';", ""
    ),
    "routing not passed on": Mutant(
        DESCRIBE_CALL, "call.routing = attributes.routing;", "", version=2
    ),
    "exact blocks read as fine": Mutant(
        DESCRIBE_CALL, "integers(kFineMask)", "integers(kBlockMask)", version=2
    ),
    "heads read as numbers of blocks": Mutant(
        DESCRIBE_CALL, "integers(kDynamicBlocks)", "integers(kCorrectedHeads)", version=2
    ),
    "new shapes unchecked": Mutant(
        DESCRIBE_CALL, "if (version == kVersion1) return PARO_OK;", "return PARO_OK;", version=2
    ),
    "smoothing not passed on": Mutant(
        DESCRIBE_CALL, "call.smoothing = attributes.smoothing;", "", version=2
    ),
    "no rotation": Mutant(
        DESCRIBE_CALL, "if (call.smoothing) call.rotation = integers(kRotation);",
        "static const int32_t none[1024] = {}; call.rotation = none;", version=2,
    ),
    "timing cache ID without routing": Mutant(
        "plugin.cpp", "mean_correction, attributes.routing", "mean_correction, 0", version=2
    ),
    "timing cache ID without smoothing": Mutant(
        "plugin.cpp", "attributes.routing,\n                attributes.smoothing",
        "attributes.routing, 0", version=2,
    ),
    "fields of version 2 in version 1": Mutant(
        "attributes.cpp", "name == known.name && known.first_version <= version",
        "name == known.name",
    ),
    "other name": Mutant("plugin.h", '"PAROAttention";', '"ParoAttention";'),
}  # fmt: skip


@pytest.fixture(scope="module")
def build() -> HostBuild:
    return host_build()


@dataclass(frozen=True)
class Content:
    """A case on disk, and its inputs."""

    case: OpCase
    folder: Path
    inputs: AttentionInputs


@pytest.fixture(scope="module")
def contents(tmp_path_factory: pytest.TempPathFactory) -> dict[int, Content]:
    """A case of each version of the op."""
    found = {}
    for version, case in CASES.items():
        inputs = random_inputs(case, seed=torch.seed() % 2**31)
        folder = write_case(tmp_path_factory.mktemp("case"), inputs, case.config)
        found[version] = Content(case, folder, inputs)
    return found


def link_with(build: HostBuild, mutant: Mutant, folder: Path) -> Path:
    """The build's library with one source replaced."""
    sources = folder / "plugins" / "tensorrt"
    sources.mkdir(parents=True)
    for path in SOURCES.iterdir():
        (sources / path.name).symlink_to(path)
    (folder / "plugins/include").symlink_to(PLUGINS / "include")
    (folder / "plugins/common").mkdir()
    for path in (PLUGINS / "common").iterdir():
        (folder / "plugins/common" / path.name).symlink_to(path)
    text = (SOURCES / mutant.file).read_text()
    assert text.count(mutant.old) == 1, "the mutant's text is not there, or not once"
    (sources / mutant.file).unlink()
    (sources / mutant.file).write_text(text.replace(mutant.old, mutant.new))
    changed = ["plugin", "creator"] if mutant.file.endswith(".h") else [Path(mutant.file).stem]
    kept = [
        path
        for part in ("cpu", "tensorrt")
        for path in (build.folder / part).rglob("*.cpp.o")
        if path.parent.name in ("paro_tensorrt_objects.dir", "isa", "common", "paro_cpu.dir")
        and not (part == "tensorrt" and path.name[:-6] in changed)
    ]
    library = folder / "libmutant.so"
    command = ["g++", "-std=c++20", "-O0", "-w", "-fPIC", "-shared", "-DPARO_TRT_ABI_SHIM"]
    command += [f"-I{PLUGINS / 'include'}", "-Wl,-Bsymbolic", "-o", str(library)]
    folder_of_changed = (sources / mutant.file).parent
    command += [str(folder_of_changed / f"{name}.cpp") for name in changed] + list(map(str, kept))
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return library


def survives(build: HostBuild, library: Path, content: Content) -> bool:
    """Whether the library passes all that the plugin must pass."""
    folder, inputs = content.folder, content.inputs
    output = folder / f"{library.parent.name}.bin"
    commands = [["life", library, folder, output], ["misuse", library, folder]]
    for command in commands:
        words = [str(word) for word in (build.program, *command)]
        if subprocess.run(words, capture_output=True, timeout=60).returncode != 0:
            return False
    actual = torch.from_file(str(output), size=inputs.query.numel(), dtype=inputs.query.dtype)
    return compare(actual.view(inputs.query.shape), inputs, content.case.config).ok


@pytest.mark.parametrize("version", CASES)
def test_the_plugin_itself_survives(
    build: HostBuild, contents: dict[int, Content], version: int, tmp_path: Path
) -> None:
    unchanged = Mutant("plugin.cpp", "outputs[0] = inputs[0];", "outputs[0] = inputs[0];")
    assert survives(build, link_with(build, unchanged, tmp_path), contents[version])


@pytest.mark.parametrize("name", MUTANTS, ids=str)
def test_every_mutant_is_caught(
    build: HostBuild, contents: dict[int, Content], name: str, tmp_path: Path
) -> None:
    mutant = MUTANTS[name]
    assert not survives(build, link_with(build, mutant, tmp_path), contents[mutant.version])
