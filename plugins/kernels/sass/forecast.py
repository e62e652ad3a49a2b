"""The dense TOPS that the scheduler model expects of the main kernels: forecast.csv.

    python -m plugins.kernels.sass.forecast             compile, model and compare (minutes)
    python -m plugins.kernels.sass.forecast --update    record it; docs/kernels.md follows from it
    python -m plugins.kernels.sass.forecast --listing FILE --gpu A100 --head-dim 128

The last models the first loop with products of each kernel of a `nvdisasm -c -hex` listing, with
`--warps` of them on a partition that compute `--scores` elements of S each time. That is how the
model is calibrated on other people's kernels. Exit status 0 where the file is up to date.
"""

from __future__ import annotations

import argparse
import csv
import io
import sys
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import astuple, dataclass, fields
from pathlib import Path

from . import toolchain
from .kernels import kernels_of
from .listing import Function, Loop, parse
from .scheduler_model import clocks_of_loop
from .toolchain import Toolchain, ToolError

FILE = Path(__file__).with_name("forecast.csv")
RESOURCES = Path(__file__).with_name("resources.csv")
UPDATE = "python -m plugins.kernels.sass.forecast --update"
TOLERANCE = 0.02
_PARTITIONS, _LANES = 4, 32


@dataclass(frozen=True)
class Gpu:
    """What the forecast takes from a datasheet.

    Args:
        name: of the product, and how its kernels multiply where there are two ways.
        target: that the kernels are compiled for.
        ghz: boost clock; 1.7 for H200, whose boost clock no such kernel keeps.
        sources: of the kernels.
    """

    name: str
    target: str
    sms: int
    ghz: float
    sources: tuple[str, ...]

    def tops(self, head_dim: int, warps: int, scores: float, clocks: float) -> int:
        """10^12 operations a second, 4 D for each score.

        Args:
            head_dim: D.
            warps: on a partition.
            scores: of a warp in `clocks`.
            clocks: of a partition.
        """
        a_clock = warps * scores / clocks * _PARTITIONS * self.sms
        return round(4 * head_dim * a_clock * self.ghz / 1000)


_EIGHT, _FOUR = "sparse_attention_s8-s8", "sparse_attention_s4-s8"
GPUS = (
    Gpu("A100", "80", 108, 1.41, (_EIGHT, f"{_FOUR}_native")),
    Gpu("RTX 4090", "89", 128, 2.52, (_EIGHT, f"{_FOUR}_native")),
    Gpu("H200 by mma.sync", "90a", 132, 1.7, (_EIGHT, f"{_FOUR}_unpacked")),
    Gpu("RTX 5090", "120", 170, 2.41, (_EIGHT, f"{_FOUR}_unpacked")),
    Gpu("H200 by wgmma", "90a", 132, 1.7, ("sparse_attention_wgmma",)),
)


@dataclass(frozen=True)
class Forecast:
    """Of one kernel on one GPU. clocks: of a warp's step, with `warps` on a partition."""

    gpu: str
    kernel: str
    warps: int
    clocks: int
    tops: int


def load() -> list[Forecast]:
    """What is recorded."""
    with FILE.open(newline="") as file:
        return [
            Forecast(row["gpu"], row["kernel"], *(int(row[n]) for n in ("warps", "clocks", "tops")))
            for row in csv.DictReader(file)
        ]


def forecasts(tools: Toolchain, gpu: Gpu, source: Path) -> Iterator[Forecast]:
    """Of the kernels with 128 query rows in a source file, without those of fine summaries, whose
    other steps are the same."""
    functions = parse(tools.disassemble(source, gpu.target).listing)
    for kernel, function in kernels_of(functions):
        head_dim, block_q = kernel.sizes[:2]
        if block_q == 128 and not kernel.is_fine:
            loop = kernel.hot_loop(function)
            warps = _warps_of(kernel.name, gpu.target)
            clocks = clocks_of_loop(function, loop, gpu.target, warps, has_turns=kernel.uses_wgmma)
            scores = _LANES * kernel.scores_a_lane(function.in_loop(loop))
            tops = gpu.tops(head_dim, warps, scores, clocks)
            yield Forecast(gpu.name, kernel.name, warps, round(clocks), tops)


