"""Defaults of each family, for its script in export/ and for `paro-trt calibrate`.

Plain data without imports of torch, so that a command line can print it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

DEFAULT_DENSITY = 0.3
"""Share of the blocks that a plan attends where the user names neither density nor mass."""


@dataclass(frozen=True)
class Preset:
    """What a family's users most often want.

    Args:
        size: (frames, height, width) in pixels of the usual video or image.
        shift: of the schedule that a plan is calibrated on, as in FlowMatchEulerDiscreteScheduler.
        dtype: of weights, latents and conditioning in an exported file; what the weights of the
            family's largest models were released in.
    """

    size: tuple[int, int, int]
    shift: float = 3.0
    dtype: Literal["float32", "float16", "bfloat16"] = "bfloat16"


PRESETS: Mapping[str, Preset] = {
    "cogvideox": Preset((49, 480, 720)),
    "cosmos": Preset((93, 704, 1280)),
    "flux": Preset((1, 1024, 1024)),
    "flux2": Preset((1, 1024, 1024)),
    "hunyuan_video": Preset((129, 720, 1280), shift=7.0),
    "hunyuan_video15": Preset((121, 480, 848), shift=5.0),
    # The pipelines of LTX let the shift grow with the number of tokens; these are the shifts of
    # the sizes given here.
    "ltx2": Preset((121, 512, 768), shift=16.0),
    "ltx_video": Preset((161, 512, 704), shift=25.0),
    "mochi": Preset((163, 480, 848)),
    "qwen_image": Preset((1, 1328, 1328)),
    "sd3": Preset((1, 1024, 1024)),
    "wan": Preset((81, 480, 832)),
}
"""By the family's name."""
