"""A model with a plan: equal to the stock model when the plan is dense, exportable, and choosy."""

from dataclasses import replace

import msgspec
import numpy as np
import pytest
import torch

from paro_trt.errors import ArgumentError, BackendUnavailableError, ModelError
from paro_trt.families.base import Geometry
from paro_trt.families.wan import WanFamily
from paro_trt.models.apply import ParoTransformer, PlannedAttention
from paro_trt.op.api import Implementation, attention_op, paro_attention
from paro_trt.op.mask import tile_order
from paro_trt.plan import Grid, TextLayout, TextPosition, mask_bins, model_identity
from tests.support.plans import small_plan
from tests.support.tiny_wan import tiny_wan, tiny_wan_inputs

FAMILY = WanFamily()
GEOMETRY = Geometry(Grid(2, 8, 8))


@pytest.fixture(scope="module")
def model():
    return tiny_wan(seed=11)


@pytest.fixture(scope="module")
def identity(model):
    return model_identity("WanTransformer3DModel", model.config)


def dense_plan(identity, **arguments):
    return small_plan(model=identity, density=1.0, qk_bits=16, pv_bits=16, **arguments)


def exact_sample(model, latents, timestep, conditioning):
    """The stock model in float64."""
    double = tiny_wan().double()
    double.load_state_dict(model.state_dict())
    wide = {name: tensor.double() for name, tensor in conditioning.items()}
    return FAMILY.forward(double, GEOMETRY, latents.double(), timestep.double(), wide)[0]


def cast(inputs, dtype):
    latents, timestep, conditioning = inputs
    narrow = {name: tensor.to(dtype) for name, tensor in conditioning.items()}
    return latents.to(dtype), timestep, narrow


@pytest.mark.parametrize("batch", [1, 2, 3])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_dense_plan_is_as_exact_as_the_stock_model(identity, batch, dtype):
    model = tiny_wan(seed=11).to(dtype)
    latents, timestep, conditioning = cast(tiny_wan_inputs(batch, seed=batch), dtype)
    exact = exact_sample(model, latents, timestep, conditioning)
    stock = FAMILY.forward(model, GEOMETRY, latents, timestep, conditioning)[0]
    paro = ParoTransformer(model, FAMILY, dense_plan(identity))
    mask_bin = torch.arange(batch, dtype=torch.int32) % 2
    actual = paro(latents, timestep, *conditioning.values(), mask_bin)[0]
    assert actual.dtype is dtype
    band = torch.finfo(dtype).eps * float(exact.abs().max())
    for norm in (float("inf"), 2):
        error = float((actual.double() - exact).norm(norm))
        assert error <= 2 * float((stock.double() - exact).norm(norm)) + band


def test_sparse_plan_changes_the_output_a_little(model, identity):
    latents, timestep, conditioning = tiny_wan_inputs(2)
    stock = FAMILY.forward(model, GEOMETRY, latents, timestep, conditioning)[0]
    paro = ParoTransformer(model, FAMILY, small_plan(model=identity, density=0.3))
    actual = paro.velocity(latents, timestep, conditioning)
    assert 1e-4 < float((actual - stock).norm() / stock.norm()) < 0.5


def test_each_sample_uses_its_own_bin(model, identity):
    plan = small_plan(model=identity, bins=3, density=0.4, qk_bits=16, pv_bits=16)
    paro = ParoTransformer(model, FAMILY, plan)
    latents, timestep, conditioning = tiny_wan_inputs(3)
    (text,) = conditioning.values()
    mask_bin = torch.tensor([2, 0, 1], dtype=torch.int32)
    together = paro(latents, timestep, text, mask_bin)[0]
    for i in range(3):
        one = slice(i, i + 1)
        alone = paro(latents[one], timestep[one], text[one], mask_bin[one])[0]
        torch.testing.assert_close(together[one], alone, atol=1e-5, rtol=1e-5)
    swapped = paro(latents, timestep, text, mask_bin.flip(0))[0]
    assert not torch.allclose(together[0], swapped[0], atol=1e-4)
    torch.testing.assert_close(together[1], swapped[1], atol=1e-5, rtol=1e-5)


def test_velocity_takes_the_bin_from_each_timestep(model, identity):
    paro = ParoTransformer(model, FAMILY, small_plan(model=identity, bins=2, density=0.2))
    latents, timestep, conditioning = tiny_wan_inputs(2)
    (text,) = conditioning.values()
    expected = paro(latents, timestep, text, torch.tensor([0, 1], dtype=torch.int32))[0]
    assert torch.equal(paro.velocity(latents, timestep, conditioning), expected)


