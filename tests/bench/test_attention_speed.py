"""The attention benchmark's contenders as pytest-benchmark cases, verified before they are timed.

    pytest -m long -n 0 tests/bench/test_attention_speed.py --benchmark-group-by=group

`paro-trt bench` times the same contenders in turns, which a busy machine disturbs less.
"""

from __future__ import annotations

import pytest
import torch

from paro_trt.bench.contenders import Entry, Workload, make_entries

pytest.importorskip("pytest_benchmark", reason="needs pytest-benchmark")

pytestmark = pytest.mark.long

WORKLOADS = tuple(
    Workload(tokens, head_dim, threads=threads, densities=(1.0, 0.25))
    for tokens in (2048, 8192)
    for head_dim in (64, 128)
    for threads in (1, 2)
)
DENSE = ("torch SDPA f32", "torch SDPA bf16", "ONNX Runtime MHA f32")
SPARSE = ("PARO CPU f32", "PARO CPU bf16", "PARO CPU int8")
CONTENDERS = (*((name, 1.0) for name in DENSE + SPARSE), *((name, 0.25) for name in SPARSE))


def workload_name(workload: Workload) -> str:
    return f"{workload.tokens}x{workload.head_dim}-{workload.threads}-threads"


@pytest.fixture(scope="module", params=WORKLOADS, ids=workload_name)
def workload(request):
    before = torch.get_num_threads()
    torch.set_num_threads(request.param.threads)
    yield request.param
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def entries(workload) -> list[Entry]:
    return make_entries(workload, flex=False, onnxruntime=True)


@pytest.mark.parametrize(("contender", "density"), CONTENDERS)
def test_speed(contender, density, workload, entries, benchmark):
    (entry,) = (e for e in entries if e.name == contender and abs(e.density - density) < 0.01)
    entry.verify(entry.run())
    benchmark.group = workload_name(workload)
    benchmark.extra_info["density"] = entry.density
    benchmark.pedantic(entry.run, rounds=5, warmup_rounds=1)
