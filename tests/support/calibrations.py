"""Calibration on prompt embeddings, as most tests want it."""

from paro_trt.calibration import calibrate
from paro_trt.calibration.embeddings_source import EmbeddingsSource
from paro_trt.models.schedules import Schedule

FEW_STEPS = Schedule(steps=4)


def calibrate_embeddings(
    loaded, prompts, latent_size, settings, output, *,
    heldout=None, partner=None, schedule=FEW_STEPS, **options,
):  # fmt: skip
    """The plan of a transformer, its prompts and settings."""

    def source(of):
        return EmbeddingsSource(loaded, of, latent_size, schedule, partner)

    return calibrate(
        source(prompts), settings, output,
        heldout=None if heldout is None else source(heldout), **options,
    )  # fmt: skip
