"""The CUDA kernels on a GPU against the reference: same case table and tolerance as emulated."""

from __future__ import annotations

import math
import threading
from dataclasses import replace

import pytest
import torch

from paro_trt.errors import ArgumentError, BackendUnavailableError
from paro_trt.op import native
from paro_trt.op.api import paro_attention
from paro_trt.op.c_abi import WORKSPACE_ALIGNMENT, attention_call, launch_on
from paro_trt.op.reference import paro_attention_reference
from paro_trt.op.spec import AttentionConfig
from tests.support.cases import BIT_PAIRS, CASES, OpCase, random_inputs
from tests.support.numerics import compare

from .gpu_runs import GENERATIONS, forward, to_gpu

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU that torch can use"),
]

SMALL = OpCase("small", 300, batch=2, heads=4, kv_heads=2, bins=2, dtype=torch.float16)
INT8 = SMALL.with_bits(8, 8, True)
DTYPES = [torch.float16, torch.bfloat16]
SIZES = [(64, 64), (64, 128), (128, 64), (128, 128)]


@pytest.fixture(scope="module")
def library() -> native.NativeLibrary:
    try:
        return native.load_library(native.library_path("attention"))
    except BackendUnavailableError as error:
        pytest.skip(f"{error}")


@pytest.fixture(params=GENERATIONS)
def sm(request) -> int:
    """Every kernel that this GPU can run: the chosen ones, and mma.sync kernels on Hopper too."""
    if request.param != "chosen" and torch.cuda.get_device_capability() != (9, 0):
        pytest.skip("this GPU gets the mma.sync kernels anyway")
    return GENERATIONS[request.param]


@pytest.mark.parametrize("case", CASES, ids=lambda c: c.name)
@pytest.mark.parametrize("bits", [(16, 16), (8, 8), (4, 4)], ids=lambda b: f"qk{b[0]}-pv{b[1]}")
@pytest.mark.parametrize("pool", [False, True], ids=["dropped", "pooled"])
def test_every_case_equals_the_reference(case, bits, pool, sm, library, fresh_seed):
    for dtype in DTYPES:
        typed = replace(case, dtype=dtype).with_bits(*bits, pool)
        inputs = random_inputs(typed, fresh_seed)
        result = compare(forward(library, inputs, typed.config, sm), inputs, typed.config)
        assert result.ok, (dtype, result)


@pytest.mark.parametrize("bits", BIT_PAIRS, ids=lambda b: f"qk{b[0]}-pv{b[1]}")
@pytest.mark.parametrize("head_dim", [64, 128])
@pytest.mark.parametrize("blocks", SIZES, ids=lambda b: f"q{b[0]}-k{b[1]}")
def test_every_kernel_equals_the_reference(bits, head_dim, blocks, sm, library, fresh_seed):
    case = replace(SMALL, head_dim=head_dim, key_length=(300, 171))
    case = replace(case, config=AttentionConfig(*blocks)).with_bits(*bits, True)
    for dtype in DTYPES:
        inputs = random_inputs(replace(case, dtype=dtype), fresh_seed)
        result = compare(forward(library, inputs, case.config, sm), inputs, case.config)
        assert result.ok, (dtype, result)


@pytest.mark.parametrize("bits", [(16, 16), (8, 8), (8, 16), (4, 4)])
@pytest.mark.parametrize("head_dim", [64, 128])
def test_thousands_of_tokens(bits, head_dim, sm, library, fresh_seed):
    case = OpCase("long", 4608, head_dim=head_dim, density=0.25, dtype=torch.bfloat16)
    case = case.with_bits(*bits, True)
    inputs = random_inputs(case, fresh_seed)
    result = compare(forward(library, inputs, case.config, sm), inputs, case.config)
    assert result.ok, result


@pytest.mark.parametrize("head_dim", [64, 128])
@pytest.mark.parametrize("block_k", [64, 128])
def test_a_video_of_true_length(head_dim, block_k, sm, library, fresh_seed):
    """17,776 tokens, ragged in both blocks, grouped queries, reordered, the longest lists."""
    sizes = {"heads": 2, "kv_heads": 1, "head_dim": head_dim, "density": 0.3}
    case = OpCase("video", 17776, **sizes, config=AttentionConfig(128, block_k))
    case = replace(case, dtype=torch.bfloat16).with_bits(8, 8, True)
    inputs = random_inputs(case, fresh_seed)
    result = compare(forward(library, inputs, case.config, sm), inputs, case.config)
    assert result.ok, result


