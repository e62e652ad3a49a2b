"""Writes a model and its plan as one ONNX file."""

from __future__ import annotations

import ast
from collections.abc import Callable, Sequence
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from .. import __version__
from ..errors import ArgumentError
from ..onnx_file.info import ExportInfo
from ..onnx_file.read import Body
from ..op.spec import DOMAIN, OP_TYPE
from .bodies import Features, attention_function
from .check import ExportReport, check_export
from .publish import publish, save, staging_directory
from .shared import SharedWeights
from .versions import settle_version

if TYPE_CHECKING:
    import torch

    from ..models.load import LoadedModel
    from ..plan import ParoPlan

OPSETS = range(18, 26)
"""Versions of the standard operators with which export, check and ONNX Runtime all work."""

DEFAULT_OPSET, BFLOAT16_OPSET = 20, 22
"""What every parser from TensorRT 10.0 on reads. Before 22 bfloat16 convolutions are invalid; from
23 on there is RMSNormalization, which parsers have since 10.15 only."""

EXTERNAL_DATA_ABOVE = 1_500_000_000
"""From this size in bytes, weights get a file of their own: protobuf's limit is 2 GiB."""

_MODULES, _LAYERS = "pkg.torch.onnx.name_scopes", "layers."


def export_onnx(
    loaded: LoadedModel,
    plan: ParoPlan,
    path: str | PathLike[str],
    *,
    body: Body = Body.SPARSE,
    dense_baseline: bool = False,
    opset: int | None = None,
    external_data: bool | None = None,
    progress: Callable[[str], None] | None = None,
) -> ExportReport:
    """Write a model with PAROAttention in its visual self-attentions, and check what was written.

    Inputs of the file: `hidden_states` [B, ...], `timestep` FLOAT [B], the family's conditioning
    inputs, `mask_bin` INT32 [B]; output: `sample`, and any others the family has. The batch is
    free, the grid is the plan's. Floating-point inputs are of the loaded model's type.

    Args:
        loaded: the model; its dtype is the file's.
        plan: made for this model.
        path: of the file; replaced only once the new file is whole and checked.
        body: what the file carries to run without the plugin.
        dense_baseline: export the model as it is, for comparison; the plan gives the grid.
        opset: version of the standard operators; None is 20, or 22 for bfloat16.
        external_data: weights in `path` + ".data"; None: when they exceed 1.5 GB.
        progress: told what happens next.

    Raises:
        ModelError: the plan is of another model, or its grid does not fit.
        ArgumentError: opset is out of range.
        OnnxFileError: what was written does not match the plan.
        ParoError: the file cannot be written.
    """
    path = Path(path)
    options = _Options(body, dense_baseline, _checked_opset(opset, loaded), progress)
    _refuse_directory(path)
    with staging_directory(path) as staging:
        model = _prepared(loaded, plan, options)
        if external_data is None:
            external_data = _weight_bytes(model) > EXTERNAL_DATA_ABOVE
        options.say("writing")
        staged = staging / path.name
        save(model, staged, external_data=external_data)
        options.say("checking what was written")
        report = check_export(staged, None if dense_baseline else plan, body)
        publish(staging, path.parent)
    return report.at(path)


def export_resolutions(
    loaded: LoadedModel,
    plans: Sequence[ParoPlan],
    path: str | PathLike[str],
    *,
    body: Body = Body.SPARSE,
    dense_baseline: bool = False,
    opset: int | None = None,
    progress: Callable[[str], None] | None = None,
) -> tuple[ExportReport, ...]:
    """One file for each plan, of one resolution each, all sharing the weights in `path` + ".data".

    The files are named after `path` and the plan's token grid: wan.onnx becomes
    wan-21x30x52.onnx. Arguments and errors are those of `export_onnx`; all files appear, or none.

    Raises:
        ArgumentError: two plans are of one grid.
    """
    from ..models.apply import check_plan_fits

    path = Path(path)
    options = _Options(body, dense_baseline, _checked_opset(opset, loaded), progress)
    targets = [_named_after_grid(path, plan) for plan in plans]
    if len(set(targets)) != len(targets):
        raise ArgumentError(
            "plans", expected="one of each resolution", actual=f"{', '.join(map(str, targets))}"
        )
    for plan, target in zip(plans, targets, strict=True):
        _refuse_directory(target)
        check_plan_fits(loaded.identity, loaded.config, loaded.family, plan)
    reports = []
    with staging_directory(path) as staging:
        weights = SharedWeights(staging, path.name)
        for plan, target in zip(plans, targets, strict=True):
            model = _prepared(loaded, plan, options)
            options.say(f"writing {target.name}")
            weights.take(model)
            save(model, staging / target.name, external_data=False)
        options.say("checking what was written")
        for plan, target in zip(plans, targets, strict=True):
            staged = staging / target.name
            report = check_export(staged, None if dense_baseline else plan, body)
            reports.append(report.at(target))
        publish(staging, path.parent)
    return tuple(reports)


