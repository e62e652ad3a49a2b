"""What a manifest says, by name and in words: for `inspect`, `build`, `doctor` and `report`."""

from __future__ import annotations

from collections.abc import Mapping

from .gpu_memory import fits
from .manifest import EngineManifest, MemoryRecord, RefitRecord


def summary(manifest: EngineManifest) -> Mapping[str, object]:
    """The facts that `paro-trt inspect` shows, by name."""
    plugin, onnx, gpu, info = manifest.plugin, manifest.onnx, manifest.gpu, manifest.info
    how = f"{plugin.name} ({plugin.file})" if plugin else "the function in the file, no plugin"
    return {
        "made by": manifest.made_by,
        "runs in": f"{manifest.tensorrt.flavour.label} {manifest.tensorrt.version}",
        "on": f"SM {gpu.sm}" + (f" ({gpu.name})" if gpu.name else ""),
        "model": info.model.class_name,
        "plan": info.plan_hash or "none: dense",
        "bins": len(info.bin_boundaries or ()) + 1,
        "from": f"{onnx.file} ({onnx.sha256[:16]})",
        "PAROAttention": f"{onnx.attention} layers by {how}" if onnx.attention else "none",
        **_profile_facts(manifest),
        "weight streaming": "yes" if manifest.tensorrt.weight_streaming else "no",
        **_refit_facts(manifest.refit),
        **memory_facts(manifest.memory),
    }


def _profile_facts(manifest: EngineManifest) -> Mapping[str, object]:
    profiles = [str(profile) for profile in manifest.profiles]
    return {"batches": "; ".join(profiles)} if profiles else {}


def _refit_facts(refit: RefitRecord | None) -> Mapping[str, object]:
    if refit is None:
        return {}
    made = f"; now {refit.made_from}" if refit.made_from else ""
    return {"refit": f"{len(refit.weights)} weights of linear layers{made}"}


def memory_facts(memory: MemoryRecord | None) -> Mapping[str, object]:
    """What an engine takes and which GPUs hold it, in words."""
    if memory is None:
        return {}
    parts = {
        "weights": memory.weights,
        "activations": memory.activations,
        "of them plugin workspace": memory.plugin_workspace,
    }
    known = [f"{name} {size / 1e9:.2f} GB" for name, size in parts.items() if size is not None]
    facts = {"memory": ", ".join(known) or "unknown: TensorRT's log does not say"}
    return facts | ({} if memory.total is None else {"fits": fits(memory.total)})