@pytest.mark.parametrize("bits", [(16, 16), (8, 8), (4, 4), (16, 8), (8, 16)])
@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("where", ["query", "key", "value"])
def test_non_finite_values_stay_where_the_reference_has_them(
    where, bad, bits, sm, library, fresh_seed
):
    case = OpCase("poison", 200, dtype=torch.float16, config=AttentionConfig(64, 64))
    case = case.with_bits(*bits, True)
    inputs = random_inputs(case, fresh_seed)
    tensor = getattr(inputs, where).clone()
    tensor[0, 77, 1, 9] = bad
    inputs = inputs._replace(**{where: tensor})
    reference = paro_attention_reference(inputs, case.config)
    output = forward(library, inputs, case.config, sm)
    assert torch.equal(output.isfinite(), reference.isfinite())


@pytest.mark.parametrize("bits", [(16, 16), (8, 8), (4, 4)])
def test_every_run_gives_the_same_bits(bits, sm, library, fresh_seed):
    case = OpCase("repeated", 2048, heads=4, kv_heads=4, dtype=torch.float16)
    case = case.with_bits(*bits, True)
    inputs = random_inputs(case, fresh_seed)
    expected = forward(library, inputs, case.config, sm)
    for _ in range(20):
        assert torch.equal(forward(library, inputs, case.config, sm), expected)


