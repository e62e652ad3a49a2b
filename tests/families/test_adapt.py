"""Changes made for tracing and interception: what they do, and that nothing is left of them."""

import pytest
import torch
import torch.nn.functional as F

from paro_trt.errors import ModelError
from paro_trt.families.base import AttentionSite
from paro_trt.families.shared import diffusers_range
from paro_trt.families.shared.adapt import ReplacedFunctions, constant_call, replaced
from paro_trt.models.intercept import intercept_attention


class Counted(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.calls = 0

    def forward(self, x):
        self.calls += 1
        return x + 1


def test_constant_call_calls_once_and_is_undone():
    module = Counted()
    with constant_call(module, "forward", torch.tensor(1.0)):
        assert module(torch.tensor(5.0)) == 2.0
        assert module(torch.tensor(7.0)) == 2.0
        assert module.calls == 1
    assert module(torch.tensor(5.0)) == 6.0
    assert "forward" not in vars(module)


def test_constant_call_is_undone_after_an_error():
    module = Counted()
    with pytest.raises(RuntimeError), constant_call(module, "forward", torch.tensor(1.0)):
        raise RuntimeError
    assert module(torch.tensor(5.0)) == 6.0


def test_replaced_attribute_is_restored_whether_the_object_or_its_class_had_it():
    module, first, second = Counted(), object(), object()
    module.processor = first
    with pytest.raises(AssertionError), replaced(module, "processor", second):
        assert module.processor is first
    assert module.processor is first
    with replaced(module, "extra_repr", lambda: "replaced"):
        assert "replaced" in repr(module)
    assert "extra_repr" not in vars(module)


def test_replaced_functions_may_call_what_they_replace_and_are_undone():
    def doubled(x):
        return 2 * torch.exp(x)

    x = torch.tensor([0.5, 2.0])
    with ReplacedFunctions({torch.exp: doubled}):
        assert torch.equal(torch.exp(x), 2 * x.exp())
        assert torch.equal(torch.sin(x), x.sin())
    assert torch.equal(torch.exp(x), x.exp())


class Masked(torch.nn.Module):
    """One attention site that hands on a mask."""

    def __init__(self):
        super().__init__()
        self.attn = torch.nn.Module()
        self.attn.forward = lambda x, mask: F.scaled_dot_product_attention(x, x, x, attn_mask=mask)

    def forward(self, x, mask):
        return self.attn(x, mask)


def attend(mask, key_length):
    model, site = Masked(), AttentionSite("attn", 2, 2, 4)

    def keep(_site, query, *_):
        return query

    with intercept_attention(model, [site], keep, key_length):
        return model(torch.randn(2, 2, 6, 4), mask)


LENGTHS = torch.tensor([6, 3])
PADDING = (torch.arange(6) < LENGTHS[:, None])[:, None, None]


def test_a_mask_that_the_family_explains_passes():
    attend(PADDING, LENGTHS)
    attend(torch.zeros(2, 1, 1, 6).masked_fill(~PADDING, -torch.inf), LENGTHS)


@pytest.mark.parametrize(
    ("mask", "key_length", "subject"),
    [
        (PADDING, None, "no mask: the family declares no padded text"),
        (PADDING, torch.tensor([6, 4]), "padding of each sample at the end"),
        (PADDING.flip(-1), LENGTHS, "padding of each sample at the end"),
        (PADDING.expand(2, 1, 6, 6), LENGTHS, "a key-padding mask"),
        (PADDING[:, 0, 0], LENGTHS, "a key-padding mask"),
    ],
)
def test_any_other_mask_is_refused_by_name(mask, key_length, subject):
    with pytest.raises(ModelError, match=f"attention mask of attn.*{subject}"):
        attend(mask, key_length)


@pytest.mark.parametrize("version", ["0.34.2", "0.43.0", "1.0", "unknown"])
def test_diffusers_out_of_range_is_refused(monkeypatch, version):
    import diffusers

    monkeypatch.setattr(diffusers, "__version__", version)
    with pytest.raises(ModelError, match=r"diffusers: .*pip install"):
        diffusers_range.check_diffusers()


@pytest.mark.parametrize("version", ["0.35.2", "0.42.1", "0.42.0.dev0"])
def test_diffusers_in_range_is_let_through(monkeypatch, version):
    import diffusers

    monkeypatch.setattr(diffusers, "__version__", version)
    diffusers_range.check_diffusers()
