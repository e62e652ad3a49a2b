"""PAROAttention in ONNX Runtime: the native op against the sparse function body, per call.

    python samples/benchmarks/onnxruntime_op.py --tokens 2048 8192

One node a file, its plan tensors constant; both are verified against each other, then timed in
turns.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass

import numpy as np
import onnxruntime
import torch
from onnx import TensorProto, helper, numpy_helper

from paro_trt.bench.case import OpCase, random_inputs
from paro_trt.bench.timing import HostClock, Rounds, processor_speedup, speedup, time_in_turns
from paro_trt.onnx_export import Body
from paro_trt.onnx_export.bodies import attention_function
from paro_trt.op import native
from paro_trt.op.spec import DOMAIN, INPUTS, OP_TYPE, AttentionConfig, AttentionInputs
from paro_trt.runtime.custom_op import register_custom_op

OPSET = 20
FED = ("query", "key", "value")
LARGEST_DIFFERENCE = 2e-3
"""Relative L2 between the two: codes on an edge of rounding may differ."""

BODY, OP, DIRECT = "function body", "native op", "C ABI from Python"


@dataclass(frozen=True)
class Shape:
    """What one table row is measured at."""

    tokens: int
    bits: int
    heads: int = 4
    head_dim: int = 64
    density: float = 0.25

    @property
    def case(self) -> OpCase:
        """Inputs of this shape; block sizes are the exporter's defaults."""
        sizes = {"heads": self.heads, "kv_heads": self.heads, "head_dim": self.head_dim}
        case = OpCase("bench", self.tokens, density=self.density, config=AttentionConfig(), **sizes)
        return case.with_bits(self.bits, self.bits, pool_dropped=False)


def one_node_model(inputs: AttentionInputs, config: AttentionConfig) -> bytes:
    """An ONNX file with query, key and value as inputs, and the function body."""
    values = inputs._asdict()
    infos = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, list(values[name].shape))
        for name in FED
    ]
    output = helper.make_tensor_value_info("output", TensorProto.FLOAT, list(inputs.query.shape))
    constants = [
        numpy_helper.from_array(tensor.numpy(), name)
        for name, tensor in values.items()
        if name not in FED
    ]
    node = helper.make_node(
        OP_TYPE, [entry.name for entry in INPUTS], ["output"], domain=DOMAIN,
        scale=config.scale, block_q=config.block_q, block_k=config.block_k,
        qk_bits=config.qk_bits, pv_bits=config.pv_bits, pool_dropped=int(config.pool_dropped),
        plugin_version="1", plugin_namespace="",
    )  # fmt: skip
    model = helper.make_model(
        helper.make_graph([node], "one", infos, [output], constants),
        opset_imports=[helper.make_opsetid("", OPSET), helper.make_opsetid(DOMAIN, 1)],
        functions=[attention_function(Body.SPARSE, OPSET)],
        ir_version=10,
    )
    return model.SerializeToString()


def session_of(model: bytes, threads: int, *, native_op: bool) -> onnxruntime.InferenceSession:
    """Neither spins: idle workers of one session would take cores from the other's turn."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    if native_op:
        register_custom_op(options, threads)
    else:
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])


def verify(outputs: dict[str, np.ndarray]) -> None:
    """Raise ValueError unless all outputs agree with the function body's."""
    expected = outputs[BODY].astype(np.float64)
    for name, output in outputs.items():
        difference = np.linalg.norm(output - expected) / np.linalg.norm(expected)
        if not difference < LARGEST_DIFFERENCE:
            raise ValueError(f"{name} differs from the {BODY} by {difference:.2e}")


def measure(shape: Shape, threads: int, rounds: int) -> str:
    """One row of the table."""
    inputs = random_inputs(shape.case, seed=0)
    model = one_node_model(inputs, shape.case.config)
    feed = {name: getattr(inputs, name).numpy() for name in FED}
    sessions = {
        BODY: session_of(model, threads, native_op=False),
        OP: session_of(model, threads, native_op=True),
    }
    library = native.load_library(native.library_path("cpu"))
    runs = {name: lambda _, s=session: s.run(None, feed)[0] for name, session in sessions.items()}
    runs[DIRECT] = lambda _: library.forward(inputs, shape.case.config, threads).numpy()
    verify({name: run(0) for name, run in runs.items()})
    timings = time_in_turns(runs, HostClock(), Rounds(rounds))
    body = timings[BODY]
    ratios = " | ".join(
        f"{speedup(body, timings[name]):.2f} ({processor_speedup(body, timings[name]):.2f})"
        for name in (OP, DIRECT)
    )
    return (
        f"| {shape.tokens} | {shape.bits} | {ratios} | {body.spread:.0%}, "
        f"{timings[OP].spread:.0%} |"
    )


def main() -> None:
    """Print a table of ratios."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tokens", type=int, nargs="+", default=[2048, 8192])
    parser.add_argument("--bits", type=int, nargs="+", default=[16, 8])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=15)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    print(f"times as fast as the {BODY} (by processor time), {arguments.threads} threads:")
    print(f"| tokens | bits | {OP} | {DIRECT} | spread of body, op |")
    print("|---|---|---|---|---|")
    for tokens in arguments.tokens:
        for bits in arguments.bits:
            print(measure(Shape(tokens, bits), arguments.threads, arguments.rounds), flush=True)


if __name__ == "__main__":
    main()
