"""Small listings as nvdisasm prints them, for the checks of machine code."""

from __future__ import annotations

from plugins.kernels.sass.listing import BARRIERS, Control

READY = Control(stall=1, stays=True, writes=None, reads=None, waits=())
"""Of an instruction that waits for nothing and delays nothing."""

Line = str | tuple[str, Control]
"""An instruction, alone where its control is `READY`, or a label such as ".L_x_1:"."""

_NONE = 7


def listing(mangled_name: str, *lines: Line) -> str:
    """A function; a branch to itself ends it."""
    text = [f'\t.section\t.text.{mangled_name},"ax",@progbits', f".text.{mangled_name}:"]
    for line in [*lines, ".L_x_99:", "BRA `(.L_x_99)"]:
        instruction, control = (line, READY) if isinstance(line, str) else line
        if instruction.startswith(".L"):
            text.append(instruction)
            continue
        text.append(f"        /*0000*/    {instruction} ;  /* 0x{0:016x} */")
        text.append(f"                          /* 0x{_high_half(control):016x} */")
    return "\n".join(text)


def _high_half(control: Control) -> int:
    barriers = [_NONE if each is None else each for each in (control.writes, control.reads)]
    waits = sum(1 << index for index in range(BARRIERS) if index in control.waits)
    bits = control.stall | control.stays << 4 | barriers[0] << 5 | barriers[1] << 8 | waits << 11
    return bits << 41
