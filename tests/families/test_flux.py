"""Flux: what its adapter hands to the model, against a call as the pipeline makes it."""

import torch

from tests.support.tiny import variants_of

TINY = variants_of("flux")[0]


def test_forward_is_the_pipeline_s_call(fresh_seed):
    loaded, geometry = TINY.loaded(fresh_seed), TINY.geometry(odd=True)
    latents, timestep, conditioning = TINY.inputs(2, fresh_seed, odd=True)
    rows, columns = geometry.grid.height, geometry.grid.width
    ids = torch.tensor([[0.0, row, column] for row in range(rows) for column in range(columns)])
    with torch.no_grad():
        (expected,) = loaded.model(
            hidden_states=latents,
            timestep=timestep / 1000,
            guidance=torch.full((2,), 3.5),
            pooled_projections=conditioning["pooled_projections"],
            encoder_hidden_states=conditioning["encoder_hidden_states"],
            txt_ids=torch.zeros(12, 3),
            img_ids=ids,
            return_dict=False,
        )
    assert torch.equal(loaded.velocity(geometry)(latents, timestep, conditioning), expected)
