"""Plans in memory and on disk: round trips, derived figures, immutability."""

from __future__ import annotations

import dataclasses
import hashlib
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
import safetensors

from paro_trt.errors import ArgumentError, PlanError
from paro_trt.op.mask import pack_block_mask, unpack_block_mask
from paro_trt.plan import (
    Grid,
    KeyCost,
    ParoPlan,
    TextLayout,
    TextPosition,
    limits,
    load_plan,
    model_identity,
    plan_mix,
    save_plan,
)
from paro_trt.plan.document import FORMAT_VERSION
from paro_trt.plan.mask_codec import (
    decode_fine_mask,
    decode_mask,
    encode_fine_mask,
    encode_mask,
)
from tests.support.plans import small_plan

from .forge import PLAN, Forgery

PLANS: dict[str, dict[str, Any]] = {
    "plain": {},
    "one bin": {"bins": 1},
    "three bins, odd blocks": {"bins": 3, "grid": Grid(3, 7, 11), "block_q": 128},
    "text first": {"text": TextLayout(77, TextPosition.FIRST)},
    "padded text last": {"text": TextLayout(30, TextPosition.LAST, padded=True)},
    "grouped heads": {"heads": 6, "kv_heads": 2, "head_dim": 128, "layers": 3},
    "mask words full to the last bit": {"grid": Grid(2, 32, 32), "density": 1.0},
    "pooled": {"pool_dropped": True, "qk_bits": 4, "pv_bits": 16},
    "fine blocks": {"pool_dropped": True, "fine": 0.5, "grid": Grid(3, 7, 11), "bins": 3},
    "corrected heads": {"corrected": (1,)},
    "blocks chosen at run time": {"dynamic": 2},
    "smoothed, one head rotated": {"qk_bits": 4, "rotated": (1,), "heads": 4, "kv_heads": 2},
    "smoothed, no head rotated": {"qk_bits": 4, "rotated": ()},
    "all of version 2": {
        "pool_dropped": True,
        "fine": 0.3,
        "corrected": (0, 1),
        "dynamic": 1,
        "qk_bits": 4,
        "rotated": (0, 2),
        "heads": 4,
        "grid": Grid(4, 16, 24),
    },
}


