"""What 4-bit products cost: `python -m samples.benchmarks.four_bits errors|outliers|videos`.

Each command prints a Markdown table. Block sizes are those of a default plan, 128 x 64, unless
`--block-q 64` says otherwise; channel affines and rotations are chosen on calibration captures,
errors are those of held-out ones.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import numpy as np
import torch
import typer
from torch import Tensor

from paro_trt.calibration.capture import dense_attention
from paro_trt.calibration.inputs import HeadInputs, LayerInputs
from paro_trt.calibration.op_error import PlannedHead, attended_rows, dense_rows, identity_affine
from paro_trt.calibration.pipeline_source import PipelineSource
from paro_trt.calibration.quantize import (
    VARIANTS,
    QuantizationChoice,
    channel_ranges,
    choose_quantization,
    measure_quantization,
)
from paro_trt.calibration.select_mask import (
    Allocation,
    LayerScores,
    MaskMetric,
    MaskTarget,
    forced_blocks,
    select_masks,
)
from paro_trt.calibration.statistics import Tiling, block_statistics, sampled_query_blocks
from paro_trt.families.base import AttentionSite
from paro_trt.models.in_place import handled_attention
from paro_trt.models.live import open_model
from paro_trt.op.api import paro_attention
from paro_trt.op.blocks import Precision, prepare_keys
from paro_trt.op.mask import pack_block_mask, tile_order
from paro_trt.op.quantization import ChannelAffine, Quantized, quantize
from paro_trt.op.reference import attend_query_block, prepare_query_block
from paro_trt.op.smoothing import head_signs
from paro_trt.op.spec import AttentionConfig, block_count
from paro_trt.verification.metrics import psnr
from samples.tiny_wan.scenes import HELDOUT_SCENES

from .quality.calibrated import Calibrated
from .quality.included import call_arguments, half_of, included_pipeline, included_source
from .quality.sources import LayerCall, Source, Split
from .quality.synthetic import synthetic_source

app = typer.Typer(help=__doc__, no_args_is_help=True)
Work = Annotated[Path, typer.Option(help="where the captures of the quality benchmark are")]
WORK = Path(__file__).parents[2] / "build" / "quality"

BLOCK_Q, BLOCK_K = 128, 64
DENSITY = 0.3
_ANY_ERROR = float("inf")


class Bits(NamedTuple):
    """Of a mode: bits of both products, and whether query x key is smoothed."""

    qk: int
    pv: int
    smoothed: bool = False

    def config(self, block_q: int = BLOCK_Q) -> AttentionConfig:
        """The op's attributes."""
        return AttentionConfig(
            block_q, BLOCK_K, self.qk, self.pv, pool_dropped=True, smoothing=self.smoothed
        )

    def __str__(self) -> str:
        return f"QK {self.qk}{' smoothed' if self.smoothed else ''}, PV {self.pv}"


MODES = (
    Bits(8, 16), Bits(4, 16), Bits(4, 16, smoothed=True), Bits(16, 8), Bits(16, 4), Bits(8, 8),
    Bits(4, 8), Bits(4, 8, smoothed=True), Bits(4, 4, smoothed=True),
)  # fmt: skip


@dataclass(frozen=True, eq=False)
class Planned:
    """A layer's decisions, made of calibration captures.

    orders: of each head, int64 [S]; masks: bool [halves, H, NQ, NK] at `DENSITY`; only rows of
    judged query blocks are meaningful. errors: of `measure_quantization`, smoothed and plain.
    """

    source: Source
    block_q: int
    orders: Sequence[Tensor]
    masks: np.ndarray
    ranges: Mapping[str, np.ndarray]
    errors: Mapping[bool, Mapping[str, np.ndarray]]

    def choice(self, bits: Bits) -> QuantizationChoice:
        """Affine and rotation of a mode."""
        return choose_quantization(
            self.errors[bits.smoothed], self.ranges, bits.config(), _ANY_ERROR
        )

    def head(self, head: int, bits: Bits, half: int | None) -> PlannedHead:
        """One head in a mode; all blocks are exact where `half` is None."""
        return self._with(self.choices[bits], head, bits, half)

    @cached_property
    def choices(self) -> dict[Bits, QuantizationChoice]:
        """Of all modes."""
        return {bits: self.choice(bits) for bits in MODES}

    def _with(
        self, choice: QuantizationChoice, head: int, bits: Bits, half: int | None
    ) -> PlannedHead:
        mask = torch.ones(self.masks.shape[2:], dtype=torch.bool)
        if half is not None:
            mask = torch.from_numpy(self.masks[min(half, len(self.masks) - 1), head])
        affine = ChannelAffine.of_head(torch.from_numpy(choice.channel_affine), head, bits.config())
        rotation = None if choice.rotation is None else torch.from_numpy(choice.rotation)
        return PlannedHead(self.orders[head], mask, affine, signs=head_signs(rotation, head))