def _warps_of(kernel: str, target: str) -> int:
    """Warps with products on a partition, as many thread blocks as resources.csv has on an SM."""
    with RESOURCES.open(newline="") as file:
        row = next(
            each
            for each in csv.DictReader(file)
            if (each["target"], each["kernel"]) == (target, kernel)
        )
    warpgroups = int(row["threads"]) // 128 - kernel.startswith("sparse_attention_wgmma ")
    return int(row["blocks_an_sm"]) * warpgroups


def all_forecasts(tools: Toolchain) -> list[Forecast]:
    """Of every GPU: 8 bits, 4 bits, smoothed ones; the smaller head_dim and step first."""
    with tempfile.TemporaryDirectory() as folder, ThreadPoolExecutor(2) as pool:
        paths = {path.stem: path for path in toolchain.sources(Path(folder))}
        cases = [(gpu, paths[source]) for gpu in GPUS for source in gpu.sources]
        found = pool.map(lambda case: list(forecasts(tools, *case)), cases)
        return [each for rows in found for each in sorted(rows, key=lambda row: _order(row.kernel))]


def _order(kernel: str) -> tuple[str, list[int]]:
    name, sizes, *_ = kernel.split()
    return name, [int(size) for size in sizes.split("x")]


def differences(recorded: list[Forecast], found: list[Forecast]) -> list[str]:
    """What is not recorded, no longer there, or more than the tolerance away."""
    before = {(row.gpu, row.kernel): row.tops for row in recorded}
    after = {(row.gpu, row.kernel): row.tops for row in found}
    lines = []
    for gpu, kernel in before | after:
        old, new = before.get((gpu, kernel), 0), after.get((gpu, kernel), 0)
        if abs(old - new) > TOLERANCE * old:
            lines.append(f"{gpu}, {kernel}: expected {old} TOPS as recorded, got {new}")
    return lines


def table(rows: list[Forecast]) -> str:
    """What forecast.csv holds."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(field.name for field in fields(Forecast))
    writer.writerows(astuple(row) for row in rows)
    return text.getvalue()


def of_listing(listing: str, gpu: Gpu, head_dim: int, warps: int, scores: int) -> Iterator[str]:
    """A line for each kernel of a listing that has a loop with products."""
    for function in parse(listing):
        loop = _first_with_products(function)
        if loop is not None:
            clocks = clocks_of_loop(function, loop, gpu.target, warps)
            tops = gpu.tops(head_dim, warps, scores, clocks)
            yield f"{function.mangled_name}: {clocks:.0f} clocks, {tops} TOPS"


def _first_with_products(function: Function) -> Loop | None:
    loops = (loop for loop in function.loops if any("MMA" in o for o in function.in_loop(loop)))
    return next(loops, None)


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--update", action="store_true", help="record it")
    parser.add_argument("--listing", type=Path, help="model this instead, and record nothing")
    parser.add_argument("--gpu", choices=[gpu.name for gpu in GPUS], default="A100")
    parser.add_argument("--head-dim", type=int, default=128)
    parser.add_argument("--warps", type=int, default=2, help="on a partition")
    parser.add_argument("--scores", type=int, default=2048, help="of a warp, each time")
    arguments = parser.parse_args()
    if arguments.listing:
        gpu = next(each for each in GPUS if each.name == arguments.gpu)
        sizes = arguments.head_dim, arguments.warps, arguments.scores
        print(*of_listing(arguments.listing.read_text(), gpu, *sizes), sep="\n")
        return 0
    try:
        found = all_forecasts(toolchain.find_toolchain())
    except ToolError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(table(found), end="")
    if arguments.update:
        FILE.write_text(table(found))
        return 0
    wrong = differences(load(), found)
    print(*(f"error: {line}; {UPDATE}" for line in wrong), sep="\n", end="")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
