"""Every registered family against the model kit, on each of its tiny models."""

import pytest
import torch

from paro_trt.families.registry import FAMILIES
from paro_trt.onnx_export import Body
from tests.support import model_kit as kit
from tests.support.tiny import all_variants, variants_of

VARIANTS = {tiny.name: tiny for tiny in all_variants() if tiny.available}
FIRST_OF_EACH = {
    family.name: variants_of(family.name)[0]
    for family in FAMILIES
    if variants_of(family.name)[0].available
}

every_variant = pytest.mark.parametrize("tiny", VARIANTS.values(), ids=VARIANTS)
every_variant_most_late = pytest.mark.parametrize(
    "tiny",
    [
        pytest.param(tiny, marks=() if tiny in FIRST_OF_EACH.values() else pytest.mark.long)
        for tiny in VARIANTS.values()
    ],
    ids=VARIANTS,
)
every_family = pytest.mark.parametrize("tiny", FIRST_OF_EACH.values(), ids=FIRST_OF_EACH)
# An export takes a dozen seconds: of these, which differ most, every time. Other tests export Wan.
EXPORTED_OFTEN = {"cogvideox", "flux"}
every_family_most_late = pytest.mark.parametrize(
    "tiny",
    [
        pytest.param(tiny, marks=() if name in EXPORTED_OFTEN else pytest.mark.long)
        for name, tiny in FIRST_OF_EACH.items()
    ],
    ids=FIRST_OF_EACH,
)


@every_variant
def test_sites_and_geometry(tiny):
    kit.check_sites(tiny)


@every_variant
def test_text_that_is_too_long_is_refused(tiny):
    kit.check_text_limit(tiny)


@every_family
def test_hostile_config_is_refused(tiny):
    kit.check_config_limits(tiny)


@every_variant
def test_dense_plan_is_as_exact_as_the_stock_model(tiny, fresh_seed):
    kit.check_dense_plan_is_exact(tiny, fresh_seed, batch=3)


@every_variant
@pytest.mark.parametrize("odd", [False, True])
def test_own_call_is_read(tiny, fresh_seed, odd):
    kit.check_read_call(tiny, fresh_seed, odd=odd, padded=odd)


@every_variant
def test_foreign_calls_are_refused(tiny, fresh_seed):
    kit.check_foreign_calls_are_refused(tiny, fresh_seed)


@every_family
@pytest.mark.parametrize("batch", [1, 2])
def test_odd_grid(tiny, fresh_seed, batch):
    kit.check_dense_plan_is_exact(tiny, fresh_seed, batch=batch, odd=True, padded=batch == 2)


@every_variant_most_late
def test_bfloat16(tiny, fresh_seed):
    kit.check_dense_plan_is_exact(tiny, fresh_seed, dtype=torch.bfloat16)


@every_family
def test_batch_is_separable(tiny, fresh_seed):
    kit.check_batch_is_separable(tiny, fresh_seed)


@every_family
def test_padding_is_ignored(tiny, fresh_seed):
    kit.check_padding_is_ignored(tiny, fresh_seed)


@every_variant_most_late
def test_calibration(tiny, tmp_path, fresh_seed):
    kit.check_calibration(tiny, tmp_path, fresh_seed)


@every_family_most_late
def test_exported_file(tiny, tmp_path, fresh_seed):
    kit.check_exported_file(tiny, tmp_path, fresh_seed)


@pytest.mark.long
@every_variant
@pytest.mark.parametrize("odd", [False, True])
@pytest.mark.parametrize(("bits", "body"), [(16, Body.SPARSE), (8, Body.DENSE)])
def test_exported_file_of_every_variant(tiny, tmp_path, fresh_seed, odd, bits, body):
    kit.check_exported_file(tiny, tmp_path, fresh_seed, odd=odd, bits=bits, body=body)


@pytest.mark.long
@every_variant
def test_exported_baseline(tiny, tmp_path, fresh_seed):
    kit.check_exported_baseline(tiny, tmp_path, fresh_seed)


@pytest.mark.long
@every_family
def test_half_precision_file(tiny, tmp_path, fresh_seed):
    kit.check_half_precision_file(tiny, tmp_path, fresh_seed)