def plan_layer(
    source: Source, calibrated: Calibrated, layer: int, block_q: int = BLOCK_Q
) -> Planned:
    """Decide a layer as `calibrate` does."""
    orders = [source.orders[name] for name in calibrated.orders(layer)]
    halves = sorted({call.half for call in source.calls[Split.CALIBRATION]})
    tiling, judged = Tiling(block_q, BLOCK_K), source.query_blocks(block_q).tolist()
    forced = forced_blocks(source.tokens, source.text, tiling)
    calls = [source.of(Split.CALIBRATION, layer, half)[0] for half in halves]
    masks = np.zeros((len(halves), len(orders), *forced.shape), dtype=bool)
    found = [
        [
            block_statistics(call.head(h), order, tiling, pooled=True, query_blocks=judged)
            for h, order in enumerate(orders)
        ]
        for call in calls
    ]
    energy = np.array([[float(of.energy.sum()) for of in heads] for heads in found])
    energy_of_layer = energy.sum(axis=1)[:, None]
    error = np.stack([np.stack([of.error.numpy() for of in heads]) for heads in found])
    mass = np.stack([np.stack([of.mass.numpy() for of in heads]) for heads in found])
    scores = LayerScores(error / energy_of_layer[..., None, None], mass, energy / energy_of_layer)
    chosen = select_masks(
        [scores], forced[judged], MaskTarget(DENSITY), MaskMetric.OUTPUT_ERROR, Allocation.LAYER
    )[0]
    masks[:, :, judged] = chosen.mask
    ranges = _ranges(calls)
    everything = torch.ones((len(orders), *forced.shape), dtype=torch.bool)
    blocks = sampled_query_blocks(forced.shape[0], 4)
    errors = {}
    for smoothed in (False, True):
        sums: dict[str, np.ndarray] = {}
        for call in calls:
            measured = measure_quantization(
                _layer_inputs(call), torch.stack(orders), everything, ranges,
                Bits(4, 4, smoothed).config(block_q), blocks,
            )  # fmt: skip
            for name, value in measured.sums.items():
                sums[name] = sums.get(name, 0.0) + value
        errors[smoothed] = sums
    return Planned(source, block_q, orders, masks, ranges, errors)


def head_error(
    inputs: HeadInputs, planned: PlannedHead, config: AttentionConfig, blocks: Sequence[int]
) -> np.ndarray:
    """Squared error of one head against dense attention, and the energy of that: f64 [2]."""
    dense = dense_rows(inputs, planned.order, config.block_q, blocks)
    return _errors(attended_rows(inputs, planned, config, blocks), dense)