def contents(value: Any) -> Any:
    """A plan as nested values with arrays spelled out, for comparison by ==."""
    if isinstance(value, np.ndarray):
        return value.dtype.str, value.shape, value.tobytes()
    if dataclasses.is_dataclass(value):
        return {f.name: contents(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, msgspec.Struct):
        return {f: contents(getattr(value, f)) for f in value.__struct_fields__}
    if isinstance(value, tuple):
        return tuple(map(contents, value))
    return value


@pytest.mark.parametrize("name", PLANS)
def test_round_trip(name: str, tmp_path: Path) -> None:
    plan = small_plan(**PLANS[name], seed=3)
    path = tmp_path / "a.paro.safetensors"
    save_plan(plan, path)
    loaded = load_plan(path)
    assert contents(loaded) == contents(plan)
    assert loaded.content_hash() == plan.content_hash()


SAVED_BY_0_1_0 = Path(__file__).with_name("saved_by_0.1.0.paro.safetensors")
ITS_HASH = "0f215e1d1a27c3df5183f66f49db407a47cce6a5468f3d32ab054f01b515374c"


def test_a_plan_saved_by_the_first_release(tmp_path: Path) -> None:
    plan = load_plan(SAVED_BY_0_1_0)
    assert plan.content_hash() == ITS_HASH
    assert (plan.grid, plan.bins) == (Grid(2, 4, 8), 2)
    assert plan.text == TextLayout(22, TextPosition.LAST, padded=True)
    assert plan.layers[0].heads[2].order == "HWF"
    assert plan.calibration.measured == {"held_out_error": 0.03}
    save_plan(plan, tmp_path / "again")
    assert (tmp_path / "again").read_bytes() == SAVED_BY_0_1_0.read_bytes()


def test_a_file_made_by_hand_loads(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(Forgery.of(PLAN).build())
    assert load_plan(tmp_path / "a").content_hash() == PLAN.content_hash()


def test_saving_is_deterministic(tmp_path: Path) -> None:
    for name in ("a", "b"):
        save_plan(small_plan(), tmp_path / name)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_other_tools_can_open_the_file(tmp_path: Path) -> None:
    save_plan(small_plan(layers=1), tmp_path / "a")
    with safetensors.safe_open(tmp_path / "a", "numpy") as file:
        assert sorted(file.keys()) == [
            "layers.0.block_mask",
            "layers.0.channel_affine",
            "layers.0.head_order",
            "orders",
        ]
        assert list(file.metadata()) == ["paro_plan"]


def test_a_symbolic_link_to_a_plan_loads(tmp_path: Path) -> None:
    save_plan(small_plan(), tmp_path / "blob")
    (tmp_path / "link").symlink_to(tmp_path / "blob")
    assert load_plan(tmp_path / "link").content_hash() == small_plan().content_hash()


def _changed(plan: ParoPlan) -> dict[str, ParoPlan]:
    layer = plan.layers[0]
    affine = layer.channel_affine.copy()
    affine[0, 0, 0] += 1

    def with_layer(**changes: Any) -> ParoPlan:
        return dataclasses.replace(
            plan, layers=(dataclasses.replace(layer, **changes), *plan.layers[1:])
        )

    return {
        "affine": with_layer(channel_affine=affine),
        "bits": with_layer(qk_bits=16),
        "layer name": with_layer(name="other"),
        "pooling": dataclasses.replace(plan, pool_dropped=not plan.pool_dropped),
        "boundary": dataclasses.replace(plan, bin_boundaries=(499.0,)),
        "notes": dataclasses.replace(
            plan, calibration=msgspec.structs.replace(plan.calibration, notes=("x",))
        ),
        "orders": dataclasses.replace(plan, orders=_swapped(plan.orders)),
        "mask": small_plan(seed=1),
        "corrected heads": with_layer(corrected_heads=np.int32([0, 1])),
        "other corrected heads": with_layer(corrected_heads=np.int32([1, 0])),
        "dynamic blocks": with_layer(dynamic_blocks=np.int32([[0, 1], [1, 0]])),
        "fine blocks": small_plan(pool_dropped=True, fine=0.5),
        "4 bits": with_layer(qk_bits=4),
        "smoothed": with_layer(qk_bits=4, rotation=np.zeros((2, 64), np.int32)),
        "rotated": with_layer(qk_bits=4, rotation=np.ones((2, 64), np.int32)),
        "rotated otherwise": with_layer(qk_bits=4, rotation=-np.ones((2, 64), np.int32)),
    }


def _swapped(orders: np.ndarray) -> np.ndarray:
    orders = orders.copy()
    orders[0, [0, 1]] = orders[0, [1, 0]]
    return orders


def test_every_change_changes_the_hash() -> None:
    plan = small_plan()
    hashes = {name: other.content_hash() for name, other in _changed(plan).items()}
    assert len({plan.content_hash(), *hashes.values()}) == len(hashes) + 1


def test_properties() -> None:
    plan = small_plan(
        grid=Grid(3, 7, 11), text=TextLayout(20, TextPosition.LAST), block_q=128, bins=3
    )
    assert (plan.tokens, plan.bins, plan.query_blocks, plan.key_blocks) == (251, 3, 2, 4)
    masks = [unpack_block_mask(layer.block_mask, plan.key_blocks) for layer in plan.layers]
    assert plan.density() == pytest.approx(np.mean(masks))


def test_bin_of() -> None:
    plan = small_plan(bins=3)
    plan = dataclasses.replace(plan, bin_boundaries=(800.0, 250.0))
    steps = {1000.0: 0, 800.0: 0, 799.9: 1, 250.0: 1, 249.9: 2, 0.0: 2}
    assert {step: plan.bin_of(step) for step in steps} == steps
    assert small_plan(bins=1).bin_of(500.0) == 0
    for wrong in (-1.0, 1002.0, float("nan"), float("inf")):
        with pytest.raises(ArgumentError, match="timestep"):
            plan.bin_of(wrong)


def test_layer_by_name() -> None:
    plan = small_plan(layers=3)
    assert plan.layer("blocks.1.attn1") is plan.layers[1]
    with pytest.raises(ArgumentError, match=r"blocks\.0\.attn1, blocks\.1\.attn1, .*got 'x'"):
        plan.layer("x")


def test_arrays_cannot_be_written(tmp_path: Path) -> None:
    orders = small_plan().orders.copy()
    made = dataclasses.replace(small_plan(), orders=orders)
    save_plan(made, tmp_path / "a")
    for plan in (made, load_plan(tmp_path / "a")):
        layer = plan.layers[0]
        for array in (plan.orders, layer.head_order, layer.block_mask, layer.channel_affine):
            with pytest.raises(ValueError, match="read-only"):
                array[...] = 0
    before = made.content_hash()
    orders[0, [0, 1]] = orders[0, [1, 0]]
    assert made.content_hash() == before, "the plan shares memory with its maker"


def test_numpy_scalars_are_stored_as_plain_numbers(tmp_path: Path) -> None:
    plan = small_plan()
    plan = dataclasses.replace(
        plan,
        bin_boundaries=(np.float32(500.0),),
        block_q=np.int64(64),
        calibration=msgspec.structs.replace(plan.calibration, measured={"psnr": np.float32(30.5)}),
    )
    save_plan(plan, tmp_path / "a")
    assert load_plan(tmp_path / "a").content_hash() == plan.content_hash()


def test_a_plan_is_written_in_the_first_version_that_has_what_it_uses(tmp_path: Path) -> None:
    plain = small_plan(pool_dropped=True)
    layer, zeros = plain.layers[0], np.zeros_like(plain.layers[0].block_mask)
    unused = dataclasses.replace(
        layer,
        fine_mask=zeros,
        corrected_heads=np.zeros(2, np.int32),
        dynamic_blocks=np.zeros((2, 2), np.int32),
    )
    assert (unused.fine_mask, unused.corrected_heads, unused.dynamic_blocks) == (None, None, None)
    save_plan(plain, tmp_path / "plain")
    save_plan(dataclasses.replace(plain, layers=(unused, plain.layers[1])), tmp_path / "unused")
    assert (tmp_path / "plain").read_bytes() == (tmp_path / "unused").read_bytes()
    assert b'\\"format_version\\":1' in (tmp_path / "plain").read_bytes()

    save_plan(small_plan(corrected=(0,)), tmp_path / "new")
    assert b'\\"format_version\\":2' in (tmp_path / "new").read_bytes()
    assert (plain.version, small_plan(corrected=(0,)).version) == (1, 2)


def test_a_smoothed_layer_without_a_rotated_head_is_not_a_plain_one(tmp_path: Path) -> None:
    save_plan(small_plan(qk_bits=4, rotated=()), tmp_path / "smoothed")
    smoothed = load_plan(tmp_path / "smoothed")
    assert (smoothed.version, smoothed.mixes) == (2, False)
    for layer in smoothed.layers:
        assert np.array_equal(layer.rotation, np.zeros((2, 64)))
        assert layer.rotated_heads == 0
    rotated = small_plan(qk_bits=4, rotated=(1,)).layers[0]
    assert (rotated.rotated_heads, rotated.version, rotated.mixes) == (1, 2, False)
    assert small_plan(qk_bits=4).layers[0].rotation is None


def test_a_block_in_both_planes_is_exact() -> None:
    plan = small_plan(pool_dropped=True, fine=0.5)
    layer = plan.layers[0]
    both = dataclasses.replace(layer, fine_mask=layer.fine_mask | layer.block_mask)
    assert np.array_equal(both.fine_mask, layer.fine_mask)
    assert not (both.fine_mask & both.block_mask).any()


def test_the_mix_of_a_plan() -> None:
    plan = small_plan(
        grid=Grid(3, 7, 11), text=TextLayout(20, TextPosition.LAST), pool_dropped=True,
        fine=0.5, dynamic=1, corrected=(1,), bins=3,
    )  # fmt: skip
    exact, fine = (
        np.stack([unpack_block_mask(getattr(x, name), plan.key_blocks) for x in plan.layers])
        for name in ("block_mask", "fine_mask")
    )
    mix = plan_mix(plan)
    coarse = 1 - exact.mean() - fine.mean()
    assert (mix.exact, mix.fine) == pytest.approx((exact.mean(), fine.mean()))
    assert mix.coarse == pytest.approx(coarse)
    # One head in two chooses one block in each row.
    assert mix.dynamic == pytest.approx(0.5 / plan.key_blocks)
    keys = 64 * (mix.exact + mix.dynamic) + 4 * mix.fine + coarse
    blocks = plan.key_blocks * keys / plan.tokens
    assert mix.cost == pytest.approx(blocks + mix.correction + mix.routing)
    # The other head is corrected: of each 128 rows one meets all tokens, and those of the mix.
    assert 0.5 / 128 < mix.correction < 0.5 / 128 + 0.5 / plan.block_q
    cost = KeyCost(plan.tokens, plan.block_q, plan.block_k)
    assert mix.routing == pytest.approx(0.5 * cost.routing(1) / plan.tokens)
    assert (mix.dynamic_blocks, mix.corrected_heads, mix.heads) == ((0, 1), 2, 4)
    vanished = plan_mix(small_plan())
    assert (vanished.coarse, vanished.cost) == (0, pytest.approx(small_plan().density()))


@pytest.mark.parametrize("exact", [0.02, 0.3, 1.0])
@pytest.mark.parametrize("fine", [0.0, 0.4, 1.0])
def test_fine_masks_survive_their_encoding(exact: float, fine: float) -> None:
    rng = np.random.default_rng(0)
    # Rows of 701 blocks, so that the bits of a row begin anywhere in a byte.
    blocks = rng.random((2, 3, 37, 701)) < exact
    plane = pack_block_mask((rng.random(blocks.shape) < fine) & ~blocks)
    packed = pack_block_mask(blocks)
    stream = encode_fine_mask(plane, packed, 701)
    assert np.array_equal(decode_fine_mask("mask", stream, packed, 701), plane)


def test_fine_masks_are_encoded_alike_in_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    exact = rng.random((2, 3, 37, 701)) < 0.3
    packed, plane = (
        pack_block_mask(exact),
        pack_block_mask((rng.random(exact.shape) < 0.5) & ~exact),
    )
    whole = encode_fine_mask(plane, packed, 701)
    monkeypatch.setattr("paro_trt.plan.mask_codec._BITS_AT_ONCE", 2000)
    assert encode_fine_mask(plane, packed, 701) == whole
    assert np.array_equal(decode_fine_mask("mask", whole, packed, 701), plane)


@pytest.mark.parametrize("density", [0.02, 0.3, 1.0])
def test_masks_survive_their_encoding(density: float) -> None:
    mask = np.random.default_rng(0).random((2, 3, 37, 70)) < density
    packed = pack_block_mask(mask)
    assert np.array_equal(decode_mask("mask", encode_mask(packed), packed.shape), packed)


def test_banded_masks_take_little_space() -> None:
    query, key = np.arange(591)[:, None] * 2, np.arange(1182)
    mask = np.broadcast_to(abs(query - key) < 150, (2, 8, 591, 1182))
    packed = pack_block_mask(mask)
    assert len(encode_mask(packed)) < packed.nbytes / 30


def test_model_identity() -> None:
    config = {"dim": 8, "axes": (1, 2), "_diffusers_version": "0.36"}
    identity = model_identity("Tiny", config)
    canonical = b'{"axes":[1,2],"dim":8}'
    assert identity.config_hash == hashlib.sha256(canonical).hexdigest()
    assert model_identity("Tiny", {"axes": [1, 2], "dim": 8}) == identity
    assert model_identity("Tiny", {"axes": [1, 2], "dim": 9}) != identity
    with pytest.raises(ArgumentError, match="config"):
        model_identity("Tiny", {"dim": float("nan")})


def test_arguments_at_their_defaults_do_not_change_the_identity() -> None:
    name, config = "WanTransformer3DModel", {"num_layers": 7, "_diffusers_version": "0.36"}
    identity = model_identity(name, config)
    defaults = {"patch_size": [1, 2, 2], "eps": 1e-6, "image_dim": None}
    assert model_identity(name, config | defaults | {"of_a_newer_release": 1}) == identity
    assert model_identity(name, config | {"eps": 1e-5}) != identity
    assert model_identity(name, config, "transformer_2") != identity


def test_an_argument_that_a_release_adds_does_not_change_the_identity(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    import diffusers

    name, config = "WanTransformer3DModel", {"num_layers": 7}
    identity = model_identity(name, config)

    def newer(self: object, num_layers: int = 40, new_option: object = None) -> None: ...

    monkeypatch.setattr(diffusers.WanTransformer3DModel, "__init__", newer)
    assert model_identity(name, config | {"new_option": None}) == identity
    assert model_identity(name, config | {"new_option": "on"}) != identity


def test_saving_refuses_a_header_no_reader_takes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("paro_trt.plan.format.MAX_HEADER_BYTES", 500)
    with pytest.raises(PlanError, match="header"):
        save_plan(small_plan(), tmp_path / "a")
    assert not list(tmp_path.iterdir())


def test_format_md_states_every_limit() -> None:
    text = Path(limits.__file__).with_name("FORMAT.md").read_text()
    rows = {line.split("|")[1].strip(): line for line in text.splitlines() if line[:1] == "|"}
    stated = {
        "header": limits.MAX_HEADER_BYTES,
        "S": limits.MAX_TOKENS,
        "O": limits.MAX_ORDERS,
        "layers": limits.MAX_LAYERS,
        "H": limits.MAX_HEADS,
        "D": limits.MAX_HEAD_DIM,
        "T": limits.MAX_BINS,
        "masks of all layers, decoded": limits.MAX_MASK_BYTES,
    }
    for name, limit in stated.items():
        assert f" {limit:,} " in rows[name]
    assert f"1 to {limits.MAX_LABEL} printable" in text
    assert f"# The plan file, format versions 1 and {FORMAT_VERSION}" in text
