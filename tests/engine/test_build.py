"""Builds driven through stubs that have the names of real TensorRT releases and no others."""

from __future__ import annotations

import json
import signal

import onnx
import pytest

from paro_trt.engine import BuildError, BuildSettings, EngineError, Flavour, SizeRange, cuda
from paro_trt.engine.build import adopt_engine, build_engine
from paro_trt.engine.cache import EngineCache
from paro_trt.engine.manifest_file import manifest_path, read_manifest
from paro_trt.errors import ArgumentError, BackendUnavailableError, OnnxFileError
from paro_trt.library_files import ABI_VERSION
from paro_trt.runtime.engine import Engine

from .conftest import with_attention
from .stub_cuda import NO_DEVICE
from .stub_tensorrt import press_ctrl_c

TEXT = {"B": SizeRange(1, 2, 4), "text_tokens": SizeRange(1, 8, 32)}


class Watcher:
    """Collects what a build reports, and presses Ctrl-C at its first step."""

    def __init__(self, interrupt: bool = False) -> None:
        self.seen: list[object] = []
        self.interrupt = interrupt

    def phase_started(self, phase, parent, steps):
        self.seen.append((phase, parent, steps))

    def step_done(self, phase, step):
        self.seen.append((phase, step))
        if self.interrupt and len([entry for entry in self.seen if len(entry) == 2]) == 1:
            press_ctrl_c()
        return True

    def phase_finished(self, phase):
        self.seen.append((phase,))


def test_build_on_every_release(machine, half_onnx, tmp_path):
    path, watcher = tmp_path / "model.engine", Watcher()
    settings = BuildSettings(
        sizes=TEXT, builder_level=2, workspace=1 << 30, shared_memory=1 << 15, max_aux_streams=0,
        weight_streaming=True, profiling=True,
    )  # fmt: skip
    report = build_engine(half_onnx, path, settings, progress=watcher)
    config = machine.trt.config
    assert (config.builder_optimization_level, config.max_aux_streams) == (2, 0)
    assert machine.trt.pools == {"WORKSPACE": 1 << 30, "TACTIC_SHARED_MEMORY": 1 << 15}
    assert machine.trt.flags == ["WEIGHT_STREAMING"]
    assert config.profiling_verbosity.name == "DETAILED"
    assert machine.trt.profile_shapes["encoder_hidden_states"] == (
        (1, 1, 16), (2, 8, 16), (4, 32, 16),
    )  # fmt: skip
    assert ("Timing", "Building", 2) in watcher.seen
    assert ("Building", 2) in watcher.seen
    assert machine.trt.libraries == [str(machine.plugin)]
    assert not onnx.load_from_string(machine.trt.parsed).functions
    manifest = read_manifest(manifest_path(path))
    assert manifest == report.manifest
    assert (manifest.gpu.sm, manifest.gpu.name, manifest.tensorrt.cuda) == (
        89,
        "Stub GPU",
        cuda.bindings_version(),
    )
    assert (manifest.tensorrt.version, manifest.onnx.attention) == (machine.trt.version, 1)
    assert manifest.plugin.abi == ABI_VERSION
    assert manifest.plugin.name.startswith("paro-cpu")


def test_a_second_build_reuses_the_engine_until_something_changes(newest, half_onnx, tmp_path):
    path, settings = tmp_path / "model.engine", BuildSettings(sizes=TEXT)
    assert not build_engine(half_onnx, path, settings).reused
    assert build_engine(half_onnx, path, settings).reused
    assert not build_engine(half_onnx, path, BuildSettings(sizes=TEXT, builder_level=1)).reused
    assert build_engine(half_onnx, path, BuildSettings(sizes=TEXT, builder_level=1)).reused
    with cuda.on_gpu(2):
        assert not build_engine(half_onnx, path, BuildSettings(sizes=TEXT, builder_level=1)).reused
        assert read_manifest(manifest_path(path)).gpu.sm == 90
    assert not build_engine(half_onnx, path, BuildSettings(sizes=TEXT, builder_level=1)).reused
    with newest.plugin.open("ab") as file:
        file.write(b"another build of the plugin")
    assert not build_engine(half_onnx, path, BuildSettings(sizes=TEXT, builder_level=1)).reused
    content = path.read_bytes()
    path.write_bytes(content[:-1] + b"?")
    assert not build_engine(half_onnx, path, BuildSettings(sizes=TEXT, builder_level=1)).reused
    assert path.read_bytes() == content