@app.command()
def errors(source: str, work: Work = WORK, prompts: int = 5, block_q: int = BLOCK_Q) -> None:
    """Relative L2 error of attention, dense and at density .3; SOURCE: included or synthetic."""
    captured = synthetic_source() if source == "synthetic" else included_source(work / "included")
    calibrated, modes = Calibrated(captured), (*MODES, *PV_TRIALS)
    found: dict[tuple[object, bool], list[float]] = {}
    variants, rotated = np.zeros(2 * len(VARIANTS)), []
    for layer in captured.layers:
        planned = plan_layer(captured, calibrated, layer, block_q)
        of_layer = planned.errors[True]
        variants += np.sqrt(of_layer["qk4"].sum(axis=1) / of_layer["energy"].sum())
        rotation = planned.choices[Bits(4, 16, smoothed=True)].rotation
        rotated.append(f"{int((rotation[:, 0] != 0).sum())} of {len(rotation)}")
        for call in captured.of(Split.HELDOUT, layer):
            if call.prompt >= prompts:
                continue
            for mode in modes:
                for sparse in (False, True):
                    if isinstance(mode, str) and sparse:
                        continue
                    sums = sum(
                        _mode_error(call, planned, head, mode, sparse) for head in range(call.heads)
                    )
                    found.setdefault((mode, sparse), []).append(float(np.sqrt(sums[0] / sums[1])))
            plain = sum(
                head_error(call.head(h), planned.head(h, Bits(8, 8), call.half)._replace(
                    affine=identity_affine(call.query.shape[2], call.query.device)),
                    Bits(16, 16).config(block_q), captured.query_blocks(block_q).tolist())
                for h in range(call.heads)
            )  # fmt: skip
            found.setdefault(("QK 16, PV 16", True), []).append(float(np.sqrt(plain[0] / plain[1])))
    print(f"\n## {captured.name}: {len(found['QK 16, PV 16', True])} held-out calls of a layer\n")
    print(f"| bits | dense | density {DENSITY} |\n|---|---|---|")
    for mode in ("QK 16, PV 16", *modes):
        cells = [found.get((mode, sparse)) for sparse in (False, True)]
        print(f"| {mode} | {' | '.join('' if c is None else f'{np.mean(c):.4f}' for c in cells)} |")
    print(f"\nRotated heads of each layer: {', '.join(rotated)}.\n")
    print("Error on calibration captures, QK 4 smoothed, by what prepares the channels:\n")
    print("| key mean, equalizer | not rotated | rotated |\n|---|---|---|")
    for index, kept in enumerate(VARIANTS):
        pair = variants.reshape(2, -1)[:, index] / len(captured.layers)
        name = " and ".join(n for n, k in zip(("mean", "equalizer"), kept, strict=True) if k)
        print(f"| {name or 'none'} | {pair[0]:.4f} | {pair[1]:.4f} |")


PV_TRIALS = (
    "PV 4, V less block mean",
    "PV 4, V scale of least squared error",
    "PV 4, V less block mean, scale of least squared error",
)
"""Values that 4 bits could carry instead; not in the op."""


def tried_values(value: Tensor, trial: str) -> Tensor:
    """What 4 bits make of values [N, block_k, D]; block means stay as they are."""
    mean = value.mean(dim=1, keepdim=True) if "mean" in trial else torch.zeros_like(value[:, :1])
    centred = value - mean
    if "least" not in trial:
        codes, scale = quantize(centred, 4, (1,))
        return codes * scale + mean
    largest = centred.abs().amax(dim=1, keepdim=True).clamp(min=1e-30)
    best, least = torch.zeros_like(centred), torch.full_like(largest, float("inf"))
    for share in np.linspace(0.6, 1.0, 17):
        scale = largest * float(share) / 7
        rounded = (centred / scale).round().clamp(-7, 7) * scale
        error = (rounded - centred).square().sum(dim=1, keepdim=True)
        best, least = torch.where(error < least, rounded, best), torch.minimum(error, least)
    return best + mean


def _mode_error(
    call: LayerCall, planned: Planned, head: int, mode: Bits | str, sparse: bool
) -> np.ndarray:
    inputs, block_q = call.head(head), planned.block_q
    judged = planned.source.query_blocks(block_q).tolist()
    if isinstance(mode, Bits):
        of_head = planned.head(head, mode, call.half if sparse else None)
        return head_error(inputs, of_head, mode.config(block_q), judged)
    bits = Bits(16, 4)
    of_head = planned.head(head, bits, None)
    config = replace(bits.config(block_q), scale=call.scale)
    order, precision = of_head.order, Precision(torch.float32, inputs.query.dtype)
    key, value = inputs.key[order], inputs.value[order]
    keys = prepare_keys(key, value, len(order), of_head.affine, None, config, precision)
    # The values of whole blocks, as `prepare_keys` preconditions them.
    shifted = (value - of_head.affine.value_mean) / of_head.affine.value_scale
    tried = tried_values(shifted.view(-1, config.block_k, value.shape[1]), mode)
    ones = torch.ones_like(tried[:, :1, :1])
    tokens = keys.tokens._replace(value=Quantized(tried, ones))
    rows = []
    for run in judged:
        query = inputs.query[order[run * config.block_q : (run + 1) * config.block_q]]
        prepared = prepare_query_block(query, of_head.affine, None, config, precision)
        rows.append(attend_query_block(prepared, [tokens], of_head.affine, config, precision))
    return _errors(torch.cat(rows), dense_rows(inputs, order, block_q, judged))


