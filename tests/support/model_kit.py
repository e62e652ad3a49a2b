"""What an adapter of a model family must pass; tests/families/test_families.py runs all of it.

Every check takes a tiny model of random weights and fails by assertion. Tolerances follow from the
floating-point type: an implementation may err twice as much as the stock model errs against
float64, plus one unit in the last place of the largest output.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from paro_trt.calibration import CalibrationSettings
from paro_trt.errors import ModelError, ParoError
from paro_trt.families.base import Geometry, Role
from paro_trt.families.shared.adapt import ReplacedFunctions
from paro_trt.families.shared.packed_images import REFERENCES
from paro_trt.models.apply import ParoTransformer
from paro_trt.models.conditioning import example_shapes
from paro_trt.models.load import LoadedModel
from paro_trt.onnx_export import Body, export_onnx
from paro_trt.plan import load_plan
from paro_trt.runtime.onnxruntime_session import OrtSession
from paro_trt.runtime.velocity import session_velocity

from .calibrations import calibrate_embeddings
from .recorded_calls import recorded_calls
from .stagewise import StagewiseComparison, assert_equal_sums
from .tiny import TinyModel


def check_sites(tiny: TinyModel) -> None:
    """Sites are modules of the model, named once each; geometry, latents and text agree."""
    model, family, config = tiny.build(), tiny.family, tiny.full_config
    family.check_config(config)
    names = [site.name for site in family.sites(config)]
    assert len(set(names)) == len(names)
    for name in names:
        model.get_submodule(name)
    for odd in (False, True):
        geometry = tiny.geometry(odd=odd)
        prompt = example_shapes(family.conditioning_spec(config, geometry))
        assert family.text_layout(config, prompt) == geometry.text


def check_text_limit(tiny: TinyModel) -> None:
    """Text that joins the sites and is longer than the model takes, or missing, is refused."""
    for name, (count, *channels) in tiny.prompt.items():
        longer = {**tiny.prompt, name: (count + (1 << 20), *channels)}
        without = {other: shape for other, shape in tiny.prompt.items() if other != name}
        for prompt in (longer, without):
            with pytest.raises(ModelError, match=name):
                tiny.family.text_layout(tiny.full_config, prompt)


def check_config_limits(tiny: TinyModel) -> None:
    """Every size of a hostile config is refused by name."""
    for key, largest in tiny.family.limits.items():
        for value in (0, -1, largest + 1, True, "2", None, 10**30):
            with pytest.raises(ModelError, match=key):
                tiny.family.check_config(tiny.full_config | {key: value})


def check_dense_plan_is_exact(
    tiny: TinyModel,
    seed: int,
    *,
    batch: int = 2,
    odd: bool = False,
    padded: bool = True,
    dtype: torch.dtype = torch.float32,
) -> None:
    """At density 1 and 16 bits the planned model is as exact as the stock model."""
    loaded = tiny.loaded(seed, dtype)
    latents, timestep, conditioning = tiny.inputs(batch, seed, odd=odd, padded=padded)
    inputs = (latents.to(dtype), timestep, conditioning)
    velocity = loaded.velocity(tiny.geometry(odd=odd))
    stock = velocity(*inputs)
    plan = tiny.plan(odd=odd, density=1.0, qk_bits=16, pv_bits=16, seed=seed)
    planned = ParoTransformer(loaded.model, loaded.family, plan)
    before = _attributes(loaded.model)
    actual = planned.velocity(*inputs)
    assert _attributes(loaded.model) == before, "the planned model left changes behind"
    assert torch.equal(velocity(*inputs), stock)
    exact = _in_float64(loaded, tiny, inputs, odd)
    assert_as_exact(actual, stock, exact, dtype)


def check_read_call(tiny: TinyModel, seed: int, *, odd: bool = False, padded: bool = True) -> None:
    """`read_call` undoes what `forward` makes of its inputs, and `call_output` its outputs."""
    loaded, geometry = tiny.loaded(seed), tiny.geometry(odd=odd)
    family, config = loaded.family, loaded.config
    latents, timestep, conditioning = tiny.inputs(3, seed, odd=odd, padded=padded)
    for entry in family.conditioning_spec(config, geometry):
        if entry.default == 0:
            # An image that may be given; families' own tests give it.
            conditioning[entry.name].zero_()
    inputs = conditioning | family.constants(config, geometry)
    with torch.no_grad(), recorded_calls(loaded.model) as calls:
        outputs = family.forward(loaded.model, geometry, latents, timestep, inputs)
        (call,) = calls
        read = family.read_call(config, call.arguments)
    assert read.geometry == geometry
    assert read.timestep.dtype is torch.float32
    torch.testing.assert_close(read.timestep, timestep, rtol=1e-6, atol=1e-4)
    torch.testing.assert_close(read.latents, latents, rtol=1e-6, atol=1e-6)
    for entry in family.conditioning_spec(config, geometry):
        if entry.name in read.inputs:
            assert torch.equal(read.inputs[entry.name], conditioning[entry.name]), entry.name
        else:
            assert entry.default is not None
    own = family.call_output(config, call.arguments, outputs)
    assert len(own) == len(call.output)
    for actual, expected in zip(own, call.output, strict=True):
        assert actual.shape == expected.shape
        if REFERENCES in conditioning and latents.ndim == 3:
            # Pipelines do not look at the tokens of reference images.
            actual, expected = (output[:, : latents.shape[1]] for output in (actual, expected))
        torch.testing.assert_close(actual, expected, rtol=1e-5, atol=1e-5)


def check_foreign_calls_are_refused(tiny: TinyModel, seed: int) -> None:
    """Arguments that the family does not read, missing and misshapen ones are refused by name."""
    loaded, geometry = tiny.loaded(seed), tiny.geometry()
    family, config = loaded.family, loaded.config
    latents, timestep, conditioning = tiny.inputs(2, seed)
    for entry in family.conditioning_spec(config, geometry):
        if entry.default == 0:
            # An image that may be given; families' own tests give it.
            conditioning[entry.name].zero_()
    inputs = conditioning | family.constants(config, geometry)
    with torch.no_grad(), recorded_calls(loaded.model) as calls:
        family.forward(loaded.model, geometry, latents, timestep, inputs)
    arguments = calls[0].arguments
    unused = {"attention_kwargs": {}, "skip_layers": None, "block_controlnet_hidden_states": []}
    family.read_call(config, arguments | unused | {"return_dict": True})
    text = arguments["encoder_hidden_states"]
    for name, value in (
        ("attention_kwargs", {"scale": 0.5}),
        ("block_controlnet_hidden_states", [latents]),
        ("skip_layers", [1]),
        ("an_argument_of_the_future", torch.ones(2)),
        ("hidden_states", None),
        ("hidden_states", arguments["hidden_states"][0]),
        ("encoder_hidden_states", None),
        ("encoder_hidden_states", text[..., :-1]),
        ("encoder_hidden_states", text[:, 0]),
        ("encoder_hidden_states", torch.cat([text, text, text])),
        ("timestep", None),
        ("timestep", timestep.repeat(3)),
        ("timestep", timestep[:, None] * torch.tensor([1.0, 0.5])),
    ):
        with pytest.raises(ParoError, match=name):
            family.read_call(config, arguments | {name: value})


def check_batch_is_separable(tiny: TinyModel, seed: int) -> None:
    """Samples of a batch do not see each other, whatever their text length and bin."""
    loaded = tiny.loaded(seed)
    plan = tiny.plan(density=0.5, bins=3, qk_bits=16, pv_bits=16, pool_dropped=True, seed=seed)
    planned = ParoTransformer(loaded.model, loaded.family, plan)
    latents, timestep, conditioning = tiny.inputs(3, seed)
    together = planned.velocity(latents, timestep, conditioning)
    for row in range(3):
        one = slice(row, row + 1)
        alone = planned.velocity(
            latents[one], timestep[one], {k: v[one] for k, v in conditioning.items()}
        )
        assert_equal_sums(f"sample {row} in a batch", together[one], alone)


def check_padding_is_ignored(tiny: TinyModel, seed: int) -> None:
    """The contents of the padding of padded text change nothing."""
    if not tiny.geometry().text.padded:
        return
    loaded = tiny.loaded(seed)
    plan = tiny.plan(density=0.6, qk_bits=8, pv_bits=8, seed=seed)
    planned = ParoTransformer(loaded.model, loaded.family, plan)
    latents, timestep, conditioning = tiny.inputs(2, seed)
    spec = loaded.family.conditioning_spec(loaded.config, tiny.geometry())
    masks = [entry for entry in spec if entry.role is Role.MASK]
    changed = dict(conditioning)
    for name, tensor in conditioning.items():
        for mask in masks:
            exists = conditioning[mask.name].bool()
            if tensor.ndim == 3 and tensor.shape[1] == exists.shape[1]:
                changed[name] = torch.where(exists[..., None], tensor, torch.randn_like(tensor))
    assert any(not torch.equal(changed[name], conditioning[name]) for name in changed)
    expected = planned.velocity(latents, timestep, conditioning)
    assert torch.equal(planned.velocity(latents, timestep, changed), expected)


def check_calibration(tiny: TinyModel, directory: Path, seed: int) -> None:
    """Calibration runs on the odd grid; a plan that keeps everything reproduces attention."""
    loaded = tiny.loaded(seed)
    settings = CalibrationSettings(
        density=1.0,
        qk_bits=16,
        pv_bits=16,
        block_q=64,
        captured_steps=1,
        candidate_orders=("fhw", "whf"),
        time_attention=False,
    )
    prompts, unseen = (tiny.prompts(2, seed + part, odd=True) for part in (0, 1))
    path = directory / "tiny.paro.safetensors"
    plan = calibrate_embeddings(
        loaded, prompts, tiny.odd_latent_size, settings, path, heldout=unseen
    )
    assert Geometry(plan.grid, plan.text) == tiny.geometry(odd=True)
    assert plan.calibration.measured["heldout_error"] < 1e-5
    assert max(h.predicted_error[0] for layer in plan.layers for h in layer.heads) < 1e-5
    ParoTransformer(loaded.model, loaded.family, load_plan(path))


def check_exported_file(
    tiny: TinyModel,
    directory: Path,
    seed: int,
    *,
    odd: bool = True,
    bits: int = 8,
    body: Body = Body.SPARSE,
) -> None:
    """The file in ONNX Runtime computes what PyTorch does, for batches 1 to 3."""
    loaded = tiny.loaded(seed)
    plan = tiny.plan(odd=odd, qk_bits=bits, pv_bits=bits, pool_dropped=True, seed=seed)
    path = directory / "tiny.onnx"
    report = export_onnx(loaded, plan, path, body=body)
    assert len(report.layers) == len(plan.layers)
    planned = ParoTransformer(loaded.model, loaded.family, plan)
    with StagewiseComparison(path, planned, directory / "exposed.onnx") as comparison:
        for batch in (1, 2, 3):
            comparison.check(*tiny.inputs(batch, seed + batch, odd=odd))


def check_exported_baseline(tiny: TinyModel, directory: Path, seed: int) -> None:
    """The dense file in ONNX Runtime computes what the stock model does, for batches 1 to 3."""
    loaded = tiny.loaded(seed)
    path = directory / "dense.onnx"
    report = export_onnx(loaded, tiny.plan(odd=True), path, dense_baseline=True)
    assert report.layers == ()
    stock = loaded.velocity(tiny.geometry(odd=True))
    with OrtSession(path, threads=1) as session:
        velocity = session_velocity(session)
        for batch in (1, 2, 3):
            inputs = tiny.inputs(batch, seed + batch, odd=True)
            assert_equal_sums("the output", velocity(*inputs), stock(*inputs))


def check_half_precision_file(tiny: TinyModel, directory: Path, seed: int) -> None:
    """A float16 file in ONNX Runtime is as exact as PyTorch; a bfloat16 file is valid ONNX."""
    plan = tiny.plan(qk_bits=16, pv_bits=16, density=1.0, seed=seed)
    path = directory / "half.onnx"
    export_onnx(tiny.loaded(seed, torch.bfloat16), plan, path)
    export_onnx(tiny.loaded(seed, torch.float16), plan, path)
    inputs = tiny.inputs(2, seed)
    expected, stock = (
        tiny.loaded(seed, dtype).velocity(tiny.geometry())(*inputs)
        for dtype in (torch.float32, torch.float16)
    )
    with OrtSession(path, threads=1) as session:
        actual = session_velocity(session)(*inputs)
    assert_overall_as_exact(actual, stock, expected)


def assert_overall_as_exact(actual: Tensor, faithful: Tensor, expected: Tensor) -> None:
    """`actual` is at most twice as far from `expected` as another run of its precision is.

    In the root of the mean square, where numbers that got another code by chance even out.
    """
    error, allowed = float((actual - expected).norm()), 2 * float((faithful - expected).norm())
    assert error <= allowed, f"error {error:.3e}, allowed {allowed:.3e}"


def assert_as_exact(actual: Tensor, stock: Tensor, exact: Tensor, dtype: torch.dtype) -> None:
    """`actual` errs at most twice as much as `stock`, element-wise maximum and overall."""
    band = torch.finfo(dtype).eps * float(exact.abs().max())
    for norm in (float("inf"), 2):
        error = float((actual.double() - exact).norm(norm))
        allowed = 2 * float((stock.double() - exact).norm(norm)) + band
        assert error <= allowed, f"norm {norm}: error {error:.3e}, allowed {allowed:.3e}"


def _attributes(model: torch.nn.Module) -> dict[tuple[str, str], int]:
    """Which object each attribute of each module is; hooks are tested with the interception."""
    return {
        (name, attribute): id(value)
        for name, module in model.named_modules()
        for attribute, value in vars(module).items()
    }


def _in_float64(
    loaded: LoadedModel,
    tiny: TinyModel,
    inputs: tuple[Tensor, Tensor, dict[str, Tensor]],
    odd: bool,
) -> Tensor:
    """The stock model in float64, from the weights and inputs that `loaded` sees."""
    latents, timestep, conditioning = inputs
    model = tiny.build().double()
    model.load_state_dict(loaded.model.state_dict())
    geometry = tiny.geometry(odd=odd)
    seen = {
        entry.name: conditioning[entry.name].to(entry.dtype or loaded.dtype)
        for entry in loaded.family.conditioning_spec(loaded.config, geometry)
    }
    wide = {
        name: tensor.double() if tensor.dtype is loaded.dtype else tensor
        for name, tensor in seen.items()
    }
    constants = loaded.family.constants(loaded.config, geometry)
    with torch.no_grad(), ReplacedFunctions({torch.linalg.vector_norm: _norm_in_own_type}):
        outputs = loaded.family.forward(
            model, geometry, latents.double(), timestep.double(), wide | constants
        )
    return outputs[0].double()


def _norm_in_own_type(tensor: Tensor, *arguments: Any, **options: Any) -> Tensor:
    """Cosmos takes one in float32, which torch refuses of float64."""
    options.pop("dtype", None)
    norm: Tensor = torch.linalg.vector_norm(tensor, *arguments, **options)
    return norm
