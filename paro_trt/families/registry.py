"""Which model families this package knows."""

from __future__ import annotations

from ..errors import ModelError
from .base import ModelFamily
from .cogvideox import CogVideoXFamily
from .cosmos import CosmosFamily
from .flux import FluxFamily
from .flux2 import Flux2Family
from .hunyuan_video import HunyuanVideoFamily
from .hunyuan_video15 import HunyuanVideo15Family
from .ltx2 import Ltx2Family
from .ltx_video import LtxVideoFamily
from .mochi import MochiFamily
from .qwen_image import QwenImageFamily
from .sd3 import Sd3Family
from .wan import WanFamily

FAMILIES: tuple[ModelFamily, ...] = (
    CogVideoXFamily(),
    CosmosFamily(),
    FluxFamily(),
    Flux2Family(),
    HunyuanVideoFamily(),
    HunyuanVideo15Family(),
    LtxVideoFamily(),
    Ltx2Family(),
    MochiFamily(),
    QwenImageFamily(),
    Sd3Family(),
    WanFamily(),
)


def family_for(class_name: str) -> ModelFamily:
    """The family that covers a diffusers class; ModelError lists the known ones."""
    for family in FAMILIES:
        if class_name in family.class_names:
            return family
    known = ", ".join(name for family in FAMILIES for name in family.class_names)
    raise ModelError(
        "config.json: _class_name",
        expected=f"a known model class ({known})",
        actual=repr(class_name)[:80],
        remedy="point at the transformer's own directory, or add a family under paro_trt/families",
    )


def check_served(family: ModelFamily, pipeline_class: str | None) -> None:
    """Raise ModelError where a family does not serve the calls of a diffusers pipeline.

    Args:
        family: of the pipeline's transformer.
        pipeline_class: such as "FluxKontextPipeline"; None outside of a pipeline.
    """
    reason = family.unserved_pipelines.get(pipeline_class or "")
    if reason is not None:
        raise ModelError(
            str(pipeline_class),
            expected=f"a pipeline whose calls the family {family.name} serves",
            actual=f"one that {reason}",
            remedy="to plan the model without, load it as a pipeline of text alone, or pass a copy "
            "of its transformer's directory",
        )
