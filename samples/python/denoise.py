"""Videos from an engine, as a server would make them: one engine, a context for each worker.

    python samples/python/denoise.py wan.engine --prompts prompts.safetensors -o out --contexts 2

Needs NumPy and TensorRT, but neither torch nor diffusers. For models of flow matching. The prompts'
file is that of `paro-trt calibrate`; each video's latents go to a file of their own, for the VAE.
Files that are there already are kept, so that an interrupted run goes on where it ended.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from queue import SimpleQueue
from typing import Annotated, Any, TypeAlias

import numpy as np
import typer
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load_file, save

from paro_trt.cli.policy import exit_policy, when_interrupted
from paro_trt.engine.manifest import EngineManifest
from paro_trt.errors import ArgumentError
from paro_trt.files import atomic_write
from paro_trt.plan import mask_bins
from paro_trt.runtime.dlpack import numpy_dtype
from paro_trt.runtime.engine import Engine
from paro_trt.runtime.engine_context import EngineContext

Arrays: TypeAlias = Mapping[str, NDArray[Any]]

LATENTS, TIMESTEP, MASK_BIN, SAMPLE = "hidden_states", "timestep", "mask_bin", "sample"
NEGATIVE = "negative."
ALIASES = {
    "prompt_embeds": "encoder_hidden_states",
    "negative_prompt_embeds": "negative.encoder_hidden_states",
}
TIMESTEPS = 1000
V_PREDICTION = ("CogVideoXTransformer3DModel",)


@dataclass(frozen=True)
class Schedule:
    """Euler steps from noise, at sigma 1, to data, at sigma 0, and the guidance on the way."""

    steps: int
    shift: float
    guidance_scale: float

    def sigmas(self) -> NDArray[np.float64]:
        """The steps + 1 ends of all steps."""
        even = np.linspace(1.0, 0.0, self.steps + 1)
        return self.shift * even / (1 + (self.shift - 1) * even)


def denoise(
    context: EngineContext,
    manifest: EngineManifest,
    schedule: Schedule,
    conditioning: Arrays,
    seed: int,
) -> NDArray[np.float32]:
    """Latents [1, C, F, H, W] of one prompt; with guidance the second row is the negative one."""
    entries = {entry.name: entry for entry in manifest.inputs}
    dtypes = {name: numpy_dtype(entry.dtype) for name, entry in entries.items()}
    shape = tuple(int(size) for size in entries[LATENTS].shape[1:])
    fixed = {
        name: array.astype(dtypes.get(name, array.dtype)) for name, array in conditioning.items()
    }
    batch = len(next(iter(fixed.values())))
    latents = np.random.default_rng(seed).standard_normal((1, *shape), np.float32)
    for sigma, following in itertools.pairwise(schedule.sigmas()):
        timestep = np.full(batch, TIMESTEPS * sigma, np.float32)
        inputs = {
            LATENTS: np.repeat(latents, batch, axis=0).astype(dtypes[LATENTS]),
            TIMESTEP: timestep.astype(dtypes[TIMESTEP]),
            **fixed,
        }
        if MASK_BIN in entries:  # which of the plan's masks: a dense engine has none
            inputs[MASK_BIN] = mask_bins(timestep, manifest.info.bin_boundaries or ())
        velocity = context.run(inputs)[SAMPLE].astype(np.float32)
        guided = velocity[-1:] + schedule.guidance_scale * (velocity[:1] - velocity[-1:])
        latents += np.float32(following - sigma) * guided
    return latents


def read_prompts(path: Path, guided: bool) -> list[Arrays]:
    """Conditioning of each prompt, a batch of one; of two with guidance, the negative one last."""
    try:
        stored = {ALIASES.get(name, name): array for name, array in load_file(path).items()}
    except (SafetensorError, OSError) as error:
        raise ArgumentError(
            str(path), expected="a safetensors file of prompts", actual=str(error).splitlines()[0]
        ) from error
    positive = {name: array for name, array in stored.items() if not name.startswith(NEGATIVE)}
    counts = {len(array) for array in positive.values()}
    if len(counts) != 1:
        raise ArgumentError(
            str(path), expected="one row a prompt in every tensor", actual=f"{sorted(counts)} rows"
        )
    if guided and len(positive) == len(stored):
        raise ArgumentError(
            f"{path}: {NEGATIVE}...", expected="a negative prompt, for guidance", actual="none",
            remedy="--guidance-scale 1",
        )  # fmt: skip

    def rows(name: str, array: NDArray[Any], index: int) -> NDArray[Any]:
        negative = [stored.get(NEGATIVE + name, array[index])] if guided else []
        return np.stack([array[index], *negative])

    return [
        {name: rows(name, array, index) for name, array in positive.items()}
        for index in range(counts.pop())
    ]


def main(
    engine_file: Annotated[Path, typer.Argument(metavar="ENGINE", help="With its manifest.")],
    prompts: Annotated[Path, typer.Option(help="Prompts, as for paro-trt calibrate.")],
    output: Annotated[Path, typer.Option("-o", "--output", help="Folder of the latents.")],
    contexts: Annotated[int, typer.Option(min=1, help="Videos at once.")] = 1,
    steps: Annotated[int, typer.Option(min=1, help="Denoising steps.")] = 30,
    shift: Annotated[float, typer.Option(help="Of the schedule.")] = 3.0,
    guidance_scale: Annotated[float, typer.Option(help="1 evaluates no negative prompt.")] = 5.0,
    seed: Annotated[int, typer.Option(help="Of the first video's noise.")] = 0,
    gpu: Annotated[int | None, typer.Option(help="Its index. [default: the current one]")] = None,
) -> None:
    """Make the latents of each prompt's video with an engine."""
    requests = read_prompts(prompts, guided=guidance_scale != 1.0)
    schedule = Schedule(steps, shift, guidance_scale)
    output.mkdir(parents=True, exist_ok=True)
    files = {index: output / f"{index:04d}.safetensors" for index in range(len(requests))}
    waiting = [index for index, file in files.items() if not file.exists()]
    with Engine(engine_file, gpu=gpu) as engine:
        manifest = engine.manifest
        if manifest.info.model.class_name in V_PREDICTION:
            raise ArgumentError(
                str(engine_file), expected="a model of flow matching",
                actual=manifest.info.model.class_name,
            )  # fmt: skip
        free: SimpleQueue[EngineContext] = SimpleQueue()
        for _ in range(contexts):
            free.put(engine.context(cuda_graph=True))

        def serve(index: int) -> None:
            context, started = free.get(), time.perf_counter()
            try:
                latents = denoise(context, manifest, schedule, requests[index], seed + index)
            finally:  # the thread's next video waits for it, if this one failed
                free.put(context)
            with atomic_write(files[index]) as file:
                file.write(save({"latents": latents}, {"seed": str(seed + index)}))
            typer.echo(f"{files[index]}  {time.perf_counter() - started:.1f} s")

        with ThreadPoolExecutor(contexts) as pool:
            jobs = [pool.submit(serve, index) for index in waiting]
            try:
                for job in jobs:
                    job.result()
            except BaseException:
                pool.shutdown(cancel_futures=True)
                raise


if __name__ == "__main__":
    with exit_policy(), when_interrupted("finished videos are kept; the same command goes on"):
        typer.run(main)
