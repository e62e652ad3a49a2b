"""The interface of a model family: everything that is specific to a model is behind it.

docs/adding-a-model.md walks through writing one.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, Any, ClassVar, TypeAlias

from ..errors import ModelError
from ..plan import Grid, TextLayout

if TYPE_CHECKING:
    import torch
    from torch import Tensor

Config: TypeAlias = Mapping[str, Any]
"""A model's constructor arguments, defaults filled in."""

Shape: TypeAlias = tuple[int, ...]

TIMESTEPS = 1000
"""Timestep of pure noise; in flow matching timesteps are sigma * TIMESTEPS."""


@dataclass(frozen=True)
class AttentionSite:
    """One attention layer over the visual grid, alone or joined by text.

    Args:
        name: the module's path in the model, as in `model.get_submodule(name)`.
        heads: query heads.
        kv_heads: key/value heads; divides `heads`.
        head_dim: channels of a head.
    """

    name: str
    heads: int
    kv_heads: int
    head_dim: int


@dataclass(frozen=True)
class Geometry:
    """What a plan and an exported file are static in: the tokens of one sample.

    Args:
        grid: visual tokens.
        text: text tokens that join them in the attention sites.
    """

    grid: Grid
    text: TextLayout = TextLayout()  # noqa: RUF009 (frozen)

    @property
    def tokens(self) -> int:
        """S: tokens of the joint sequence."""
        return self.grid.tokens + self.text.count


class Role(Enum):
    """What a conditioning input means, for checks and for made-up inputs.

    EMBEDDING: free floating-point values.
    MASK: of the embedding before it: one for a token that exists, zero for padding; padding is at
        the end.
    SCALAR: one number for each sample, such as a guidance scale.
    """

    EMBEDDING = "embedding"
    MASK = "mask"
    SCALAR = "scalar"


@dataclass(frozen=True)
class ConditioningInput:
    """One tensor that a model takes in addition to latents and timestep.

    Args:
        name: of the input in prompt files and in ONNX files; by custom the keyword of the model's
            forward.
        shape: sizes, or symbols for those that are free: "B" batch, "L" text tokens that do not
            join the attention sites. Text that joins them has a fixed size.
        dtype: None for the model's own floating-point type.
        role: what it means.
        default: value of every element where a prompt file lacks the tensor; None: it must be
            there.
    """

    name: str
    shape: tuple[int | str, ...]
    dtype: torch.dtype | None = None
    role: Role = Role.EMBEDDING
    default: float | None = None


@dataclass(frozen=True)
class ModelCall:
    """A call of a model's own forward in the terms of this package.

    Args:
        latents: [B, *latent_shape], without channels or tokens that conditioning appends.
        timestep: float32 [B], 0..1000, 1000 being pure noise.
        inputs: conditioning inputs of the family's spec by name; defaults may be left out.
        geometry: of the call. Padded text has as many tokens as the call has: `padded_call` makes
            it that of a plan.
    """

    latents: Tensor
    timestep: Tensor
    inputs: Mapping[str, Tensor]
    geometry: Geometry


class Sampling(Enum):
    """How a model's output moves its latents from noise to data.

    FLOW: velocity of a straight path, x = sigma * noise + (1 - sigma) * data.
    V_PREDICTION: v of a variance-preserving diffusion with CogVideoX's noise schedule.
    """

    FLOW = "flow"
    V_PREDICTION = "v-prediction"