def test_mask_bins_agree_with_the_plan():
    plan = small_plan(bins=4)
    edges = [b + d for b in plan.bin_boundaries for d in (-1e-6, 0.0, 1e-6)]
    timesteps = [0.0, 1000.0, *edges, *np.random.default_rng().uniform(0, 1000, 50)]
    bins = mask_bins(timesteps, plan.bin_boundaries)
    assert bins.dtype == np.int32
    assert bins.tolist() == [plan.bin_of(float(t)) for t in timesteps]
    assert mask_bins([3.0, 900.0], ()).tolist() == [0, 0]


@pytest.mark.parametrize("timestep", [-1.0, 1002.0, float("nan"), float("inf")])
def test_mask_bins_refuse_what_the_plan_refuses(timestep):
    plan = small_plan(bins=2)
    with pytest.raises(ArgumentError, match="timestep"):
        plan.bin_of(timestep)
    with pytest.raises(ArgumentError, match="timestep"):
        mask_bins([500.0, timestep], plan.bin_boundaries)


def test_plan_tensors_are_buffers_and_the_orders_are_shared(model, identity):
    paro = ParoTransformer(model, FAMILY, small_plan(model=identity))
    names = [name for name, _ in paro.named_buffers() if not name.startswith("model.")]
    per_layer = ["head_order", "block_mask", "tile_order", "channel_affine"]
    expected = ["token_order"] + [f"layers.{i}.{name}" for i in range(2) for name in per_layer]
    assert names == expected
    assert paro.layers[0].channel_affine.dtype is torch.float32


def test_export_keeps_the_op_whole_with_a_dynamic_batch(model, identity):
    paro = ParoTransformer(model, FAMILY, dense_plan(identity))
    latents, timestep, conditioning = tiny_wan_inputs(2)
    arguments = (latents, timestep, *conditioning.values(), torch.zeros(2, dtype=torch.int32))
    batch = torch.export.Dim("batch", min=1, max=8)
    with torch.no_grad():
        program = torch.export.export(
            paro, arguments, strict=False, dynamic_shapes=(*[{0: batch}] * 2, ({0: batch},) * 2)
        )
    targets = [str(node.target) for node in program.graph.nodes if node.op == "call_function"]
    assert targets.count("paro.attention.default") == 2
    assert sum("scaled_dot_product_attention" in target for target in targets) == 2  # cross
    latents, timestep, conditioning = tiny_wan_inputs(3, seed=9)
    arguments = (latents, timestep, *conditioning.values(), torch.zeros(3, dtype=torch.int32))
    torch.testing.assert_close(program.module()(*arguments), paro(*arguments))


def test_impl_passes_through(model, identity):
    with pytest.raises(ArgumentError, match="impl"):
        ParoTransformer(model, FAMILY, small_plan(model=identity), impl="fastest")
    unbuilt = ParoTransformer(model, FAMILY, small_plan(model=identity), impl="cuda")
    with pytest.raises(BackendUnavailableError, match="impl='cuda'"):
        unbuilt.velocity(*tiny_wan_inputs(1))


def test_refuses_a_plan_of_another_model(model, identity):
    with pytest.raises(ModelError, match="the plan's model"):
        ParoTransformer(model, FAMILY, small_plan())
    other = msgspec.structs.replace(identity, class_name="OtherTransformer3DModel")
    with pytest.raises(ModelError, match="OtherTransformer3DModel"):
        ParoTransformer(model, FAMILY, small_plan(model=other))


@pytest.mark.parametrize(
    ("arguments", "subject"),
    [
        ({"layers": 1}, "layers"),
        ({"layers": 3}, "layers"),
        ({"layer_names": ("blocks.0.attn1", "blocks.0.attn2")}, "layers"),
        ({"heads": 3}, "heads"),
        ({"kv_heads": 1}, "heads"),
        ({"head_dim": 32}, "head_dim"),
        ({"text": TextLayout(8, TextPosition.FIRST)}, "text layout"),
    ],
)
def test_refuses_a_plan_that_does_not_fit(model, identity, arguments, subject):
    with pytest.raises(ModelError, match=subject):
        ParoTransformer(model, FAMILY, small_plan(model=identity, **arguments))