@app.command()
def outliers(tokens: int = 4096, seed: int = 0) -> None:
    """Cosine and relative L2 error on Gaussian inputs, with and without channel outliers."""
    print("| inputs | D | bits | cosine | relative L2 |\n|---|---|---|---|---|")
    for head_dim in (64, 128):
        for name, offset, factor in (
            ("Gaussian", 0.0, 1.0),
            ("with channels off zero by 8", 8.0, 1.0),
            ("with channels 8 times as large", 0.0, 8.0),
        ):
            generator = torch.Generator().manual_seed(seed)
            query, key, value = (
                torch.randn(tokens, 1, head_dim, generator=generator) for _ in range(3)
            )
            large = torch.randperm(head_dim, generator=generator)[:4]
            key[..., large] = key[..., large] * factor + offset
            query[..., large] += offset / 4
            call = LayerCall(0, 0, 0, query, key, value, head_dim**-0.5)
            for bits in (Bits(8, 8), Bits(4, 8), Bits(4, 8, smoothed=True), Bits(4, 4, True)):
                cosine, error = _gaussian_error(call, bits)
                print(f"| {name} | {head_dim} | {bits} | {cosine:.2%} | {error:.4f} |")


def _gaussian_error(call: LayerCall, bits: Bits) -> tuple[float, float]:
    tokens = len(call.query)
    order, blocks = torch.arange(tokens), range(0, block_count(tokens, BLOCK_Q), 4)
    mask = torch.ones(
        (block_count(tokens, BLOCK_Q), block_count(tokens, BLOCK_K)), dtype=torch.bool
    )
    ranges = _ranges([call])
    measured = measure_quantization(
        _layer_inputs(call), order[None], mask[None], ranges, bits.config(), range(4)
    ).sums
    choice = choose_quantization(measured, ranges, bits.config(), _ANY_ERROR)
    affine = ChannelAffine.of_head(torch.from_numpy(choice.channel_affine), 0, bits.config())
    rotation = None if choice.rotation is None else torch.from_numpy(choice.rotation)
    planned = PlannedHead(order, mask, affine, signs=head_signs(rotation, 0))
    inputs = call.head(0)
    found = attended_rows(inputs, planned, bits.config(), blocks).double().flatten()
    dense = dense_rows(inputs, order, BLOCK_Q, blocks).double().flatten()
    cosine = torch.nn.functional.cosine_similarity(found, dense, dim=0)
    return float(cosine), float((found - dense).norm() / dense.norm())


STEPS, FIRST_SEED = 8, 7000
"""Of a video; no capture has these seeds."""

VIDEO_MODES = (Bits(8, 8), Bits(4, 8, smoothed=True), Bits(4, 4, smoothed=True))


@app.command()
def videos(work: Work = WORK, count: int = 8) -> None:
    """PSNR of held-out videos of the included pipeline at density .3, against dense attention.

    The CPU backend computes the planned attention.
    """
    source = included_source(work / "included")
    calibrated = Calibrated(source)
    planned = {layer: plan_layer(source, calibrated, layer) for layer in source.layers}
    pipe = included_pipeline()
    print(f"| video | {' | '.join(map(str, VIDEO_MODES))} |\n|---|{'---|' * len(VIDEO_MODES)}")
    found = []
    for video in range(count):
        dense = _video(pipe, video, None)
        row: list[float] = [
            psnr(_video(pipe, video, lambda call, b=b: _attended(planned, call, b)), dense, 1.0)
            for b in VIDEO_MODES
        ]
        found.append(row)
        print(f"| {video} | {' | '.join(f'{x:.2f}' for x in row)} |", flush=True)
    print(f"| mean | {' | '.join(f'{x:.2f}' for x in np.mean(found, axis=0))} |")