@pytest.mark.usefixtures("newest")
def test_cache_of_engines(half_onnx, tmp_path):
    cache, settings = EngineCache(tmp_path / "cache"), BuildSettings(sizes=TEXT)
    first = build_engine(half_onnx, tmp_path / "a.engine", settings, cache=cache)
    second = build_engine(half_onnx, tmp_path / "b.engine", settings, cache=cache)
    assert (first.reused, second.reused) == (False, True)
    assert second.manifest == first.manifest
    assert second.path.read_bytes() == first.path.read_bytes()
    other = BuildSettings(sizes={"B": SizeRange(1, 1, 1)})
    assert not build_engine(half_onnx, tmp_path / "c.engine", other, cache=cache).reused


@pytest.mark.usefixtures("newest")
def test_an_engine_damaged_in_the_cache_is_built_again(half_onnx, tmp_path):
    """Also if the other file shares its disk blocks."""
    cache, settings = EngineCache(tmp_path / "cache"), BuildSettings(sizes=TEXT)
    path = build_engine(half_onnx, tmp_path / "a.engine", settings, cache=cache).path
    content = path.read_bytes()
    path.write_bytes(content[:-1] + b"?")
    again = build_engine(half_onnx, path, settings, cache=cache)
    assert not again.reused
    assert path.read_bytes() == content
    assert build_engine(half_onnx, tmp_path / "b.engine", settings, cache=cache).reused


def test_timing_cache_is_written_and_one_of_another_release_left_aside(
    machine, half_onnx, tmp_path
):
    timing = tmp_path / "timing.cache"
    timing.write_bytes(b"cache of 9.9.9")
    build_engine(half_onnx, tmp_path / "a.engine", timing_cache=timing)
    assert machine.trt.cache_content == b""
    assert timing.read_bytes() == b"cache of " + machine.trt.version.encode()
    settings = BuildSettings(builder_level=1)
    build_engine(half_onnx, tmp_path / "a.engine", settings, timing_cache=timing)
    assert machine.trt.cache_content == timing.read_bytes()


@pytest.mark.parametrize("thread", [False, True], ids=["the waiting thread", "another thread"])
def test_interrupt_ends_the_build_and_leaves_nothing(newest, half_onnx, tmp_path, thread):
    """Also where the main thread waits in TensorRT, and another one reports the steps."""
    newest.trt.report_from_thread = thread
    handler = signal.getsignal(signal.SIGINT)  # ignored where the tests run in the background
    watcher = Watcher(interrupt=True)
    with pytest.raises(KeyboardInterrupt):
        build_engine(half_onnx, tmp_path / "a.engine", progress=watcher)
    assert [entry for entry in watcher.seen if len(entry) == 2] == [("Timing", 0)]
    assert not list(tmp_path.glob("a.engine*"))
    assert signal.getsignal(signal.SIGINT) is handler
    assert signal.set_wakeup_fd(-1) == -1


def test_interrupt_of_a_build_that_no_one_watches(newest, half_onnx, tmp_path):
    newest.trt.report_from_thread = newest.trt.interrupt = True
    with pytest.raises(KeyboardInterrupt):
        build_engine(half_onnx, tmp_path / "a.engine")
    assert newest.trt.steps == 1
    assert not list(tmp_path.glob("a.engine*"))


def test_a_tensorrt_that_does_not_start(newest, half_onnx, tmp_path):
    path = tmp_path / "a.engine"
    build_engine(half_onnx, path)
    newest.trt.refuse_start = "CUDA initialization failure with error: 35"
    with pytest.raises(BackendUnavailableError, match=r"11\.4.*failure with error: 35"):
        build_engine(half_onnx, tmp_path / "b.engine")
    with pytest.raises(BackendUnavailableError, match=r"11\.4.*failure with error: 35"):
        Engine(path)
    assert not (tmp_path / "b.engine").exists()