def test_refuses_latents_of_another_grid_and_missing_inputs(model, identity):
    paro = ParoTransformer(model, FAMILY, small_plan(model=identity))
    latents, timestep, conditioning = tiny_wan_inputs(1)
    mask_bin = torch.zeros(1, dtype=torch.int32)
    with pytest.raises(ModelError, match=r"latents: expected \[B, 4, 2, 16, 16\].*one resolution"):
        paro(latents[..., :8], timestep, *conditioning.values(), mask_bin)
    with pytest.raises(ModelError, match="encoder_hidden_states, mask_bin"):
        paro(latents, timestep, mask_bin)


VERSION_2 = {
    "pool_dropped": True, "fine": 0.5, "corrected": (1,), "dynamic": 1, "density": 0.3,
    "qk_bits": 4, "rotated": (1,),
}  # fmt: skip
NEW_TENSORS = ("fine_mask", "corrected_heads", "dynamic_blocks", "rotation")


@pytest.mark.parametrize("grad", [False, True])
def test_a_layer_of_version_2_calls_the_op_with_all_it_has(grad):
    plan = small_plan(heads=4, kv_heads=2, pv_bits=16, **VERSION_2)
    layer = plan.layers[0]
    module = PlannedAttention(layer, plan, Implementation.REFERENCE)
    generator = torch.Generator().manual_seed(0)
    query, key, value = (
        torch.randn(2, plan.tokens, heads, 64, generator=generator) for heads in (4, 2, 2)
    )
    order, mask_bin = torch.from_numpy(plan.orders.copy()), torch.tensor([1, 0], dtype=torch.int32)
    length = torch.full((2,), plan.tokens, dtype=torch.int32)
    with torch.set_grad_enabled(grad):
        found = module(query, key, value, order, mask_bin, length, 0.125)
    expected = paro_attention(
        query, key, value, order, *(torch.from_numpy(getattr(layer, name).copy()) for name in
        ("head_order", "block_mask")), torch.from_numpy(tile_order(layer.block_mask)),
        torch.from_numpy(layer.channel_affine.copy()), mask_bin, length,
        *(torch.from_numpy(getattr(layer, name).copy()) for name in NEW_TENSORS),
        scale=0.125, block_q=64, block_k=64, qk_bits=4, pv_bits=16, pool_dropped=True,
    )  # fmt: skip
    assert torch.equal(found, expected)


@pytest.mark.parametrize("feature", ["fine", "corrected", "dynamic", "rotated"])
def test_every_feature_of_version_2_changes_the_output(model, identity, feature):
    def velocity(**arguments):
        plan = small_plan(model=identity, pool_dropped=True, density=0.3, qk_bits=4, **arguments)
        return ParoTransformer(model, FAMILY, plan).velocity(*tiny_wan_inputs(1))

    change = velocity(**{feature: VERSION_2[feature]}) - velocity()
    assert float(change.norm()) > 1e-4


def test_only_what_a_layer_uses_is_a_buffer(model, identity):
    whole = small_plan(model=identity, **VERSION_2)
    plain = replace(whole.layers[0], fine_mask=None, corrected_heads=None, rotation=None)
    paro = ParoTransformer(model, FAMILY, replace(whole, layers=(plain, whole.layers[1])))
    for layer, used in zip(paro.layers, (NEW_TENSORS[2:3], NEW_TENSORS), strict=True):
        names = [name for name, _ in layer.named_buffers()]
        assert names == ["head_order", "block_mask", "tile_order", "channel_affine", *used]


def test_export_keeps_the_tensors_of_version_2(model, identity):
    paro = ParoTransformer(model, FAMILY, small_plan(model=identity, **VERSION_2))
    latents, timestep, conditioning = tiny_wan_inputs(1)
    arguments = (latents, timestep, *conditioning.values(), torch.zeros(1, dtype=torch.int32))
    with torch.no_grad():
        exported = torch.export.export(paro, arguments)
        expected = paro(*arguments)[0]
    calls = [node for node in exported.graph.nodes if node.target is attention_op]
    assert len(calls) == len(paro.layers)
    buffers = exported.graph_signature.inputs_to_buffers
    for index, call in enumerate(calls):
        names = [buffers.get(argument.name) for argument in call.args[10:14]]
        assert names == [f"layers.{index}.{name}" for name in NEW_TENSORS]
    torch.testing.assert_close(exported.module()(*arguments)[0], expected)
