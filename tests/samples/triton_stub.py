"""A stub of Triton Inference Server: its protocol and its checks of requests, one small model.

    python triton_stub.py config.pbtxt      prints the port, then serves until it is killed

velocity = latents / 2 + timestep / 1000 + bin + mean(text), a float16 sample each.
"""

import sys
from concurrent import futures

import grpc
import numpy as np
from google.protobuf import text_format
from tritonclient.grpc import model_config_pb2, service_pb2, service_pb2_grpc

DTYPES = {"FP16": np.float16, "FP32": np.float32, "INT32": np.int32}


class Server(service_pb2_grpc.GRPCInferenceServiceServicer):
    """Answers what the client asks."""

    def __init__(self, config):
        self.config = config
        self.inputs = {entry.name: entry for entry in config.input}

    def ModelConfig(self, request, context):  # noqa: N802 (the protocol's name)
        self.check(context, request.name == self.config.name, f"unknown model {request.name}")
        return service_pb2.ModelConfigResponse(config=self.config)

    def ModelInfer(self, request, context):  # noqa: N802
        arrays = {
            entry.name: self.read(context, entry, raw)
            for entry, raw in zip(request.inputs, request.raw_input_contents, strict=True)
        }
        self.check(context, set(arrays) == set(self.inputs), f"expected {list(self.inputs)}")
        batches = {len(array) for array in arrays.values()}
        self.check(context, max(batches) <= self.config.max_batch_size, "batch too large")
        self.check(context, len(batches) == 1, "batches differ")
        scalars = arrays["timestep"] / 1000 + arrays["mask_bin"]
        offset = scalars[:, 0] + arrays["encoder_hidden_states"].astype(np.float32).mean((1, 2))
        velocity = (
            arrays["hidden_states"] / 2 + offset.astype(np.float16)[:, None, None, None, None]
        )
        response = service_pb2.ModelInferResponse(model_name=request.model_name)
        response.outputs.add(name="sample", datatype="FP16", shape=velocity.shape)
        response.raw_output_contents.append(velocity.astype(np.float16).tobytes())
        return response

    def read(self, context, entry, raw):
        """An input, checked against the configuration as the server does."""
        self.check(context, entry.name in self.inputs, f"unexpected input {entry.name}")
        spec = self.inputs[entry.name]
        kind = model_config_pb2.DataType.Name(spec.data_type).removeprefix("TYPE_")
        self.check(context, entry.datatype == kind, f"{entry.name}: expected {kind}")
        sizes = list(entry.shape)[1:]
        fits = len(sizes) == len(spec.dims) and all(
            wanted in (-1, size) for size, wanted in zip(sizes, spec.dims, strict=True)
        )
        self.check(context, fits, f"{entry.name}: unexpected shape {list(entry.shape)}")
        return np.frombuffer(raw, DTYPES[kind]).reshape(entry.shape)

    @staticmethod
    def check(context, holds, message):
        """End the call with the message."""
        if not holds:
            context.abort(grpc.StatusCode.INVALID_ARGUMENT, message)


def main():
    """Serve."""
    with open(sys.argv[1]) as file:
        config = text_format.Parse(file.read(), model_config_pb2.ModelConfig())
    server = grpc.server(futures.ThreadPoolExecutor(4))
    service_pb2_grpc.add_GRPCInferenceServiceServicer_to_server(Server(config), server)
    print(server.add_insecure_port("127.0.0.1:0"), flush=True)
    server.start()
    server.wait_for_termination()


if __name__ == "__main__":
    main()