def test_a_failing_build_says_why_and_leaves_the_old_engine(newest, half_onnx, tmp_path):
    path = tmp_path / "a.engine"
    build_engine(half_onnx, path)
    before = path.read_bytes()
    newest.trt.refuse_build = "[optimizer.cpp] Error Code 10: no implementation for node X"
    with pytest.raises(BuildError, match="no implementation for node X"):
        build_engine(half_onnx, path, BuildSettings(builder_level=5))
    assert path.read_bytes() == before
    assert manifest_path(path).is_file()


def test_function_instead_of_plugin_is_refused(newest, half_onnx, tmp_path, monkeypatch):
    newest.trt.function_first = True
    with pytest.raises(BuildError, match=r"blocks\.0\.attn1/PAROAttention.*Plugin not found"):
        build_engine(half_onnx, tmp_path / "a.engine")
    from paro_trt.engine import network

    monkeypatch.setattr(network, "for_plugin", lambda source, _: source.proto.SerializeToString())
    with pytest.raises(BuildError, match="1 layers computed by the plugin, got 0"):
        build_engine(half_onnx, tmp_path / "a.engine")


def test_adopted_engine_of_trtexec(newest, half_onnx, tmp_path):
    path = tmp_path / "a.engine"
    made = build_engine(half_onnx, path).manifest
    manifest_path(path).unlink()
    assert adopt_engine(half_onnx, path).manifest == made
    assert read_manifest(manifest_path(path)) == made
    newest.trt.refuse_load = "The engine plan file is not compatible with this version"
    with pytest.raises(EngineError, match="not compatible with this version"):
        adopt_engine(half_onnx, path)
    path.write_bytes(b"")
    with pytest.raises(EngineError, match="an empty file"):
        adopt_engine(half_onnx, path)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda m: m.graph.node[-5].attribute.__delitem__(1), "expected attribute block_q"),
        (lambda m: _attribute(m, "block_k", 64 + (1 << 32)), "a 32-bit integer"),
        (lambda m: _attribute(m, "heads", 2), "would drop"),
        (lambda m: m.graph.node.pop(-5), "expected paro::PAROAttention nodes, got none"),
        (lambda m: m.metadata_props.pop(), "metadata"),
    ],
)
def test_bad_onnx_is_refused_before_anything_is_loaded(newest, tmp_path, change, said):
    model = with_attention()
    attention = [node.op_type for node in model.graph.node].index("PAROAttention")
    assert attention == len(model.graph.node) - 5
    change(model)
    onnx.save(model, tmp_path / "bad.onnx")
    with pytest.raises(OnnxFileError, match=said):
        build_engine(tmp_path / "bad.onnx", tmp_path / "a.engine")
    assert not newest.cuda.calls
    assert not newest.trt.libraries
    assert not list(tmp_path.glob("*.engine*"))


def _attribute(model, name, value):
    node = model.graph.node[-5]
    kept = [entry for entry in node.attribute if entry.name != name]
    del node.attribute[:]
    node.attribute.extend([*kept, onnx.helper.make_attribute(name, value)])


@pytest.mark.usefixtures("newest")
def test_nested_attention_is_refused(tmp_path):
    model = with_attention()
    attention = model.graph.node[-5]
    function = onnx.helper.make_function(
        "other", "Wrapped", list(attention.input), list(attention.output), [attention],
        [onnx.helper.make_opsetid("", 18), onnx.helper.make_opsetid("paro", 1)],
    )  # fmt: skip
    model.functions.append(function)
    onnx.save(model, tmp_path / "nested.onnx")
    with pytest.raises(OnnxFileError, match="1 inside local functions"):
        build_engine(tmp_path / "nested.onnx", tmp_path / "a.engine")


@pytest.mark.usefixtures("newest")
def test_float32_is_refused_for_the_plugin(tmp_path):
    onnx.save(with_attention(onnx.TensorProto.FLOAT), tmp_path / "wide.onnx")
    with pytest.raises(OnnxFileError, match="--dtype bfloat16 or float16"):
        build_engine(tmp_path / "wide.onnx", tmp_path / "a.engine")