def test_heads_in_groups_give_the_same_bits(sm, library, fresh_seed):
    inputs = random_inputs(INT8, fresh_seed)
    whole = library.workspace_bytes(to_gpu(inputs), INT8.config)
    output = forward(library, inputs, INT8.config, sm, max_workspace=whole // 2)
    assert torch.equal(output, forward(library, inputs, INT8.config, sm))


@pytest.mark.parametrize("name", ["token_order", "head_order", "tile_order", "mask_bin"])
@pytest.mark.parametrize("value", [-(2**31), 2**31 - 1])
def test_indices_out_of_range_are_clamped(name, value, sm, library, fresh_seed):
    inputs = random_inputs(INT8, fresh_seed)
    inputs = inputs._replace(**{name: torch.full_like(getattr(inputs, name), value)})
    assert forward(library, inputs, INT8.config, sm).shape == inputs.query.shape
    healthy = random_inputs(INT8, fresh_seed)
    result = compare(forward(library, healthy, INT8.config, sm), healthy, INT8.config)
    assert result.ok, result


def test_public_call_and_torch_op(library, fresh_seed):
    inputs = random_inputs(INT8, fresh_seed)
    expected = forward(library, inputs, INT8.config)
    placed, config = to_gpu(inputs), INT8.config
    public = paro_attention(*placed, **config.keywords(), impl="cuda")
    assert public.device == placed.query.device
    assert torch.equal(public.cpu(), expected)
    words = (0.0, config.block_q, config.block_k, 8, 8, 1, "cuda")
    assert torch.equal(torch.ops.paro.attention(*placed, *words).cpu(), expected)


@pytest.mark.usefixtures("library")
def test_tensors_elsewhere_and_strided_ones_are_refused_by_name(fresh_seed):
    inputs = random_inputs(INT8, fresh_seed)
    placed, config = to_gpu(inputs), INT8.config.keywords()
    with pytest.raises(BackendUnavailableError, match=r"^block_mask: expected a CUDA tensor"):
        paro_attention(*placed._replace(block_mask=inputs.block_mask), **config, impl="cuda")
    strided = placed.key.transpose(1, 2).contiguous().transpose(1, 2)
    with pytest.raises(ArgumentError, match=r"^key: expected a contiguous tensor"):
        paro_attention(*placed._replace(key=strided), **config, impl="cuda")
    with pytest.raises(BackendUnavailableError, match=r"^query: expected a CPU tensor"):
        paro_attention(*placed, **config, impl="cpu")


def test_misaligned_rows_and_float32_are_refused(library, fresh_seed):
    placed = to_gpu(random_inputs(INT8, fresh_seed))
    buffer = torch.empty(placed.query.numel() + 1, dtype=torch.float16, device="cuda")
    shifted = buffer[1:].view(placed.query.shape)
    with pytest.raises(native.NativeError, match="query: expected alignment to 16 bytes"):
        library.forward(placed._replace(query=shifted), INT8.config)
    case = replace(INT8, dtype=torch.float32)
    with pytest.raises(BackendUnavailableError, match="expected float16 or bfloat16"):
        library.forward(to_gpu(random_inputs(case, fresh_seed)), case.config)


def test_description_is_of_this_gpu(library, fresh_seed):
    major, minor = torch.cuda.get_device_capability()
    assert f"sm_{major}{minor}" in library.describe(
        to_gpu(random_inputs(INT8, fresh_seed)), INT8.config
    )


def test_work_is_ordered_by_the_current_stream(library, fresh_seed):
    """Inputs arrive late in a side stream, so a kernel in another stream would read zeros."""
    inputs = random_inputs(INT8, fresh_seed)
    expected = forward(library, inputs, INT8.config)
    placed = to_gpu(inputs)
    late = placed._replace(query=torch.zeros_like(placed.query), key=torch.zeros_like(placed.key))
    torch.cuda.synchronize()
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        library.forward(placed, INT8.config)  # what it allocates is there to be reused below
        torch.cuda._sleep(200_000_000)  # clock cycles, about 0.1 s
        late.query.copy_(placed.query)
        late.key.copy_(placed.key)
        output = library.forward(late, INT8.config)
        assert not stream.query(), "forward waited for the GPU"
    stream.synchronize()
    assert torch.equal(output.cpu(), expected)


def test_forward_is_captured_and_allocates_nothing(library, fresh_seed):
    first, second = (random_inputs(INT8, fresh_seed + i) for i in range(2))
    expected = [forward(library, inputs, INT8.config) for inputs in (first, second)]
    placed = to_gpu(first)
    output = torch.empty_like(placed.query)
    size = library.workspace_bytes(placed, INT8.config)
    workspace = torch.empty(size, dtype=torch.uint8, device="cuda")
    assert workspace.data_ptr() % WORKSPACE_ALIGNMENT == 0
    call = attention_call(placed, INT8.config, output)

    def run() -> None:
        library.forward_raw(call, launch_on(placed.query.device), workspace.data_ptr(), size)

    run()
    torch.cuda.synchronize()
    free, _ = torch.cuda.mem_get_info()
    for _ in range(100):
        run()
    torch.cuda.synchronize()
    assert torch.cuda.mem_get_info()[0] == free
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        run()
    for inputs, wanted in zip((first, second), expected, strict=True):
        for target, source in zip(
            placed.named_tensors().values(), inputs.named_tensors().values(), strict=True
        ):
            target.copy_(source)
        output.fill_(math.nan)
        graph.replay()
        torch.cuda.synchronize()
        assert torch.equal(output.cpu(), wanted)


def test_threads_with_streams_of_their_own(library, fresh_seed):
    inputs = [random_inputs(INT8, fresh_seed + i) for i in range(4)]
    expected = [forward(library, x, INT8.config) for x in inputs]
    results: dict[int, list[torch.Tensor]] = {}

    def work(index: int) -> None:
        placed = to_gpu(inputs[index])
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.default_stream())
        with torch.cuda.stream(stream):
            outputs = [library.forward(placed, INT8.config) for _ in range(25)]
        stream.synchronize()
        results[index] = [output.cpu() for output in outputs]

    threads = [threading.Thread(target=work, args=(i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(results) == [0, 1, 2, 3]
    for index, outputs in results.items():
        assert all(torch.equal(output, expected[index]) for output in outputs)


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two GPUs")
def test_a_second_gpu_computes_where_its_tensors_are(library, fresh_seed):
    inputs = random_inputs(INT8, fresh_seed)
    expected = forward(library, inputs, INT8.config)
    first, second = to_gpu(inputs), to_gpu(inputs, 1)
    config = INT8.config.keywords()
    output = paro_attention(*second, **config, impl="cuda")
    assert output.device == second.query.device
    assert torch.cuda.current_device() == 0
    assert torch.equal(output.cpu(), expected)
    with pytest.raises(ArgumentError, match=r"^value: expected a tensor on cuda:0, as query"):
        paro_attention(*first._replace(value=second.value), **config, impl="cuda")
