"""Weights of linear layers replaced in built engines, on stubs of TensorRT's refitter."""

from __future__ import annotations

import json
import shutil

import numpy as np
import onnx
import pytest
import torch
from safetensors.torch import load_file, save_file

from paro_trt.engine import BuildError, BuildSettings, EngineError, refit
from paro_trt.engine.build import build_engine
from paro_trt.engine.manifest_file import manifest_path, read_manifest
from paro_trt.errors import BackendUnavailableError, ModelError
from paro_trt.models.load import load_model
from paro_trt.models.lora import LoraFile
from paro_trt.onnx_export import Body, export_onnx
from paro_trt.onnx_file.read import read_onnx
from paro_trt.onnx_file.weights import named_weights
from paro_trt.runtime.engine import Engine
from paro_trt.runtime.onnxruntime_session import OrtSession
from paro_trt.runtime.refit import refit as refit_by_directory
from tests.support.tiny import variants_of
from tests.tensorrt.environments import rtx_probe

TINY = variants_of("wan")[0]
FILE = "diffusion_pytorch_model.safetensors"
LINEAR = "blocks.1.ffn.net.2.weight"
SQUARE = "blocks.0.attn1.to_q.weight"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Directories `first` and `tuned`, of other linear layers, and their exported files."""
    path = tmp_path_factory.mktemp("refit")
    TINY.build(4).save_pretrained(path / "first")
    shutil.copytree(path / "first", path / "tuned")
    linear = {
        f"{name}.{kind}"
        for name, layer in TINY.build(4).named_modules()
        for kind in ("weight", "bias")
        if isinstance(layer, torch.nn.Linear)
    }
    change(path / "tuned", lambda name, tensor: tensor * 1.1 + 0.01 if name in linear else tensor)
    loaded = load_model(path / "first", torch.float16, weights_in_files=True)
    export_onnx(loaded, TINY.plan(), path / "first.onnx", body=Body.DENSE)
    onnx.save(with_tuned_values(path), path / "tuned.onnx")
    return path


def with_tuned_values(path):
    """The file with the tuned model's weights, which are found by the values of the first's."""
    model = onnx.load(path / "first.onnx")
    first, tuned = (load_file(path / name / FILE) for name in ("first", "tuned"))
    changed = {name: tensor for name, tensor in first.items() if not tensor.equal(tuned[name])}
    for entry in model.graph.initializer:
        array = onnx.numpy_helper.to_array(entry)
        for name, tensor in changed.items():
            for turn in (lambda a: a, lambda a: a.T):
                old, new = (turn(of.numpy()).astype(array.dtype) for of in (tensor, tuned[name]))
                if np.array_equal(old, array):
                    entry.CopyFrom(
                        onnx.numpy_helper.from_array(np.ascontiguousarray(new), entry.name)
                    )
    return model


def change(directory, new):
    tensors = load_file(directory / FILE)
    save_file({name: new(name, tensor) for name, tensor in tensors.items()}, directory / FILE)


@pytest.fixture
def engine(newest, folder, tmp_path):  # noqa: ARG001
    path = tmp_path / "model.engine"
    build_engine(folder / "first.onnx", path, BuildSettings(refit=True))
    return path


def random_call(file, seed):
    rng = np.random.default_rng(seed)
    with OrtSession(file, threads=1) as session:
        specs = session.inputs
    sizes = {"B": 1, "L": 7}
    made = {}
    for spec in specs:
        shape = tuple(sizes.get(size, 7) if isinstance(size, str) else size for size in spec.shape)
        made[spec.name] = (100 * rng.normal(1, 0.2, shape) if spec.name == "timestep" else
                           rng.normal(0.2, 1, shape)).astype(spec.dtype)  # fmt: skip
    return made | {"mask_bin": np.zeros(1, np.int32)}


def output_of(engine_path, inputs):
    with Engine(engine_path) as engine:
        return engine.run(inputs)["sample"]


def test_a_tuned_model_s_weights(newest, engine, folder, tmp_path, fresh_seed):
    """As an engine of the tuned model's own file, which is exported by itself."""
    inputs, results = random_call(folder / "first.onnx", fresh_seed), {}
    for name in ("first", "tuned"):
        with OrtSession(folder / f"{name}.onnx", threads=1) as session:
            results[name] = session.run(inputs)["sample"]
    assert not np.allclose(results["first"], results["tuned"], atol=1e-2)
    np.testing.assert_array_equal(output_of(engine, inputs), results["first"])
    before, old = engine.read_bytes(), read_manifest(manifest_path(engine))
    report = refit_by_directory(engine, folder / "tuned", tmp_path / "tuned.engine")
    assert report.replaced == len(old.refit.weights) > 20
    np.testing.assert_array_equal(output_of(report.path, inputs), results["tuned"])
    assert engine.read_bytes() == before
    new = read_manifest(manifest_path(report.path))
    assert new.refit.made_from == "tuned"
    assert new.info.plan_hash == old.info.plan_hash
    assert new.key != old.key
    # In place, and back again.
    refit_by_directory(report.path, folder / "first")
    np.testing.assert_array_equal(output_of(report.path, inputs), results["first"])
    # A build does not take a refitted engine for its own.
    refit_by_directory(engine, folder / "tuned")
    assert not build_engine(folder / "first.onnx", engine, BuildSettings(refit=True)).reused
    assert newest.trt.refits == 3