def test_two_plugins_of_one_name(newest, half_onnx, tmp_path):
    newest.trt.add_creator("1")
    with pytest.raises(EngineError, match="another library's, registered before"):
        build_engine(half_onnx, tmp_path / "a.engine")
    newest.trt.creators.clear()
    newest.trt.add_creator("3")
    with pytest.raises(EngineError, match=r"version 3, PAROAttention version 1, .* version 2"):
        build_engine(half_onnx, tmp_path / "a.engine")


def test_a_plugin_loaded_before_by_dlopen_is_not_loaded_again(newest, half_onnx, tmp_path):
    newest.trt.registry.load_library(str(newest.plugin))
    build_engine(half_onnx, tmp_path / "a.engine")
    assert newest.trt.libraries == [str(newest.plugin)]


def test_a_plugin_without_the_ops_fields(newest, half_onnx, tmp_path):
    newest.trt.plugin_fields = ("scale", "block_q")
    with pytest.raises(EngineError, match=r"pool_dropped.*got block_q, scale"):
        build_engine(half_onnx, tmp_path / "a.engine")


def test_missing_plugin(newest, half_onnx, tmp_path):
    newest.plugin.unlink()
    with pytest.raises(BackendUnavailableError, match=r"libparo_attention\.so.*PARO_LIBRARY_DIR"):
        build_engine(half_onnx, tmp_path / "a.engine")
    newest.plugin.write_bytes(b"no library")
    with pytest.raises(BackendUnavailableError, match="build it again"):
        build_engine(half_onnx, tmp_path / "a.engine")


def test_missing_gpu_and_missing_tensorrt(newest, half_onnx, tmp_path, monkeypatch):
    newest.cuda.fail(NO_DEVICE)
    with pytest.raises(BackendUnavailableError, match="CUDA_ERROR_NO_DEVICE"):
        build_engine(half_onnx, tmp_path / "a.engine")
    import sys

    monkeypatch.setitem(sys.modules, "tensorrt", None)
    with pytest.raises(BackendUnavailableError, match="pip install tensorrt"):
        build_engine(half_onnx, tmp_path / "a.engine")


@pytest.mark.parametrize("version", ["8.6.1", "12.0.0", ""])
def test_unknown_major(newest, half_onnx, tmp_path, version):
    newest.trt.names.__version__ = version
    with pytest.raises(BackendUnavailableError, match="TensorRT"):
        build_engine(half_onnx, tmp_path / "a.engine")


def test_settings_out_of_range():
    with pytest.raises(ArgumentError, match="1 <= min <= opt <= max"):
        SizeRange(2, 1, 4)
    with pytest.raises(ArgumentError, match="builder_level"):
        BuildSettings(builder_level=6)
    with pytest.raises(ArgumentError, match="workspace"):
        BuildSettings(workspace=0)
    with pytest.raises(ArgumentError, match="pass --sm"):
        BuildSettings(flavour=Flavour.TENSORRT_RTX)
    with pytest.raises(ArgumentError, match="GPU in this machine"):
        BuildSettings(target=89)


@pytest.mark.usefixtures("newest")
def test_a_size_no_input_has(half_onnx, tmp_path):
    settings = BuildSettings(sizes={"K": SizeRange(1, 1, 1)})
    with pytest.raises(ArgumentError, match=r"size K.*B, text_tokens"):
        build_engine(half_onnx, tmp_path / "a.engine", settings)


@pytest.mark.usefixtures("newest")
def test_manifest_is_one_json_document_of_known_values(half_onnx, tmp_path):
    path = tmp_path / "a.engine"
    build_engine(half_onnx, path)
    document = json.loads(manifest_path(path).read_text())
    assert document["paro_engine"] == 1
    assert set(document) == {
        "paro_engine", "made_by", "key", "engine", "tensorrt", "gpu", "onnx", "plugin",
        "inputs", "outputs", "memory", "profiles", "refit",
    }  # fmt: skip