class ModelFamily(ABC):
    """A diffusers model class, or several with one interface, as this package sees it. Stateless.

    Class attributes:
        name: short name for messages, such as "wan".
        class_names: diffusers classes that the family covers, as in config.json's `_class_name`.
        limits: largest value of every integer of the config that decides sizes: far above any
            released model, so that a hostile config cannot ask for the machine.
        sampling: what the output means.
        vae_factors: pixels a latent stands for along (frames, height, width); frames 4 means
            that 1 + 4 n frames become 1 + n latents. `pixels_per_latent` where models differ.
        output_names: tensors that forward gives, the prediction for the latents first.
        shift_grows_with_tokens: the family's pipelines compute a scheduler's dynamic shift from the
            number of tokens, along the line that the scheduler's config draws.
        pipeline_names: of conditioning inputs, by what the family's pipelines call them where
            `models/prompts.py` does not know it.
        unserved_pipelines: diffusers pipelines of these classes whose calls the family does not
            serve, and what they do.
    """

    name: ClassVar[str]
    class_names: ClassVar[tuple[str, ...]]
    limits: ClassVar[Mapping[str, int]]
    sampling: ClassVar[Sampling] = Sampling.FLOW
    vae_factors: ClassVar[tuple[int, int, int]] = (4, 8, 8)
    output_names: ClassVar[tuple[str, ...]] = ("sample",)
    shift_grows_with_tokens: ClassVar[bool] = False
    pipeline_names: ClassVar[Mapping[str, str]] = {}
    unserved_pipelines: ClassVar[Mapping[str, str]] = {}

    def check_config(self, config: Config) -> None:
        """Raise ModelError if the config is out of bounds or of an unsupported variant."""
        for key, largest in self.limits.items():
            require_integer(config, key, largest)

    def pixels_per_latent(self, config: Config) -> tuple[int, int, int]:  # noqa: ARG002
        """`vae_factors`, unless the family's models have VAEs of several kinds."""
        return self.vae_factors

    def frame_rate(self, config: Config) -> float | None:  # noqa: ARG002
        """Frames a second that are a constant of every file, in its positions in time; None where
        the model does not know of seconds."""
        return None

    @abstractmethod
    def sites(self, config: Config) -> tuple[AttentionSite, ...]:
        """The attention layers over the visual grid, in the order of execution.

        Self-attention of the video or image, or its joint attention with text. Cross-attention,
        audio and text encoders stay as they are.
        """

    @abstractmethod
    def grid(self, config: Config, latent_size: tuple[int, int, int]) -> Grid:
        """Token grid of latents of (frames, height, width); ModelError if patches do not fit.

        Frames is 1 for a single image, and counts the images where reference images of equal
        size share the sequence.
        """

    @abstractmethod
    def latent_shape(self, config: Config, geometry: Geometry) -> Shape:
        """Shape of one sample's latents, without the batch, as the model takes them."""

    def text_layout(self, config: Config, prompt: Mapping[str, Shape]) -> TextLayout:  # noqa: ARG002
        """Text tokens among the visual ones in the attention sites.

        Where the number of a prompt's tokens varies under one layout, the layout is padded, and the
        sequence that reaches the attention must have the text last: attention does not care about
        the sequence's order, so `adapted` may exchange the two parts before they are joined.

        Args:
            config: the model's.
            prompt: shape of each conditioning tensor of one prompt, without the batch.

        Raises:
            ModelError: more text than the model takes.
        """
        return TextLayout()

    @abstractmethod
    def conditioning_spec(
        self, config: Config, geometry: Geometry
    ) -> tuple[ConditioningInput, ...]:
        """Inputs after latents and timestep, in the order ONNX files and modules take them."""

    def text_length(self, conditioning: Mapping[str, Tensor]) -> Tensor:
        """int [B]: text tokens of each sample that exist. Asked only where text is padded."""
        raise NotImplementedError(f"{self.name}: padded text needs text_length")

    def constants(self, config: Config, geometry: Geometry) -> dict[str, Tensor]:  # noqa: ARG002
        """Tensors that forward needs and that depend on nothing but the geometry.

        Position ids and rotary embeddings that a pipeline computes outside its transformer. They
        arrive in forward's `inputs`, and in an ONNX file they are constants.
        """
        return {}

    def adapted(
        self,
        model: torch.nn.Module,  # noqa: ARG002
        geometry: Geometry,  # noqa: ARG002
    ) -> AbstractContextManager[object]:
        """Within the context the model computes the same and can be traced and intercepted.

        Restored afterwards. `paro_trt.families.shared.adapt` has the usual changes.
        """
        return nullcontext()

    @abstractmethod
    def forward(
        self,
        model: torch.nn.Module,
        geometry: Geometry,
        latents: Tensor,
        timestep: Tensor,
        inputs: Mapping[str, Tensor],
    ) -> tuple[Tensor, ...]:
        """The model's outputs, as `output_names` has them.

        Args:
            model: of one of the family's classes.
            geometry: of the latents.
            latents: [B, *latent_shape].
            timestep: float32 [B], 0..1000, 1000 being pure noise whatever the model's own unit.
            inputs: the conditioning inputs and the constants by name.
        """

    @abstractmethod
    def read_call(self, config: Config, call: Mapping[str, Any]) -> ModelCall:
        """A call of the model's own forward, as its pipeline makes it: what `forward` undoes.

        Args:
            config: the model's.
            call: the arguments by name, without those that are left out.

        Raises:
            ArgumentError: an argument that the family does not serve, or of another shape or
                value than it serves.
            ModelError: the call is of a size that the family does not have.
        """

    def call_output(
        self,
        config: Config,  # noqa: ARG002
        call: Mapping[str, Any],  # noqa: ARG002
        outputs: tuple[Tensor, ...],
    ) -> tuple[Tensor, ...]:
        """What the model's own forward returns for a call.

        Args:
            config: the model's.
            call: as of `read_call`.
            outputs: of `forward`, for what `read_call` made of it.
        """
        return outputs


