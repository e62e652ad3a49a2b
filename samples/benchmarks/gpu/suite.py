"""Everything that a GPU must show, in one run of less than ten minutes.

    samples/benchmarks/gpu_suite.sh [OUT_DIR] [--minutes 9.5] [--skip STEP]... [--dry-run]

Builds the library for this machine's GPU, holds the emulator's instructions against the GPU's, runs
the kernel tests, lets compute-sanitizer watch small calls, measures the rates of the GPU's pipes
and times attention. Needs CUDA's toolkit, torch and pytest; no network, no installation. The table
comes last, and into OUT_DIR with all numbers, the environment and a log.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from datetime import datetime, timezone
from pathlib import Path

from . import environment
from .needs import Machine, examine
from .rates import RATES_FILE, rates_table, read_rates
from .steps import SECONDS, Command, Result, Step, run_step

ROOT = Path(__file__).resolve().parents[3]
HERE = Path("samples/benchmarks/gpu")
PROGRAMS = Path("build/gpu-suite")
LIBRARY = "paro_trt/lib/libparo_attention.so"
CONFORMANCE = Path("plugins/emulator/conformance")
TABLE_FILE, LOG_FILE, DUMP_FILE = "table.md", "log.txt", "conformance_gpu.bin"

ATTENTION_SECONDS = 150.0
"""Of the whole time, what the steps before attention leave it at least."""

ALONE = "allocates_nothing or current_stream or streams_of_their_own"
"""Tests that look at the GPU's free memory or at how far its work is: nothing else may run."""

GPU_TESTS = ("tests/plugins/test_cuda_gpu.py", "tests/plugins/test_cuda_gpu_version_2.py")

STEPS = ("build", "conformance", "tests", "sanitizer", "rates", "attention")


def plan(machine: Machine, out: Path) -> list[Step]:
    """All steps, in order."""
    return [
        build_step(machine),
        conformance_step(out),
        tests_step(),
        sanitizer_step(machine),
        Step("rates", 30, (Command((f"{PROGRAMS}/rates",), output=out / RATES_FILE),)),
        attention_step(out),
    ]


def build_step(machine: Machine) -> Step:
    """The library into paro_trt/lib, as `make plugin PRESET=plugin-local`; the suite's programs."""
    nvcc, target = machine.tools.get("nvcc", "nvcc"), machine.target or "native"
    # A host compiler newer than those of the project's CI may warn of more.
    tolerant = f"-DCMAKE_CXX_COMPILER_LAUNCHER={ROOT / HERE / 'tolerate_warnings.sh'}"
    generator = {"CMAKE_GENERATOR": machine.generator} if machine.generator else {}
    cuda = {"CUDACXX": nvcc, "NVCC_APPEND_FLAGS": "-Xcompiler=-Wno-error", **generator}
    library = ("plugins/cmake/build_preset.sh", "plugin-local", ".venv", sys.executable)
    emulator = ["cmake", "-S", "plugins", "-B", f"{PROGRAMS}/emulator", tolerant]
    emulator += ["-DCMAKE_BUILD_TYPE=Release", "-DPARO_BUILD_TESTS=ON", "-DPARO_BUILD_CPU=OFF"]
    built = f"cmake --build {PROGRAMS}/emulator --parallel 4 --target conformance_emulator"
    programs = [
        (CONFORMANCE / "conformance.cu", "conformance_gpu"),
        (HERE / "rates.cu", "rates"),
        (HERE / "sanitized_calls.cu", "sanitized_calls"),
    ]
    options = ("-O3", "-std=c++20", "-lineinfo", "-Iplugins", "-Iplugins/include", "-ldl")
    generation = f"-gencode=arch=compute_{target},code=sm_{target}"
    commands = (
        Command((*library, f"-DPARO_CUDA_TARGETS={target}", tolerant), environment=cuda),
        Command(
            ("sh", "-c", " ".join([*emulator, "-DPARO_BUILD_TENSORRT=OFF", "&&", built])),
            environment=generator,
        ),
        *(
            Command((nvcc, *options, generation, str(source), "-o", f"{PROGRAMS}/{name}"))
            for source, name in programs
        ),
    )
    return Step("build", 300, commands, together=True, needed=True)


def conformance_step(out: Path) -> Step:
    """The same tests of instructions on the GPU and in the emulator, word by word."""
    dump, emulated = str(out / DUMP_FILE), f"{PROGRAMS}/conformance_emulator.bin"
    emulator = f"{PROGRAMS}/emulator/emulator/conformance/conformance_emulator"
    compare = (sys.executable, str(CONFORMANCE / "compare.py"), dump, emulated)
    commands = (
        Command((f"{PROGRAMS}/conformance_gpu", dump)),
        Command((emulator, emulated)),
        Command(compare, says=r"[1-9]\d* sections agree"),
    )
    return Step("conformance", 40, commands)


def tests_step() -> Step:
    """Every kernel against the reference: fresh random inputs, poisoned outputs."""
    options = ("-q", "--timeout=100", "-p", "no:cacheprovider")
    pytest = (sys.executable, "-m", "pytest", *GPU_TESTS, *options)
    # Where the library or the GPU is not found all tests are skipped, with status 0.
    passed = r"[1-9]\d* passed"
    commands = (
        Command((*pytest, "-n", "8", "-k", f"not ({ALONE})"), says=passed),
        Command((*pytest, "-n", "0", "-k", ALONE), says=passed),
    )
    return Step("tests", 180, commands)


