"""TensorRT's runtime on the fake GPU (fake_cuda.py): the engine's bytes are an ONNX file, or a name, and NumPy or ONNX
Runtime computes where the context is run. It checks what TensorRT asks for: every address set, the engine outliving its
contexts, all in one thread."""

from __future__ import annotations

import json
import types
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from fake_cuda import FakeGpu

from bev_perception.model_spec import ModelSpec

NAMES = {"float32": "FLOAT", "float16": "HALF", "uint8": "UINT8", "int64": "INT64", "int32": "INT32", "int8": "INT8"}
WORDS = {"fp32": "Row major linear FP32", "fp16": "Channel major FP16 format where channel % 8 == 0",
         "int8": "Four wide channel vectorized row major Int8 format"}  # fmt: skip
Kernel = Callable[[Mapping[str, np.ndarray]], Mapping[str, np.ndarray]]


def onnx_kernel(onnx: bytes) -> Kernel:
    import onnxruntime

    session = onnxruntime.InferenceSession(onnx, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    return lambda inputs: dict(zip(names, session.run(None, dict(inputs))))


def inspector_layers(counts: Mapping[str, int], kind: str = "CaskConvolution") -> list[dict[str, Any]]:
    """As many layers of each precision as `counts` says."""
    return [
        {"Name": f"{p}_{i}", "LayerType": kind, "Inputs": [{"Format/Datatype": WORDS[p]}], "Outputs": []}
        for p, n in counts.items()
        for i in range(n)
    ]


class FakeTensorRt(types.SimpleNamespace):
    """layers: what the inspector tells. int64: False for TensorRT 8.6, which has none. context_bytes: what a context
    takes. capturable: whether its work can be in a graph."""

    def __init__(
        self,
        gpu: FakeGpu,
        spec: ModelSpec,
        kernel: Callable[[bytes], Kernel] = onnx_kernel,
        counts: Mapping[str, int] | None = None,
        int64: bool = True,
        context_bytes: int = 1 << 20,
    ) -> None:
        super().__init__(
            __name__="tensorrt",
            __version__="10.3.0",
            LayerInformationFormat=types.SimpleNamespace(JSON="json"),
            TensorIOMode=types.SimpleNamespace(INPUT="input", OUTPUT="output"),
        )
        self.gpu, self.spec, self.kernel, self.context_bytes = gpu, spec, kernel, context_bytes
        self.layers: Any = inspector_layers(counts or {"fp32": 4})
        self.int64 = int64
        self.live: list[str] = []
        trt = self

        class ILogger:
            INTERNAL_ERROR, ERROR, WARNING = range(3)

            def __init__(self) -> None:
                pass

        class Runtime:
            def __init__(self, logger: Any) -> None:
                self.logger = logger

            def deserialize_cuda_engine(self, data: bytes) -> Any:
                gpu.call("deserialize")
                if data == b"damaged":
                    self.logger.log(ILogger.ERROR, "magic tag does not match")
                    return None
                return Engine(trt, data)

        self.ILogger, self.Runtime = ILogger, Runtime


class Engine:
    """The engine, whose memory is given back with its last reference: in the owner's thread, or it is a breach."""

    def __init__(self, trt: FakeTensorRt, data: bytes) -> None:
        self.trt, self.data = trt, data
        self.tensors = {t.name: t for t in (*trt.spec.inputs(), *trt.spec.outputs())}
        self.inputs = {t.name for t in trt.spec.inputs()}
        self.num_io_tensors = len(self.tensors)
        self.device_memory_size_v2 = trt.context_bytes
        self.contexts = 0
        trt.live.append("engine")

    def __del__(self) -> None:
        self.trt.live.remove("engine")
        self.trt.gpu.call("engine_destroy")
        if self.contexts:
            self.trt.gpu.breach("the engine is gone before its context")

    def get_tensor_name(self, index: int) -> str:
        return list(self.tensors)[index]

    def dtype(self, name: str) -> np.dtype:
        dtype = self.tensors[name].dtype
        return np.dtype("int32" if dtype == "int64" and not self.trt.int64 else dtype)

    def get_tensor_dtype(self, name: str) -> Any:
        return types.SimpleNamespace(name=NAMES[str(self.dtype(name))])

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        return self.tensors[name].shape

    def get_tensor_mode(self, name: str) -> str:
        return "input" if name in self.inputs else "output"

    def create_engine_inspector(self) -> Any:
        text = json.dumps({"Layers": self.trt.layers})
        return types.SimpleNamespace(get_engine_information=lambda format: text)

    def create_execution_context(self) -> Any:
        self.trt.gpu.call("create_context")
        return Context(self)


class Context:
    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.addresses: dict[str, int] = {}
        self.compute = engine.trt.kernel(engine.data)
        engine.contexts += 1

    def __del__(self) -> None:
        self.engine.contexts -= 1
        self.engine.trt.gpu.call("context_destroy")

    def set_tensor_address(self, name: str, address: int) -> bool:
        self.engine.trt.gpu.call("set_tensor_address")
        self.addresses[name] = address
        return True

    def execute_async_v3(self, stream: int) -> bool:
        gpu, engine, addresses = self.engine.trt.gpu, self.engine, dict(self.addresses)
        gpu.call("execute_async_v3")
        if set(addresses) != set(engine.tensors):
            gpu.breach(f"no address for {set(engine.tensors) - set(addresses)}")

        def at(name: str) -> np.ndarray:
            tensor, dtype = engine.tensors[name], engine.dtype(name)
            size = int(np.prod(tensor.shape)) * dtype.itemsize
            return gpu.at(addresses[name], size, f"the network's `{name}`").view(dtype).reshape(tensor.shape)

        def work() -> None:
            found = self.compute({name: at(name) for name in engine.inputs})
            for name in engine.tensors.keys() - engine.inputs:
                at(name)[...] = found[name]

        gpu.put(stream, "the network", tuple(addresses.values()), work)
        return True
