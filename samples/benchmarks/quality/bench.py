"""What is measured, on what, and the results on disk as they come."""

import hashlib
import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from rich.progress import track

from paro_trt.calibration.embeddings_source import EmbeddingsSource
from paro_trt.calibration.run import CalibrationRun
from paro_trt.calibration.settings import CalibrationSettings
from paro_trt.files import atomic_write
from paro_trt.models.load import load_model
from paro_trt.models.prompts import Prompts, load_prompts
from paro_trt.models.schedules import Schedule

from .captures import Captures
from .evaluate import HeldoutRuns, Quality, Sampling, measure
from .policies import ORDER_DENSITY, SPARSE_KINDS, Configuration, Kind, make_policy
from .report import Result

FIRST_SEED = 1000
"""Away from the seeds of calibration runs."""

LATENT_SIZE = (8, 64, 64)
"""Frames, height and width of the included model's videos."""


@dataclass(frozen=True)
class Extent:
    """How much to measure.

    seeds: of the noise; each runs its own held-out prompts, `prompts_per_seed` of them.
    Quantized configurations run under the first seed only.
    """

    densities: tuple[float, ...]
    bits: tuple[tuple[int, int], ...]
    calibration_prompts: int
    prompts_per_seed: int
    seeds: tuple[int, ...]
    sampling: Sampling

    def configurations(self, seed: int) -> list[Configuration]:
        """What a seed runs; those at 16 bits first."""
        sparse = [Configuration(kind, d) for d in self.densities for kind in SPARSE_KINDS]
        quantized = [
            Configuration(kind, density, qk_bits, pv_bits)
            for qk_bits, pv_bits in (self.bits if seed == self.seeds[0] else ())
            for kind, density in (
                (Kind.DENSE, 1.0),
                (Kind.PARO_POOLED, 1.0),
                (Kind.PARO_POOLED, ORDER_DENSITY),
                (Kind.PARO_DROPPED, ORDER_DENSITY),
            )
        ]
        return [Configuration(Kind.DENSE, 1.0), *sparse, *quantized]

    def pairs(self) -> list[tuple[Configuration, int]]:
        """Every measurement: configuration and seed, seed after seed."""
        return [(c, seed) for seed in self.seeds for c in self.configurations(seed)]

    def prompts_of(self, seed: int, heldout: Prompts) -> Prompts:
        """The prompts that run under a seed: the next of them, from the first again at the end."""
        start = self.seeds.index(seed) * self.prompts_per_seed
        chosen = [(start + index) % len(heldout) for index in range(self.prompts_per_seed)]
        return heldout.only(chosen)

    def settings(self) -> CalibrationSettings:
        """Calibration on runs like those that are judged."""
        return CalibrationSettings(prompt_limit=self.calibration_prompts)

    @property
    def schedule(self) -> Schedule:
        """Of the calibration runs: that of the runs that are judged."""
        sampling = self.sampling
        return Schedule(sampling.steps, sampling.shift, sampling.guidance_scale)


FULL = Extent(
    densities=(0.5, 0.3, 0.2, 0.1),
    bits=((8, 8), (4, 8), (4, 4)),
    calibration_prompts=4,
    prompts_per_seed=2,
    seeds=tuple(range(FIRST_SEED, FIRST_SEED + 4)),
    sampling=Sampling(LATENT_SIZE, steps=12, guidance_scale=2.5, probed_steps=(1, 5, 9)),
)
QUICK = Extent(
    densities=(0.3,),
    bits=(),
    calibration_prompts=1,
    prompts_per_seed=1,
    seeds=(FIRST_SEED,),
    sampling=Sampling(LATENT_SIZE, steps=4, guidance_scale=2.5, probed_steps=(1,)),
)


class Bench:
    """The model and its runs; makes policies and measures them.

    weights: SHA-256 of the weights, when they were loaded.
    """

    def __init__(self, model: Path, extent: Extent) -> None:
        self.weights = weights_hash(model)
        self.extent = extent
        self.loaded = load_model(model)
        self.heldout = load_prompts(model / "heldout_prompts.safetensors")
        prompts = load_prompts(model / "prompts.safetensors")
        source = EmbeddingsSource(
            self.loaded, prompts, extent.sampling.latent_size, extent.schedule
        )
        self.run = CalibrationRun(source, extent.settings())
        self._runs: dict[int, HeldoutRuns] = {}

    @cached_property
    def captures(self) -> Captures:
        """Of the calibration prompts."""
        return Captures(self.run)

    def runs(self, seed: int) -> HeldoutRuns:
        """The dense videos of a seed."""
        if seed not in self._runs:
            prompts = self.extent.prompts_of(seed, self.heldout)
            self._runs[seed] = HeldoutRuns(self.loaded, prompts, seed, self.extent.sampling)
        return self._runs[seed]

    @property
    def tokens(self) -> int:
        """S."""
        return self.run.tokens

    def measure(self, configuration: Configuration, seed: int) -> Quality:
        """Make the configuration's policy and measure it on the videos of one seed."""
        return measure(make_policy(configuration, self.captures), self.runs(seed))


def fingerprint(weights: str, extent: Extent) -> str:
    """Of the weights, the code that measures, and what decides a single measurement."""
    digest = hashlib.sha256(weights.encode())
    decisive = (extent.calibration_prompts, extent.prompts_per_seed, extent.sampling)
    digest.update(repr(decisive).encode())
    for source in sorted(Path(__file__).parent.glob("*.py")):
        if source.name not in ("__init__.py", "__main__.py", "bench.py", "report.py"):
            digest.update(source.read_bytes())
    return digest.hexdigest()[:16]


def weights_hash(model: Path) -> str:
    """SHA-256 of the weight files."""
    digest = hashlib.sha256()
    for path in sorted(model.glob("diffusion_pytorch_model*.safetensors")):
        digest.update(path.read_bytes())
    return digest.hexdigest()


def measure_missing(bench: Bench, work: Path) -> None:
    """Measure what is not in `work` yet; everything under one seed before the next one's turn."""
    work.mkdir(parents=True, exist_ok=True)
    for configuration, seed in track(bench.extent.pairs(), description="configurations x seeds"):
        path = _result_file(work, configuration, seed)
        if not path.exists():
            quality = bench.measure(configuration, seed)
            with atomic_write(path) as file:
                file.write(json.dumps(quality._asdict()).encode())


def stored_results(extent: Extent, work: Path) -> list[Result]:
    """What is in `work` of the extent, the seeds of a configuration taken together."""
    parts: dict[Configuration, list[Quality]] = {}
    for configuration, seed in extent.pairs():
        path = _result_file(work, configuration, seed)
        if path.exists():
            parts.setdefault(configuration, []).append(Quality(**json.loads(path.read_text())))
    return [Result(configuration, Quality.merged(of)) for configuration, of in parts.items()]


def _result_file(work: Path, configuration: Configuration, seed: int) -> Path:
    key = hashlib.sha256(f"{configuration.label}, seed {seed}".encode()).hexdigest()
    return work / f"{key[:16]}.json"