def sanitizer_step(machine: Machine) -> Step:
    """Four tools over small calls; two of them first on a planted fault that they must report."""
    tool = machine.tools.get("compute-sanitizer", "compute-sanitizer")
    program = (f"{PROGRAMS}/sanitized_calls", LIBRARY)

    def watched(name: str, says: str, fault: str = "none") -> Command:
        words = (tool, "--tool", name, *program, fault)
        return Command(words, says=says, fails=fault != "none")

    clean, clean_race = r"ERROR SUMMARY: 0 errors", r"RACECHECK SUMMARY: 0 hazards"
    commands = (
        watched("memcheck", r"Invalid __global__ write", "memory"),
        watched("racecheck", r"RACECHECK SUMMARY: [1-9]", "race"),
        watched("memcheck", clean),
        watched("racecheck", clean_race),
        watched("synccheck", clean),
        watched("initcheck", clean),
    )
    return Step("sanitizer", 130, commands)


def attention_step(out: Path) -> Step:
    """Stage times, TOPS and speedups over torch's SDPA."""
    words = (
        sys.executable,
        "-m",
        "samples.benchmarks.gpu.attention",
        str(out),
        "--seconds",
        SECONDS,
    )
    return Step("attention", 480, (Command(words, says=r"\d+ of \d+ groups measured"),))


def run_all(
    steps: Sequence[Step], skipped: Sequence[str], seconds: float, out: Path
) -> list[Result]:
    """Run steps until one that is needed fails; each within what is left of the time."""
    end = time.monotonic() + seconds
    results = []
    for step in steps:
        if step.name in skipped:
            results.append(Result(step.name, "skipped", 0.0))
            continue
        left = end - time.monotonic()
        reserve = (
            ATTENTION_SECONDS if step.name != "attention" and "attention" not in skipped else 0
        )
        limit = max(5.0, min(step.limit, left - reserve))
        print(f"{step.name} (at most {limit:.0f} s)", flush=True)
        results.append(run_step(step, ROOT, limit, out / LOG_FILE))
        print(f"{step.name}: {results[-1].status} {results[-1].detail}", flush=True)
        if step.needed and results[-1].status != "ok":
            break
    return results


def final_table(results: Sequence[Result], out: Path) -> str:
    """What is printed last: steps, rates, times, targets."""
    # These need torch, whose absence `examine` reports.
    from paro_trt.bench import table
    from paro_trt.bench.results import read_rows

    from .shapes import DENSITIES
    from .targets import outcomes, targets_table

    rows, rates = read_rows(out), read_rates(out / RATES_FILE)
    parts = [["| step | | time | |", "|---|---|---|---|", *(result.line() for result in results)]]
    if rates:
        parts.append(rates_table(rates))
    if rows:
        parts += [table.by_density(rows, DENSITIES), table.left_out(rows)]
    parts.append(targets_table(outcomes(rows)))
    return "\n\n".join("\n".join(part) for part in parts if part)


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="gpu_suite.sh", description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    now = datetime.now(timezone.utc).strftime("%Y-%m-%d-%H%M%S")
    parser.add_argument("out", nargs="?", type=Path, default=ROOT / PROGRAMS / f"results-{now}")
    parser.add_argument("--minutes", type=float, default=9.5, help="for everything (9.5)")
    parser.add_argument("--skip", action="append", default=[], choices=STEPS, help="a step")
    parser.add_argument(
        "--dry-run", action="store_true", help="say what would run, and run nothing"
    )
    given = parser.parse_args(arguments)
    if not given.minutes > 0:
        parser.error(f"--minutes: expected a positive number, got {given.minutes:g}")
    given.out = given.out.absolute()
    if given.out.exists() and (not given.out.is_dir() or any(given.out.iterdir())):
        parser.error(f"OUT_DIR: expected a new or empty directory, got {given.out}")
    return given


def main(arguments: Sequence[str]) -> int:
    """See the module. Exit status 1 where a step is neither ok nor skipped, 2 for refusals."""
    given = parse(arguments)
    machine = examine(given.skip)
    for line in machine.missing:
        print(f"missing: {line}", file=sys.stderr)
    steps = plan(machine, given.out)
    if given.dry_run:
        for step in steps:
            state = "skipped" if step.name in given.skip else f"at most {step.limit:.0f} s"
            print(f"{step.name} ({state})", *(f"    {c.shown()}" for c in step.commands), sep="\n")
        return 0
    if machine.missing:
        return 2
    given.out.mkdir(parents=True, exist_ok=True)
    (ROOT / PROGRAMS).mkdir(parents=True, exist_ok=True)
    environment.write(given.out, ROOT, machine, arguments)
    results = run_all(steps, given.skip, given.minutes * 60, given.out)
    text = final_table(results, given.out)
    (given.out / TABLE_FILE).write_text(text + "\n", encoding="utf-8")
    print(f"\n{text}\n\nall numbers: {given.out}", flush=True)
    return 0 if all(result.status in ("ok", "skipped") for result in results) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
