"""How long a graph of one layer takes on an engine that is to run the network."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from bev_perception.inference.builder import parsed
from bev_perception.inference.gpu import Gpu
from bev_perception.inference.tensorrt_api import BuildError, import_builder, make_logger

LEAST_RUNS, LEAST_MS = 5, 20.0  # of each measurement
# Runs the graph once -> ms.
Timed = Callable[[], float]


def open_onnxruntime(onnx: bytes, inputs: Mapping[str, np.ndarray], threads: int) -> Timed:
    """CPU time of all threads, which what else runs on the machine changes least."""
    import onnxruntime

    from bev_perception.inference.onnxruntime_backend import session_options

    session = onnxruntime.InferenceSession(onnx, session_options(threads), providers=["CPUExecutionProvider"])

    def run() -> float:
        begun = time.process_time()
        session.run(None, dict(inputs))
        return 1e3 * (time.process_time() - begun)

    return run


def open_openvino(onnx: bytes, inputs: Mapping[str, np.ndarray], threads: int) -> Timed:
    """CPU time of all threads. Maps of a convolution are given channels last, as OpenVINO's have them: a graph of one
    layer would bring them into that order and back, which in a network happens between a few layers only."""
    import openvino
    from openvino.preprocess import PrePostProcessor

    from bev_perception.inference.openvino_backend import settings

    core = openvino.Core()
    model = core.read_model(onnx)
    if list(inputs) == ["x"]:
        around = PrePostProcessor(model)
        for side in (around.input(), around.output()):
            side.tensor().set_layout(openvino.Layout("NHWC"))
            side.model().set_layout(openvino.Layout("NCHW"))
        model = around.build()
        inputs = {"x": np.ascontiguousarray(inputs["x"].transpose(0, 2, 3, 1))}
    request = core.compile_model(model, "CPU", settings(threads)).create_infer_request()

    def run() -> float:
        begun = time.process_time()
        request.infer(dict(inputs), share_inputs=True, share_outputs=True)
        return 1e3 * (time.process_time() - begun)

    return run


def open_tensorrt(onnx: bytes, inputs: Mapping[str, np.ndarray], threads: int) -> Timed:
    """On the first GPU, by the wall clock; threads are of no account."""
    trt: Any = import_builder("tensorrt")
    gpu = Gpu(0)
    logger = make_logger(trt, lambda _: None)

    def load() -> Any:
        builder = trt.Builder(logger)
        network = parsed(trt, builder, onnx, logger)
        built = builder.build_serialized_network(network, builder.create_builder_config())
        if built is None:
            raise BuildError(f"{trt.__name__} {trt.__version__} cannot build a layer: {'; '.join(logger.errors)}")
        engine = trt.Runtime(logger).deserialize_cuda_engine(built)
        names = [engine.get_tensor_name(i) for i in range(engine.num_io_tensors)]
        sizes = [4 * int(np.prod(engine.get_tensor_shape(name))) for name in names]
        return engine, engine.create_execution_context(), [gpu.driver.allocate(size) for size in sizes]

    loaded = gpu.run(load)  # kept whole: the engine must outlive its context

    def run() -> float:
        begun = time.perf_counter()
        gpu.run(lambda: loaded[1].execute_v2(loaded[2]))
        return 1e3 * (time.perf_counter() - begun)

    return run


ENGINES: dict[str, Callable[[bytes, Mapping[str, np.ndarray], int], Timed]] = {
    "onnxruntime": open_onnxruntime,
    "openvino": open_openvino,
    "tensorrt": open_tensorrt,
}


def layer_ms(engine: str, onnx: bytes, inputs: Mapping[str, np.ndarray], threads: int) -> float:
    """The least of LEAST_RUNS runs or more, LEAST_MS or longer. Raises what opening the engine raises."""
    run = ENGINES[engine](onnx, inputs, threads)
    run()
    taken: list[float] = []
    while len(taken) < LEAST_RUNS or sum(taken) < LEAST_MS:
        taken.append(run())
    return min(taken)


def engine_version(engine: str) -> str:
    """Raises ImportError, naming the package, where the engine is not installed."""
    if engine == "tensorrt":
        return str(import_builder("tensorrt").__version__)
    try:
        module = __import__(engine)
    except ImportError as error:
        raise ImportError(f"latency on {engine} is measured where it is installed: pip install {engine}") from error
    return str(module.__version__).split("-")[0]
