"""A graph of one layer on an engine that is to run the network: how long does it take?"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from bev_perception.inference.builder import BuildError, import_builder, make_logger, parse_onnx
from bev_perception.inference.gpu import Gpu

LEAST_RUNS, LEAST_S = 5, 0.04  # of each measurement
Run = Callable[[], None]
Clock = Callable[[], float]


def open_openvino(onnx: bytes, inputs: Mapping[str, np.ndarray], threads: int) -> Run:
    import openvino

    from bev_perception.inference.openvino_backend import settings

    core = openvino.Core()
    request = core.compile_model(core.read_model(onnx), "CPU", settings(threads)).create_infer_request()
    return lambda: request.infer(inputs, share_inputs=True, share_outputs=True) and None


def open_onnxruntime(onnx: bytes, inputs: Mapping[str, np.ndarray], threads: int) -> Run:
    import onnxruntime

    from bev_perception.inference.onnxruntime_backend import session_options

    session = onnxruntime.InferenceSession(onnx, session_options(threads), providers=["CPUExecutionProvider"])
    return lambda: session.run(None, dict(inputs)) and None


def open_tensorrt(onnx: bytes, inputs: Mapping[str, np.ndarray], threads: int) -> Run:
    """On the first GPU; threads are of no account."""
    trt: Any = import_builder("tensorrt")
    gpu = Gpu(0)
    logger = make_logger(trt, lambda _: None)

    def load() -> Any:
        builder = trt.Builder(logger)
        network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
        parse_onnx(trt, onnx, network, logger)
        built = builder.build_serialized_network(network, builder.create_builder_config())
        if built is None:
            raise BuildError(f"{trt.__name__} {trt.__version__} cannot build a layer: {'; '.join(logger.errors)}")
        engine = trt.Runtime(logger).deserialize_cuda_engine(built)
        names = [engine.get_tensor_name(i) for i in range(engine.num_io_tensors)]
        sizes = [4 * int(np.prod(engine.get_tensor_shape(name))) for name in names]
        return engine, engine.create_execution_context(), [gpu.cuda.mem_alloc(size) for size in sizes]

    _, context, buffers = loaded = gpu.run(load)

    def run() -> None:
        assert loaded  # the engine lives as long as its context
        gpu.run(lambda: context.execute_v2([int(buffer) for buffer in buffers]))

    return run


# Engine -> how a graph is opened and what clock it is measured by: on the processor the CPU time of all threads, which
# what else runs on the machine changes least.
ENGINES: dict[str, tuple[Callable[[bytes, Mapping[str, np.ndarray], int], Run], Clock]] = {
    "onnxruntime": (open_onnxruntime, time.process_time),
    "openvino": (open_openvino, time.process_time),
    "tensorrt": (open_tensorrt, time.perf_counter),
}


def layer_ms(engine: str, onnx: bytes, inputs: Mapping[str, np.ndarray], threads: int) -> float:
    """The least of LEAST_RUNS runs or more, for LEAST_S or longer, in ms. Raises what opening the engine raises."""
    opened, clock = ENGINES[engine]
    run = opened(onnx, inputs, threads)
    run()
    taken: list[float] = []
    while len(taken) < LEAST_RUNS or sum(taken) < LEAST_S:
        begun = clock()
        run()
        taken.append(clock() - begun)
    return 1e3 * min(taken)


def engine_version(engine: str) -> str:
    """Raises ImportError that names the package where the engine is not installed."""
    if engine == "tensorrt":
        return str(import_builder("tensorrt").__version__)
    try:
        module = __import__(engine)
    except ImportError as error:
        raise ImportError(f"the latency of {engine} is measured where it is installed: pip install {engine}") from error
    return str(module.__version__).split("-")[0]
