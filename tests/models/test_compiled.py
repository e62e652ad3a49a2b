"""A plan in place under torch.compile: what the eager model computes, in as few graphs."""

from __future__ import annotations

import pytest
import torch
from torch._dynamo.testing import CompileCounter

from paro_trt.models.apply import ParoTransformer
from paro_trt.models.in_place import apply
from tests.support.tiny import all_variants
from tests.support.tiny.model import TinyModel

WAN = next(tiny for tiny in all_variants() if tiny.name == "wan")


def planned(tiny: TinyModel) -> tuple[torch.nn.Module, dict[str, torch.Tensor], torch.Tensor]:
    """A model with a plan, a call and what the model makes of it."""
    torch.compiler.reset()
    model = tiny.build()
    latents, timestep, conditioning = tiny.inputs(2)
    apply(model, tiny.plan(density=0.4, bins=2))
    call = {"hidden_states": latents, "timestep": timestep, **conditioning}
    return model, call, model(**call).sample


@pytest.mark.parametrize("how", ["in-place", "wrapped"])
@torch.no_grad()
def test_a_compiled_transformer_is_one_graph(how):
    model, call, expected = planned(WAN)
    counter = CompileCounter()
    if how == "in-place":
        model.compile(backend=counter, fullgraph=True)
    compiled = torch.compile(model, backend=counter, fullgraph=True) if how == "wrapped" else model
    for _ in range(2):
        torch.testing.assert_close(compiled(**call).sample, expected)
    assert counter.frame_count == 1


@torch.no_grad()
def test_compiled_blocks_share_one_graph_without_breaks():
    """What diffusers recommends; the tiny model has two blocks."""
    model, call, expected = planned(WAN)
    counter = CompileCounter()
    model.compile_repeated_blocks(backend=counter, fullgraph=True)
    torch.testing.assert_close(model(**call).sample, expected)
    assert counter.frame_count == 1


def test_a_planned_model_apart_computes_the_same_around_its_interception():
    torch.compiler.reset()
    loaded = WAN.loaded()
    planned = ParoTransformer(loaded.model, loaded.family, WAN.plan(density=0.3))
    latents, timestep, conditioning = WAN.inputs(2)
    call = (latents, timestep, *conditioning.values(), torch.zeros(2, dtype=torch.int32))
    with torch.no_grad():
        expected = planned(*call)[0]
        torch.testing.assert_close(torch.compile(planned, backend="eager")(*call)[0], expected)
