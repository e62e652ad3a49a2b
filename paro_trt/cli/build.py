"""`paro-trt build`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ..errors import ArgumentError
from . import output
from .choices import TensorRtName
from .paths import ForceOption, Kind, check_output, require_file

if TYPE_CHECKING:
    from ..engine.build import BuildReport
    from ..engine.manifest import MemoryRecord
    from ..engine.settings import BuildSettings, SizeRange

MEBIBYTE = 1 << 20


def build(
    model: Annotated[Path, typer.Argument(metavar="OUT.onnx", help="An exported model.")],
    target: Annotated[Path, typer.Option("-o", "--output", help="The engine file to write.")],
    batch: Annotated[
        list[str] | None,
        typer.Option(
            metavar="MIN,OPT,MAX",
            help="Batch sizes the engine takes. Repeated: a profile each, tuned for its OPT. "
            "[default: 1,1,1]",
        ),
    ] = None,
    size: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME=MIN,OPT,MAX", help="Another free size, such as L=1,512,512."),
    ] = None,
    level: Annotated[int | None, typer.Option(help="Builder optimization level, 0 to 5.")] = None,
    workspace: Annotated[
        int | None, typer.Option(min=1, help="MiB of device memory that layers may use.")
    ] = None,
    max_workspace: Annotated[
        int | None,
        typer.Option(
            min=1, help="MiB of workspace a PAROAttention layer may take: heads in groups."
        ),
    ] = None,
    max_aux_streams: Annotated[
        int | None, typer.Option(help="Streams in addition to the main one.")
    ] = None,
    weight_streaming: Annotated[
        bool, typer.Option("--weight-streaming", help="Weights may stay in host memory.")
    ] = False,
    refit: Annotated[
        bool, typer.Option("--refit", help="Weights of linear layers can be replaced: refit.")
    ] = False,
    profiling: Annotated[
        bool, typer.Option("--profiling", help="Layers keep details for profilers.")
    ] = False,
    dense: Annotated[
        bool, typer.Option("--dense", help="The file is a baseline without PAROAttention.")
    ] = False,
    tensorrt: Annotated[
        TensorRtName,
        typer.Option(help="tensorrt_rtx, of pip alone, builds for GPUs that need not be here."),
    ] = "tensorrt",
    sm: Annotated[
        int | None, typer.Option(help="tensorrt_rtx: GPU to build for, such as 89 or 120.")
    ] = None,
    function_body: Annotated[
        bool,
        typer.Option(
            "--function-body",
            help="tensorrt_rtx: the dense function in the file computes PAROAttention, no plugin.",
        ),
    ] = False,
    timing_cache: Annotated[
        Path | None, typer.Option(help="File of measured kernel times, read and written.")
    ] = None,
    cache: Annotated[
        Path | None, typer.Option(help="Directory of engines of earlier builds.")
    ] = None,
    adopt: Annotated[
        bool,
        typer.Option("--adopt", help="OUT.engine was built by trtexec: write its manifest."),
    ] = False,
    print_trtexec: Annotated[
        bool,
        typer.Option("--print-trtexec", help="Print the equal trtexec command; build nothing."),
    ] = False,
    force: ForceOption = False,
    as_json: output.JsonOption = False,
) -> None:
    """Build a TensorRT engine from an exported model, with a manifest next to it."""
    require_file(model, "an exported ONNX model")
    kept = adopt or print_trtexec
    check_output(target, Kind.ENGINE, force=force or kept, reads=(model,))

    from ..engine import BuildSettings, Flavour

    settings = BuildSettings(
        flavour=Flavour(tensorrt),
        sizes={"B": _batches(batch or ["1,1,1"]), **_sizes(size or [])},
        builder_level=level,
        workspace=workspace and workspace * MEBIBYTE,
        max_aux_streams=max_aux_streams,
        weight_streaming=weight_streaming,
        refit=refit,
        profiling=profiling,
        target=sm,
        function_body=function_body,
        max_workspace=max_workspace and max_workspace * MEBIBYTE,
    )
    if print_trtexec:
        typer.echo(_trtexec(model, target, settings, dense, timing_cache))
        return
    report = _make(model, target, settings, dense, timing_cache, cache, adopt)
    if as_json:
        output.print_json({"file": str(target), "reused": report.reused,
                           "manifest": report.manifest.to_json()})  # fmt: skip
    else:
        _show(report, adopt)


def _make(
    model: Path, target: Path, settings: BuildSettings, dense: bool, timing_cache: Path | None,
    cache: Path | None, adopt: bool,
) -> BuildReport:  # fmt: skip
    from ..engine.build import adopt_engine, build_engine
    from ..engine.cache import EngineCache
    from .build_progress import BuildBars

    if adopt:
        return adopt_engine(model, target, settings, dense=dense)
    with BuildBars() as bars:
        return build_engine(
            model, target, settings, dense=dense, timing_cache=timing_cache,
            cache=EngineCache(cache) if cache is not None else None, progress=bars,
            announce=_announce,
        )  # fmt: skip


def _announce(memory: MemoryRecord) -> None:
    """Say before a build, which may take an hour, what its engine will take."""
    from ..engine.manifest_facts import memory_facts

    facts = ", ".join(f"{name}: {value}" for name, value in memory_facts(memory).items())
    output.remarks().print(f"estimated, not measured: {facts}", markup=False, soft_wrap=True)


def _trtexec(
    model: Path, target: Path, settings: BuildSettings, dense: bool, timing_cache: Path | None
) -> str:
    from ..engine import Flavour
    from ..engine.parser_input import check_plugin_dtypes
    from ..engine.profile import optimization_profiles
    from ..engine.trtexec import as_line, plugin_for_trtexec, trtexec_command
    from ..onnx_file.source import read_source

    if settings.flavour is not Flavour.TENSORRT:
        raise ArgumentError(
            "--print-trtexec",
            expected="a build by tensorrt",
            actual=f"one by {settings.flavour.value}, which trtexec does not do",
        )
    if settings.max_workspace is not None:
        raise ArgumentError(
            "--max-workspace",
            expected="none with --print-trtexec",
            actual="a limit, which only paro-trt build can put into the model that is parsed",
        )
    source = read_source(model, dense=dense)
    check_plugin_dtypes(source)
    words = trtexec_command(
        model, target, optimization_profiles(source.inputs, settings), settings,
        plugin=None if dense else plugin_for_trtexec(), timing_cache=timing_cache,
    )  # fmt: skip
    return as_line(words)


def _show(report: BuildReport, adopted: bool) -> None:
    from ..engine.manifest_facts import summary

    done = "wrote the manifest of" if adopted else "up to date:" if report.reused else "wrote"
    facts = {
        "size": output.file_size(report.manifest.engine.bytes),
        **summary(report.manifest),
        output.NEXT: output.command_line(
            "run", report.path, "--inputs", "IN.safetensors", "-o", "OUT.safetensors"
        ),
    }
    output.print_facts(f"{done} {report.path}", facts)


def _batches(options: list[str]) -> tuple[SizeRange, ...]:
    return tuple(_range("--batch", option) for option in options)


def _sizes(options: list[str]) -> dict[str, SizeRange]:
    sizes = {}
    for option in options:
        name, separator, values = option.partition("=")
        if not separator or not name:
            raise ArgumentError("--size", expected="NAME=MIN,OPT,MAX", actual=repr(option)[:80])
        sizes[name] = _range(f"--size {name}", values)
    return sizes


def _range(option: str, text: str) -> SizeRange:
    from ..engine import SizeRange

    parts = text.split(",")
    if len(parts) != 3 or not all(part.strip().isdecimal() for part in parts):
        raise ArgumentError(
            option, expected="three sizes min,opt,max, such as 1,1,2", actual=repr(text)[:80]
        )
    return SizeRange(*(int(part) for part in parts))
