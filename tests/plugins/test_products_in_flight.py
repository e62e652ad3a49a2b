"""The walk over wgmma products in flight, on listings with a known hazard."""

from __future__ import annotations

import pytest

from plugins.kernels.sass.listing import Function, parse
from plugins.kernels.sass.products_in_flight import between_products, hazards

from .sass_listings import listing

# S = Q K^T into R88.., P V of the step before into R24.. from codes in R152..; S is used while P V
# runs, then P V is added and new codes are packed.
STEP = """
WARPGROUP.ARRIVE
IGMMA.64x128x32.S8.S8 R88, gdesc[UR28], RZ, !UPT
IGMMA.64x128x32.S8.S8 R88, gdesc[UR20], R88, gsb0
IGMMA.64x64x32.U8.S8 R24, R156, gdesc[UR4], RZ, !UPT
UIADD3 UR4, UR4, 0x20, URZ
IGMMA.64x64x32.U8.S8 R24, R152, gdesc[UR4], R24, gsb0
WARPGROUP.DEPBAR.LE gsb0, 0x1
I2FP.F32.S32 R160, R88
LDS.128 R164, [R2+0x10]
WARPGROUP.DEPBAR.LE gsb0, 0x0
FFMA R56, R24, R164, R56
F2IP.U8.F32.NTZ R152, R160, R161, RZ
""".strip().splitlines()


def step_of(lines: list[str]) -> Function:
    """The step as a loop."""
    (function,) = parse(listing("kernel", ".L_x_1:", *lines, "@P0 BRA `(.L_x_1)", "EXIT"))
    return function


def before(place: str, line: str) -> list[str]:
    """The step with a line before the one that starts with `place`."""
    index = next(i for i, each in enumerate(STEP) if each.startswith(place))
    return [*STEP[:index], line, *STEP[index:]]


def test_a_step_without_hazards():
    assert hazards(step_of(STEP)) == []


@pytest.mark.parametrize(
    ("lines", "touches"),
    [
        (before("I2FP", "FADD R30, R1, R2"), "FADD"),  # an accumulator of P V is written
        (before("I2FP", "FADD R1, R30, R2"), "FADD"),  # and read
        (before("I2FP", "STS.128 [R2], R52"), "STS.128"),  # R52 to R55: its last registers
        (before("I2FP", "LDS.64 R54, [R2]"), "LDS.64"),
        (before("I2FP", "MOV R158, R1"), "MOV"),  # codes that P V still reads
        (before("WARPGROUP.DEPBAR.LE gsb0, 0x1", "FADD R1, R100, R2"), "FADD"),  # S
        ([line for line in STEP if "gsb0, 0x1" not in line], "I2FP"),
        ([line.replace("gsb0, 0x0", "gsb0, 0x1") for line in STEP], "FFMA"),
        ([line.replace("R24, R156", "R24, R90") for line in STEP], "IGMMA"),  # reads S in flight
        (before("WARPGROUP.DEPBAR.LE gsb0, 0x1",
                "IGMMA.64x64x32.S8.S8 R152, gdesc[UR8], RZ, !UPT, gsb0"), "IGMMA"),
        # The codes are packed behind the last wait, but P V waits in the next round alone.
        ([*STEP[:9], *STEP[10:]], "FFMA"),
        # What the end of the loop leaves in flight is touched at its start.
        ([line for line in before("WARPGROUP.ARRIVE", "FADD R1, R24, R2")
          if not line.startswith(("FFMA", "F2IP")) and "gsb0, 0x0" not in line], "FADD"),
    ],
)  # fmt: skip
def test_a_hazard_is_found(lines, touches):
    found = hazards(step_of(lines))
    assert found
    assert any(line.startswith(touches) for line in found), found


def test_instructions_between_products_are_counted():
    assert between_products(step_of(STEP)) == 1
    packed = before("IGMMA.64x64x32.U8.S8 R24, R152", "FADD R1, R2, R3")
    assert between_products(step_of(packed)) == 2
