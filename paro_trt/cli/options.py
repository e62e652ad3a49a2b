"""Options that several verbs have: each is declared once, with its help."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, TypeAlias

import typer

from .choices import OffloadName
from .sizes import PICTURE_HELP, VIDEO_HELP

VideoOption: TypeAlias = Annotated[
    str | None,
    typer.Option(metavar="F,H,W", help=f"{VIDEO_HELP} [default: the pipeline's]"),
]
SizeOption: TypeAlias = Annotated[
    str | None,
    typer.Option(metavar="H,W", help=f"{PICTURE_HELP} [default: the pipeline's]"),
]
ImageOption: TypeAlias = Annotated[
    Path | None, typer.Option(help="Picture to start from, where the pipeline takes one.")
]
TextTokensOption: TypeAlias = Annotated[
    int | None,
    typer.Option(help="Room for padded text in the attention. [default: the longest prompt]"),
]
DeviceOption: TypeAlias = Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N.")]
OffloadOption: TypeAlias = Annotated[
    OffloadName, typer.Option(help="What leaves the GPU while it is not in use.")
]
GuidanceScale2Option: TypeAlias = Annotated[
    float | None,
    typer.Option(help="Of the second of two transformers. [default: as the first]"),
]
NegativePromptOption: TypeAlias = Annotated[
    str | None, typer.Option(help="What not to show. [default: the pipeline's]")
]
ArgumentOption: TypeAlias = Annotated[
    list[str] | None,
    typer.Option(
        metavar="NAME=VALUE",
        help="Any other argument of the pipeline's call; VALUE is JSON or plain text.",
    ),
]