def test_adapters_are_fused(newest, engine, folder, tmp_path, fresh_seed):  # noqa: ARG001
    inputs = random_call(folder / "first.onnx", fresh_seed)
    weights = load_file(folder / "first" / FILE)
    rows, columns = weights[LINEAR].shape
    first, second = torch.randn(4, columns), torch.randn(rows, 4)
    module = LINEAR.removesuffix(".weight")
    adapter = {
        f"transformer.{module}.lora_A.weight": first,
        f"transformer.{module}.lora_B.weight": second,
    }
    save_file(adapter, tmp_path / "style.safetensors")
    shutil.copytree(folder / "first", tmp_path / "fused")
    change(
        tmp_path / "fused",
        lambda name, tensor: tensor + 0.3 * second @ first if name == LINEAR else tensor,
    )
    by_hand = refit_by_directory(engine, tmp_path / "fused", tmp_path / "a.engine")
    lora = [LoraFile(tmp_path / "style.safetensors", 0.3)]
    fused = refit_by_directory(engine, folder / "first", tmp_path / "b.engine", lora=lora)
    assert fused.manifest.refit.made_from == "first + style.safetensors:0.3"
    outputs = [output_of(report.path, inputs) for report in (by_hand, fused)]
    np.testing.assert_allclose(*outputs, atol=2e-2, rtol=2e-2)
    assert not np.allclose(outputs[0], output_of(engine, inputs), atol=1e-1)


def test_weights_that_belong_together_come_together(newest, engine, folder, monkeypatch):
    newest.trt.coupled = {f"model.{LINEAR}", f"model.{SQUARE}", "model.proj_out.bias"}
    monkeypatch.setattr(refit, "GROUP_BYTES", 100_000)
    report = refit_by_directory(engine, folder / "tuned")
    assert 1 < newest.trt.refits < report.replaced


class Arrays:
    """Weights in memory, with what a test changes."""

    def __init__(self, folder, changes):
        tensors = load_file(folder / "first" / FILE)
        weights = named_weights(read_onnx(folder / "first.onnx"))
        kinds = {weight.name: weight.dtype for weight in weights}
        self.arrays = {
            name: tensor.numpy().astype(kinds[name])
            for name, tensor in tensors.items()
            if name in kinds
        } | changes

    @property
    def shapes(self):
        return {name: a.shape for name, a in self.arrays.items() if a is not None}

    def read(self, name):
        return self.arrays[name]


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({LINEAR: np.zeros((3, 5), np.float16)}, rf"{LINEAR}: expected shape \[.*got \[3, 5\]"),
        ({LINEAR: None}, rf"{LINEAR}: expected all of the model's weights, got 1 missing"),
    ],
)
def test_weights_that_do_not_fit(newest, engine, folder, changes, said):
    before = engine.read_bytes()
    with pytest.raises(EngineError, match=said):
        refit.refit_engine(engine, Arrays(folder, changes), engine, made_from="?")
    assert (engine.read_bytes(), newest.trt.refits) == (before, 0)


