"""Compile the kernels and hold their machine code against budget.json.

    python -m plugins.kernels.sass.check            every kernel for every target (some minutes)
    python -m plugins.kernels.sass.check --targets 80 90a --sources sparse_attention_s8-s8
    python -m plugins.kernels.sass.check --update   record what is found; reasons to spill stay

For each kernel: the wanted instructions are there, local memory is touched only where the file
gives a reason, nothing touches the registers of wgmma products that still run, and no sum of stage
1 is contracted. Registers, and of the hot loop instructions per score, clocks of each pipe, stalls
and what lies between the products of a group are at most 3 % above the record.
Exit status 0 where all that holds, 1 where not, 2 where a tool is missing or fails.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from itertools import product
from pathlib import Path

from . import budget, contraction, products_in_flight, toolchain
from .budget import Budget, Measurements
from .kernels import Measured, kernels_of
from .listing import parse
from .toolchain import Toolchain, ToolError

Checked = tuple[dict[str, Measured], list[str]]


def check_source(tools: Toolchain, source: Path, target: str) -> Checked:
    """Costs of a source file's kernels for one target, and what is wrong with them."""
    costs: dict[str, Measured] = {}
    faults = []
    compiled = tools.disassemble(source, target)
    for kernel, function in kernels_of(parse(compiled.listing)):
        where = f"sm_{target} {kernel.name}"
        missing = [opcode for opcode in kernel.wanted_opcodes() if not function.count(opcode)]
        faults += [f"{where}: no instruction matches {opcode}" for opcode in missing]
        if kernel.uses_wgmma:
            faults += [f"{where}: {hazard}" for hazard in products_in_flight.hazards(function)]
            between = products_in_flight.between_products(function)
            if between > products_in_flight.MOST_BETWEEN:
                faults.append(f"{where}: {between} instructions between products of a group")
        if kernel.is_stage_1:
            faults += [f"{where}: {fault}" for fault in contraction.contracted(function)]
        registers = compiled.registers[function.mangled_name]
        try:
            costs[kernel.name] = kernel.measure(function, registers, target)
        except ValueError as error:
            faults.append(f"{where}: {error}")
    return costs, faults


def check_sources(
    tools: Toolchain, names: list[str], targets: list[str], jobs: int
) -> tuple[Measurements, list[str]]:
    """`check_source` of all pairs; all source files where none is named."""
    with tempfile.TemporaryDirectory() as folder, ThreadPoolExecutor(jobs) as pool:
        sources = toolchain.sources(Path(folder))
        unknown = set(names) - {source.stem for source in sources}
        if unknown:
            known = ", ".join(source.stem for source in sources)
            raise ToolError(f"sources: expected some of {known}, got {', '.join(sorted(unknown))}")
        pairs = [
            (source, target)
            for source, target in product(sources, targets)
            if (not names or source.stem in names)
            and toolchain.is_compiled_for(source.stem, target)
        ]
        results = pool.map(lambda pair: check_source(tools, *pair), pairs)
        measured: Measurements = {target: {} for target in targets}
        faults = []
        for (_, target), (costs, wrong) in zip(pairs, results, strict=True):
            measured[target] |= costs
            faults += wrong
    return measured, faults


def report(tools: Toolchain, measured: Measurements, faults: list[str]) -> int:
    """Print what differs from the record; the exit status."""
    recorded = budget.load()
    faults = faults + budget.regressions(recorded, tools.version, measured)
    better = budget.improvements(recorded, tools.version, measured)
    print(*(f"error: {fault}" for fault in faults), sep="\n", end="\n" if faults else "")
    print(*(f"better: {line}; {budget.UPDATE}" for line in better), sep="\n", end="")
    count = sum(map(len, measured.values()))
    compared = f"of nvcc {recorded.nvcc}, this is {tools.version}: sizes not compared"
    print(f"\n{count} kernels, {len(faults)} errors", end="; " if faults else "")
    print("" if tools.version == recorded.nvcc else f"; recorded {compared}")
    return 1 if faults else 0


def update(tools: Toolchain, measured: Measurements, faults: list[str], *, is_whole: bool) -> int:
    """Record what was measured; faults of the code itself are not recorded.

    is_whole: all kernels were measured, so that what else is recorded is no longer there.
    """
    recorded = budget.load()
    if not is_whole and recorded.nvcc != tools.version:
        raise ToolError(
            f"--update: expected nvcc {recorded.nvcc}, which the other figures are of, got "
            f"{tools.version}; give neither --targets nor --sources"
        )
    if is_whole:
        recorded = Budget(tools.version, recorded.spills, {})
    recorded = budget.merged(recorded, tools.version, measured)
    budget.save(recorded)
    faults = faults + budget.regressions(recorded, tools.version, measured)
    print(*(f"error: {fault}" for fault in faults), sep="\n")
    print(f"{budget.FILE}: {sum(map(len, measured.values()))} kernels recorded")
    return 1 if faults else 0


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    shipped = toolchain.targets()
    parser.add_argument("--targets", nargs="+", choices=shipped, default=shipped)
    parser.add_argument("--sources", nargs="+", default=[])
    parser.add_argument("--jobs", type=int, default=os.cpu_count())
    parser.add_argument("--update", action="store_true")
    arguments = parser.parse_args()
    is_whole = not arguments.sources and arguments.targets == shipped
    try:
        tools = toolchain.find_toolchain()
        found = check_sources(tools, arguments.sources, arguments.targets, arguments.jobs)
        if arguments.update:
            return update(tools, *found, is_whole=is_whole)
    except ToolError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return report(tools, *found)


if __name__ == "__main__":
    sys.exit(main())