class _Options(NamedTuple):
    body: Body
    dense: bool
    opset: int
    progress: Callable[[str], None] | None

    def say(self, message: str) -> None:
        if self.progress is not None:
            self.progress(message)


def _prepared(loaded: LoadedModel, plan: ParoPlan, options: _Options) -> Any:
    """The whole model in memory, ready to be saved."""
    options.say("tracing the model")
    model = _traced(loaded, plan, options.opset, options.dense)
    _describe(model, loaded, None if options.dense else plan, plan)
    if not options.dense:
        _name_nodes(model, [site.name for site in loaded.family.sites(loaded.config)])
        _attach(model, options.body, settle_version(model))
    _drop_traces(model)
    return model


def _named_after_grid(path: Path, plan: ParoPlan) -> Path:
    grid = plan.grid
    return path.with_stem(f"{path.stem}-{grid.frames}x{grid.height}x{grid.width}")


def _refuse_directory(path: Path) -> None:
    if path.is_dir():
        raise ArgumentError(str(path), expected="a file name", actual="a directory")


def _checked_opset(opset: int | None, loaded: LoadedModel) -> int:
    import torch

    lowest = BFLOAT16_OPSET if loaded.dtype is torch.bfloat16 else OPSETS[0]
    if opset is None:
        return max(DEFAULT_OPSET, lowest)
    if opset not in OPSETS or opset < lowest:
        raise ArgumentError(
            "opset",
            expected=f"{lowest} to {OPSETS[-1]} for {str(loaded.dtype).removeprefix('torch.')}",
            actual=str(opset),
        )
    return opset


def _traced(loaded: LoadedModel, plan: ParoPlan, opset: int, dense_baseline: bool) -> Any:
    from ..models.apply import ParoTransformer, check_plan_fits, geometry_of
    from .trace import DenseTransformer, trace

    module: torch.nn.Module
    if dense_baseline:
        check_plan_fits(loaded.identity, loaded.config, loaded.family, plan)
        module = DenseTransformer(loaded, geometry_of(plan))
    else:
        module = ParoTransformer(loaded.model, loaded.family, plan, identity=loaded.identity)
    return trace(module, loaded, geometry_of(plan), opset)


def _describe(model: Any, loaded: LoadedModel, applied: ParoPlan | None, plan: ParoPlan) -> None:
    """The file's metadata about its origin."""
    info = ExportInfo(
        loaded.identity,
        plan.grid,
        applied.content_hash() if applied else None,
        applied.bin_boundaries if applied else None,
        plan.text,
        loaded.family.frame_rate(loaded.config),
    )
    model.metadata_props.clear()
    model.metadata_props.update(info.to_metadata())
    model.producer_name, model.producer_version = "paro-trt", __version__


def _name_nodes(model: Any, site_names: list[str]) -> None:
    """Name each PAROAttention node after its layer.

    The tracer records the modules that a node came from. PlannedAttention number i of
    ParoTransformer's `layers` belongs to site i.
    """
    for node in model.graph:
        if (node.domain, node.op_type) == (DOMAIN, OP_TYPE):
            modules = ast.literal_eval(node.metadata_props[_MODULES])
            layers = [name for name in modules if name.startswith(_LAYERS)]
            node.name = f"{site_names[int(layers[-1].removeprefix(_LAYERS))]}/{OP_TYPE}"


def _drop_traces(model: Any) -> None:
    """Remove the tracer's records, which contain this machine's paths and lines of source."""
    for node in model.graph.all_nodes():
        node.metadata_props.clear()
        for value in node.outputs:
            value.metadata_props.clear()
    model.graph.metadata_props.clear()


def _attach(model: Any, body: Body, features: Features) -> None:
    """Add the op's function to the file. This runs last, because exporter and optimizer inline
    functions."""
    import onnx_ir

    model.opset_imports[DOMAIN] = features.version
    if body is Body.NONE:
        return
    proto = attention_function(body, model.opset_imports[""], features)
    function = onnx_ir.serde.deserialize_function(proto)
    model.functions[function.identifier()] = function


def _weight_bytes(model: Any) -> int:
    tensors = (value.const_value for value in model.graph.initializers.values())
    return sum(tensor.nbytes for tensor in tensors if tensor is not None)