def test_a_type_that_is_not_the_engine_s(newest, engine, folder):
    weights = Arrays(folder, {})
    weights.arrays[LINEAR] = weights.arrays[LINEAR].astype(np.float32)
    with pytest.raises(EngineError, match=rf"{LINEAR}: expected \d+ values of HALF, .* float32"):
        refit.refit_engine(engine, weights, engine, made_from="?")
    assert newest.trt.refits == 0


def test_other_values_where_nothing_can_be_replaced(newest, engine, folder, tmp_path):
    manifest = read_manifest(manifest_path(engine))
    name = "scale_shift_table"
    assert name in manifest.refit.fixed
    shutil.copytree(folder / "first", tmp_path / "other")
    change(tmp_path / "other", lambda found, tensor: tensor + 1 if found == name else tensor)
    with pytest.raises(EngineError, match=rf"{name}: expected the values that the engine was"):
        refit_by_directory(engine, tmp_path / "other")
    assert newest.trt.refits == 0


def test_another_model_and_another_engine(newest, engine, folder, tmp_path):
    variants_of("wan")[1].build(1).save_pretrained(tmp_path / "other")
    with pytest.raises(ModelError, match="pass the model that was exported"):
        refit_by_directory(engine, tmp_path / "other")
    build_engine(folder / "first.onnx", tmp_path / "plain.engine")
    with pytest.raises(EngineError, match="fix: paro-trt build --refit"):
        refit_by_directory(tmp_path / "plain.engine", folder / "tuned")
    document = json.loads(manifest_path(engine).read_text())
    one = document["refit"]["weights"][3]
    one["name"] = "another.weight"
    manifest_path(engine).write_text(json.dumps(document))
    source = Arrays(folder, {"another.weight": np.zeros(one["shape"], one["dtype"])})
    with pytest.raises(EngineError, match=r"another\.weight: expected one of the \d+ weights"):
        refit.refit_engine(engine, source, engine, made_from="?")
    assert newest.trt.refits == 0


def test_a_refusal_of_tensorrt_leaves_the_engine(newest, engine, folder, monkeypatch):
    before = engine.read_bytes()
    from .stub_refit import Refitter

    monkeypatch.setattr(Refitter, "refit_cuda_engine", lambda _self: False)
    with pytest.raises(EngineError, match="the file was not changed"):
        refit_by_directory(engine, folder / "tuned")
    assert engine.read_bytes() == before
    assert newest.trt.refits == 0


def test_a_weight_that_tensorrt_cannot_mark(newest, folder, tmp_path, monkeypatch):  # noqa: ARG001
    from .stub_tensorrt import INetworkDefinition

    monkeypatch.setattr(INetworkDefinition, "mark_weights_refittable", lambda *_: False)
    with pytest.raises(BuildError, match=r"model\..*: expected a weight that TensorRT 11\.4"):
        build_engine(folder / "first.onnx", tmp_path / "a.engine", BuildSettings(refit=True))
    assert not list(tmp_path.glob("a.engine*"))


@pytest.mark.parametrize("machine", ["10.0.1"], indirect=True)
def test_a_release_that_marks_no_single_weights(machine, folder, tmp_path):  # noqa: ARG001
    with pytest.raises(BackendUnavailableError, match="REFIT_INDIVIDUAL"):
        build_engine(folder / "first.onnx", tmp_path / "a.engine", BuildSettings(refit=True))


def test_what_of_a_file_is_a_linear_layer_s(folder):
    weights = {weight.name: weight for weight in named_weights(read_onnx(folder / "first.onnx"))}
    model = TINY.build(4)
    layers = {n for n, layer in model.named_modules() if isinstance(layer, torch.nn.Linear)}
    found = {name.rpartition(".")[0] for name, weight in weights.items() if weight.linear}
    assert found == layers
    assert LINEAR.rpartition(".")[0] in layers
    for name, parameter in model.named_parameters():
        if name in weights:
            assert weights[name].shape == tuple(parameter.shape), name


def test_a_real_parser_knows_every_weight_by_its_name(family_file, plugin_folder):
    """TensorRT for RTX builds no engine to refit without a GPU, but parses and marks weights."""
    library = plugin_folder / "libparo_attention.so"
    done = rtx_probe("rtx_refittable.py", library, family_file("wan"))
    assert done.returncode == 0, done.stderr
    marked = json.loads(done.stdout.splitlines()[-1])
    assert len(marked) > 20
    assert all(marked.values()), marked
