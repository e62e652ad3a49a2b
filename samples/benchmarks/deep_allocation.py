"""`--allocate measured` against `layer` on a deep model whose layers and heads differ.

    python -m samples.benchmarks.deep_allocation

The model is a `WanTransformer3DModel` of random weights, 24 layers of 4 heads, whose heads are
given random sharpness (queries times 1 to 4) and loudness (output columns times exp of a normal
number). Each plan has the same counted time. Errors are those of a prompt that no plan saw: of the
prediction on the calls of its dense run, each step counted as the calibration counts it, and of
the latents that enter the last step of a run with the plan. Prints a Markdown table.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from torch import Tensor

import paro_trt
from paro_trt.calibration import Allocation, CalibrationSettings, Target, calibrate
from paro_trt.calibration.cost import count_forwards
from paro_trt.calibration.embeddings_source import EmbeddingsSource
from paro_trt.calibration.run import CalibrationRun
from paro_trt.families.wan import WanFamily
from paro_trt.models.load import LoadedModel
from paro_trt.models.prompts import Prompts
from paro_trt.models.schedules import Schedule
from paro_trt.plan import ParoPlan, model_identity, plan_mix

LATENT_SIZE = (4, 16, 16)
"""256 tokens in patches of 2 x 2."""

HEADS, HEAD_DIM, TEXT_DIM, TEXT_TOKENS = 4, 64, 32, 8
COST, STEPS = 0.3, 12
CALIBRATION_PROMPTS, HELDOUT_PROMPTS, HELDOUT_SEED = 2, 2, 500

COMMON: Mapping[str, Any] = {
    "density": None, "cost": COST, "block_q": 64, "captured_steps": 1, "time_attention": False,
    "candidate_orders": ("fhw", "hwf"),
}  # fmt: skip
_MEASURED = {"allocation": Allocation.MEASURED, "cost_levels": (0.3, 0.4, 0.6)}
_FOUR_BITS = {"time_target": Target.SM_89, "qk_bits": 4, "pv_bits": 4}
PLANS: Mapping[str, Mapping[str, Any]] = {
    "`layer`": {},
    "`measured`, one group of heads": {**_MEASURED, "head_groups": 1},
    "`measured`, two groups": {**_MEASURED, "head_groups": 2},
    "`measured`, two groups, `--target sm_89`, 4 bits allowed": {
        **_MEASURED, **_FOUR_BITS, "head_groups": 2,
    },
}  # fmt: skip


@dataclass(frozen=True)
class Row:
    """One plan.

    forwards: of its calibration. seconds: the same. cost: keys that a query meets / S. expected:
    error of the prediction that the measured parts add up to, whole: of the whole plan on the same
    calls; None where nothing was measured. heldout, latents: relative L2 errors, see above.
    four_bits: layers with a product of 4 bits.
    """

    name: str
    forwards: int
    seconds: float
    cost: float
    expected: float | None
    whole: float | None
    heldout: float
    latents: float
    four_bits: int


def unlike_model(layers: int, seed: int = 0) -> LoadedModel:
    """A transformer whose heads differ in sharpness and loudness."""
    from diffusers import WanTransformer3DModel

    torch.manual_seed(seed)
    model = WanTransformer3DModel(
        patch_size=(1, 2, 2), num_attention_heads=HEADS, attention_head_dim=HEAD_DIM,
        in_channels=4, out_channels=4, text_dim=TEXT_DIM, freq_dim=32, ffn_dim=256,
        num_layers=layers, cross_attn_norm=True, rope_max_seq_len=32,
    )  # fmt: skip
    model.requires_grad_(False).eval()
    for block in model.blocks:
        attention: Any = block.attn1
        sharpness = 1.0 + 3.0 * torch.rand(HEADS)
        loudness = torch.randn(HEADS).exp()
        # Queries are normalised over all heads, then scaled by channel.
        attention.norm_q.weight.mul_(sharpness.repeat_interleave(HEAD_DIM))
        attention.to_out[0].weight.mul_(loudness.repeat_interleave(HEAD_DIM))
    config: dict[str, Any] = dict(model.config)
    identity = model_identity("WanTransformer3DModel", config)
    return LoadedModel(model, WanFamily(), config, Path("unlike"), identity)


def source_of(loaded: LoadedModel, prompts: int, seed: int) -> EmbeddingsSource:
    """Runs on random embeddings."""
    generator = torch.Generator().manual_seed(seed)
    embeds = torch.randn(prompts, TEXT_TOKENS, TEXT_DIM, generator=generator)
    texts = tuple(f"random {index}" for index in range(prompts))
    tensors = {"encoder_hidden_states": embeds}
    return EmbeddingsSource(loaded, Prompts(texts, tensors), LATENT_SIZE, Schedule(steps=STEPS))


def measured_row(loaded: LoadedModel, name: str, options: Mapping[str, Any], work: Path) -> Row:
    """Calibrate a plan and measure it on prompts that it did not see."""
    settings = CalibrationSettings(**{**COMMON, **options})
    source = source_of(loaded, CALIBRATION_PROMPTS, seed=1)
    run, started = CalibrationRun(source, settings), time.perf_counter()
    plan = calibrate(source, settings, work / "plan")
    seconds = time.perf_counter() - started
    heldout, latents = heldout_errors(run, source_of(loaded, HELDOUT_PROMPTS, seed=2), plan)
    figures = plan.calibration.measured
    return Row(
        name, count_forwards(run, None).total, seconds, plan_mix(plan).cost,
        figures.get("expected_prediction_error"), figures.get("prediction_error"), heldout,
        latents, sum(4 in (layer.qk_bits, layer.pv_bits) for layer in plan.layers),
    )  # fmt: skip


def heldout_errors(
    run: CalibrationRun, source: EmbeddingsSource, plan: ParoPlan
) -> tuple[float, float]:
    """Of the prediction, weighted by step, and of the latents that enter the last step."""
    model, steps = source.loaded.model, range(STEPS)
    of_prediction, of_latents, energy = 0.0, 0.0, 0.0
    for prompt in range(HELDOUT_PROMPTS):
        seed = HELDOUT_SEED + prompt
        calls = source.record(prompt, seed, steps, lambda _: None)
        dense = [_predicted(model, calls[step]) for step in steps]
        with planned(model, plan):
            for step, weight in enumerate(run.step_weights()):
                error = (_predicted(model, calls[step]) - dense[step]).square().sum()
                of_prediction += float(weight * error / dense[step].square().sum())
            own = source.record(prompt, seed, steps[-1:], lambda _: None)
        ends = [found[steps[-1]].arguments["hidden_states"].double() for found in (own, calls)]
        of_latents += float((ends[0] - ends[1]).square().sum())
        energy += float(ends[1].square().sum())
    return (of_prediction / HELDOUT_PROMPTS) ** 0.5, (of_latents / energy) ** 0.5


@contextmanager
def planned(model: torch.nn.Module, plan: ParoPlan) -> Iterator[None]:
    """The model with a plan, on the CPU backend."""
    paro_trt.apply(model, plan, impl="cpu")
    try:
        yield
    finally:
        paro_trt.remove(model)


def _predicted(model: torch.nn.Module, call: Any) -> Tensor:
    with torch.no_grad():
        prediction: Tensor = model(**call.to(torch.device("cpu")))[0].double()
    return prediction


def table(rows: list[Row]) -> list[str]:
    """Markdown, a plan a row."""
    lines = [
        "| plan | forwards, s | cost | error expected / whole plan | held-out prediction | "
        "held-out latents | layers with 4 bits |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        parts = "" if row.expected is None else f"{row.expected:.4f} / {row.whole:.4f}"
        lines.append(
            f"| {row.name} | {row.forwards}, {row.seconds:.0f} | {row.cost:.3f} | {parts} | "
            f"{row.heldout:.4f} | {row.latents:.4f} | {row.four_bits} |"
        )
    return lines


def main(
    layers: Annotated[int, typer.Option(min=1)] = 24,
    plans: Annotated[int, typer.Option(min=1, help="the first of the table")] = len(PLANS),
) -> None:
    """Print the table."""
    loaded, rows = unlike_model(layers), []
    for name, options in list(PLANS.items())[:plans]:
        with tempfile.TemporaryDirectory() as work:
            rows.append(measured_row(loaded, name, options, Path(work)))
        print(rows[-1], flush=True)
    print("\n".join(["", *table(rows)]))


if __name__ == "__main__":
    typer.run(main)