def require_integer(config: Config, key: str, largest: int) -> int:
    """config[key] as an integer in 1..largest; ModelError otherwise."""
    value = config.get(key)
    if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= largest:
        raise ModelError(
            f"config.json: {key}", expected=f"an integer in 1..{largest}", actual=repr(value)[:80]
        )
    return value


def require_variant(
    config: Config, key: str, allowed: tuple[object, ...], remedy: str = ""
) -> None:
    """ModelError unless config[key] is one of the values of the variants that are supported."""
    if config.get(key) not in allowed:
        raise ModelError(
            f"config.json: {key}",
            expected=" or ".join(map(repr, allowed)),
            actual=repr(config.get(key))[:80],
            remedy=remedy,
        )


def patched_grid(
    latent_size: tuple[int, int, int], patch: tuple[int, int, int], largest: int = 1 << 16
) -> Grid:
    """One token a patch; ModelError where a size is not a multiple of its patch.

    Args:
        latent_size: (frames, height, width).
        patch: the same, of a patch.
        largest: tokens along an axis at most.
    """
    for axis, size, step in zip(("frames", "height", "width"), latent_size, patch, strict=True):
        if size < step or size % step or size // step > largest:
            raise ModelError(
                f"latent {axis}",
                expected=f"a multiple of the patch size {step} up to {largest * step}",
                actual=str(size),
                remedy="choose another resolution or number of frames",
            )
    return Grid(*(size // step for size, step in zip(latent_size, patch, strict=True)))


def joint_text_count(prompt: Mapping[str, Shape], name: str, largest: int) -> int:
    """Text tokens of a prompt's tensor [L, C] that joins the attention; ModelError above a limit.

    Args:
        prompt: shape of each conditioning tensor of one prompt.
        name: of the text embedding.
        largest: tokens the model takes at most.
    """
    if name not in prompt:
        raise ModelError(
            "prompts", expected=f"a tensor {name}", actual=", ".join(prompt) or "no tensor"
        )
    count = prompt[name][0]
    if not 1 <= count <= largest:
        raise ModelError(
            f"text tokens of {name}",
            expected=f"1 to {largest}, what the model takes",
            actual=str(count),
            remedy=f"embed the prompts again with max_sequence_length {largest}; of a pipeline: "
            f"--argument max_sequence_length={largest}",
        )
    return count
