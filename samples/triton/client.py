"""Videos from a model that Triton Inference Server serves: `paro-trt triton` wrote its repository.

    pip install 'tritonclient[grpc]' safetensors
    python client.py wan --url localhost:8001 --prompts prompts.safetensors -o out --parallel 4

Needs neither this project's package nor torch nor a GPU: this file alone. What the client must know
of the plan, the bounds of its bins, is in the model's configuration. For models of flow matching.
"""

from __future__ import annotations

import argparse
import itertools
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import tritonclient.grpc as grpcclient
from safetensors.numpy import load_file, save_file
from tritonclient.utils import InferenceServerException

LATENTS, TIMESTEP, MASK_BIN, SAMPLE = "hidden_states", "timestep", "mask_bin", "sample"
NEGATIVE = "negative."
ALIASES = {
    "prompt_embeds": "encoder_hidden_states",
    "negative_prompt_embeds": "negative.encoder_hidden_states",
}
TIMESTEPS = 1000
V_PREDICTION = ("CogVideoXTransformer3DModel",)

# tritonclient takes and gives bfloat16 as float32.
DTYPES = {
    "TYPE_FP16": np.float16,
    "TYPE_BF16": np.float32,
    "TYPE_FP32": np.float32,
    "TYPE_INT32": np.int32,
    "TYPE_INT64": np.int64,
    "TYPE_BOOL": np.bool_,
}


class Model:
    """A served model: what it takes, and the bins of its plan."""

    def __init__(self, url: str, name: str) -> None:
        self.name = name
        self._client = grpcclient.InferenceServerClient(url)
        config = self._client.get_model_config(name, as_json=True)["config"]
        self.inputs = {entry["name"]: entry for entry in config["input"]}
        facts = {key: value["string_value"] for key, value in config["parameters"].items()}
        if facts["paro_model_class"] in V_PREDICTION:
            raise SystemExit(f"error: {name}: {facts['paro_model_class']} is not of flow matching")
        self.boundaries = [float(edge) for edge in facts["paro_bin_boundaries"].split(",") if edge]

    @property
    def latent_shape(self) -> tuple[int, ...]:
        """Of one sample."""
        return tuple(int(size) for size in self.inputs[LATENTS]["dims"])

    def velocity(self, arrays: dict[str, np.ndarray]) -> np.ndarray:
        """Output of a batch; the server may compute it together with other clients'."""
        if MASK_BIN in self.inputs:
            below = arrays[TIMESTEP][:, None] < np.array(self.boundaries)
            arrays = {**arrays, MASK_BIN: below.sum(axis=1)}
        requests = [self._input(name, array) for name, array in arrays.items()]
        result = self._client.infer(self.name, requests).as_numpy(SAMPLE)
        return result.astype(np.float32)

    def _input(self, name: str, array: np.ndarray) -> Any:
        if name not in self.inputs:
            raise SystemExit(f"error: {name}: the model takes {', '.join(self.inputs)}")
        kind = self.inputs[name]["data_type"]
        # A tensor whose only size is the batch is sent as [n, 1].
        shaped = array[:, None] if array.ndim == 1 else array
        request = grpcclient.InferInput(name, shaped.shape, kind.removeprefix("TYPE_"))
        request.set_data_from_numpy(np.ascontiguousarray(shaped, DTYPES[kind]))
        return request


def sigmas(steps: int, shift: float) -> np.ndarray:
    """From noise, 1, to data, 0: the steps + 1 ends of all steps."""
    even = np.linspace(1.0, 0.0, steps + 1)
    return shift * even / (1 + (shift - 1) * even)


def denoise(
    model: Model, conditioning: dict[str, np.ndarray], seed: int, options: argparse.Namespace
) -> np.ndarray:
    """Latents [1, ...] of one prompt; with guidance the second row is the negative prompt."""
    batch = len(next(iter(conditioning.values())))
    latents = np.random.default_rng(seed).standard_normal((1, *model.latent_shape), np.float32)
    for sigma, following in itertools.pairwise(sigmas(options.steps, options.shift)):
        velocity = model.velocity(
            {
                LATENTS: np.repeat(latents, batch, axis=0),
                TIMESTEP: np.full(batch, TIMESTEPS * sigma, np.float32),
                **conditioning,
            }
        )
        guided = velocity[-1:] + options.guidance_scale * (velocity[:1] - velocity[-1:])
        latents += np.float32(following - sigma) * guided
    return latents


def read_prompts(path: Path, guided: bool) -> list[dict[str, np.ndarray]]:
    """Conditioning of each prompt, a batch of one; of two with guidance, the negative one last."""
    stored = {ALIASES.get(name, name): array for name, array in load_file(path).items()}
    positive = {name: array for name, array in stored.items() if not name.startswith(NEGATIVE)}
    if guided and len(positive) == len(stored):
        raise SystemExit(f"error: {path}: no {NEGATIVE}... in it; pass --guidance-scale 1")
    count = min((len(array) for array in positive.values()), default=0)

    def rows(name: str, index: int) -> np.ndarray:
        array = positive[name]
        negative = [stored.get(NEGATIVE + name, array[index])] if guided else []
        return np.stack([array[index], *negative])

    return [{name: rows(name, index) for name in positive} for index in range(count)]


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", help="its name in the repository")
    parser.add_argument("--url", default="localhost:8001", help="the server's gRPC port")
    parser.add_argument("--prompts", type=Path, required=True, help="as for paro-trt calibrate")
    parser.add_argument("-o", "--output", type=Path, required=True, help="folder of the latents")
    parser.add_argument("--parallel", type=int, default=1, help="videos at once")
    parser.add_argument("--steps", type=int, default=30)
    parser.add_argument("--shift", type=float, default=3.0)
    parser.add_argument("--guidance-scale", type=float, default=5.0)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    prompts = read_prompts(options.prompts, options.guidance_scale != 1.0)
    model = Model(options.url, options.model)
    options.output.mkdir(parents=True, exist_ok=True)

    def serve(index: int) -> Path:
        latents = denoise(model, prompts[index], options.seed + index, options)
        path = options.output / f"{index:04d}.safetensors"
        save_file({"latents": latents}, path)
        return path

    with ThreadPoolExecutor(options.parallel) as pool:
        for path in pool.map(serve, range(len(prompts))):
            print(path)


if __name__ == "__main__":
    try:
        main()
    except (InferenceServerException, OSError) as error:
        sys.exit(f"error: {error}")