_ATTRIBUTES = ("block_q", "block_k", "qk_bits", "pv_bits", "pool_dropped")


def _attended(planned: Mapping[int, Planned], call: LayerCall, bits: Bits) -> Tensor:
    of_layer = planned[call.layer]
    choice, words = of_layer.choices[bits], pack_block_mask(of_layer.masks)
    rotation = None if choice.rotation is None else torch.from_numpy(choice.rotation)
    output: Tensor = paro_attention(
        *(x[None].contiguous() for x in (call.query, call.key, call.value)),
        token_order=torch.stack(list(of_layer.orders)).int(),
        head_order=torch.arange(call.heads, dtype=torch.int32),
        block_mask=torch.from_numpy(words),
        tile_order=torch.from_numpy(tile_order(words)),
        channel_affine=torch.from_numpy(choice.channel_affine),
        mask_bin=torch.tensor([call.half], dtype=torch.int32),
        key_length=torch.tensor([len(call.query)], dtype=torch.int32),
        rotation=rotation,
        scale=call.scale,
        impl="cpu",
        **{name: getattr(bits.config(), name) for name in _ATTRIBUTES},
    )
    return output[0]


def _video(pipe: Any, video: int, attend: Callable[[LayerCall], Tensor] | None) -> Tensor:
    """[1, 3, F, H, W] in [0, 1], with the attention of every layer by `attend`; None: dense."""
    loaded = open_model(pipe)
    sites = loaded.family.sites(loaded.config)
    layers = {site.name: index for index, site in enumerate(sites)}
    geometry = PipelineSource(pipe, loaded, ["a"], call_arguments(STEPS)).geometry
    steps_done = 0

    def end_of_step(_pipe: Any, step: int, _timestep: Any, values: dict[str, Any]) -> Any:
        nonlocal steps_done
        steps_done = step + 1
        return values

    def handle(
        _: Tensor | None, site: AttentionSite, query: Tensor, key: Tensor, value: Tensor,
        scale: float,
    ) -> Tensor:  # fmt: skip
        if attend is None:
            return dense_attention(query, key, value, scale)
        half = half_of(steps_done, STEPS)
        samples = zip(query, key, value, strict=True)
        calls = [LayerCall(layers[site.name], half, 0, *inputs, scale) for inputs in samples]
        return torch.stack([attend(call) for call in calls])

    with handled_attention(loaded.model, loaded.family, geometry, handle):
        frames = pipe(
            HELDOUT_SCENES[video % len(HELDOUT_SCENES)].prompt,
            generator=torch.Generator().manual_seed(FIRST_SEED + video),
            output_type="pt",
            callback_on_step_end=end_of_step,
            **call_arguments(STEPS),
        ).frames
    return torch.as_tensor(frames).float().transpose(1, 2)


def _layer_inputs(call: LayerCall) -> LayerInputs:
    heads, channels = call.query.shape[1:]
    site = AttentionSite("attention", heads, heads, channels)
    return LayerInputs(site, call.query, call.key, call.value, call.scale)


def _ranges(calls: Sequence[LayerCall]) -> dict[str, np.ndarray]:
    """Of all calls' channels."""
    found = [channel_ranges(call.query, call.key, call.value) for call in calls]
    sums = {name: sum(of.sums[name] for of in found) for name in found[0].sums}
    maxima = {
        name: np.maximum.reduce([of.maxima[name] for of in found]) for name in found[0].maxima
    }
    return {**sums, **maxima}


def _errors(rows: Tensor, dense: Tensor) -> np.ndarray:
    """Squared error and the energy of what it is an error of: f64 [2]."""
    return np.array(
        [float((rows - dense).double().square().sum()), float(dense.double().square().sum())]
    )


if __name__ == "__main__":
    app()
