"""TensorRT on a GPU: states stay on the device, images go there one by one, and one thread makes every call.

Every CUDA and TensorRT call is made in the owner thread (gpu.py), and close() frees every allocation there: what the
garbage collector frees later, in another thread or without a context, is the classic crash at shutdown.
"""

from __future__ import annotations

import atexit
import contextlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from bev_perception.bundle import Bundle
from bev_perception.inference import tensorrt_api as api
from bev_perception.inference.builder import BuildOptions, build_serialized, load_plugins
from bev_perception.inference.engine_cache import EngineKey, Proof, engine_places, open_cached
from bev_perception.inference.gpu import MIB, BufferPool, DeviceState, Gpu
from bev_perception.inference.interface import validate_inputs
from bev_perception.inference.precisions import AS_BUNDLE, wanted
from bev_perception.inference.proof import self_test
from bev_perception.inference.tensorrt_engine import STATE_IN, STATE_OUT, LoadedEngine, as_wanted, size_of
from bev_perception.model_spec import ModelSpec

NOT_KEPT = "not kept"  # details["engine"] where no place could be written
ANY = "any"  # of a key: what a builder that needs no GPU cannot know


def engine_key(
    bundle: Bundle, builder: str, version: str, precision: str, options: BuildOptions, gpu: Gpu | None = None
) -> EngineKey:
    """Raises OSError where a plugin cannot be read."""
    tensors = (*bundle.spec.inputs(), *bundle.spec.outputs())
    return EngineKey(
        model=bundle.spec.name,
        onnx_sha256=bundle.spec.onnx_sha256,
        builder=builder,
        version=version,
        cuda=gpu.device.cuda if gpu else ANY,
        driver=gpu.kernel_driver if gpu else ANY,
        gpu=gpu.device.name if gpu else ANY,
        architecture=gpu.device.architecture if gpu else ANY,
        precision=precision,
        shapes=", ".join(f"{t.name} {t.dtype} {'x'.join(map(str, t.shape))}" for t in tensors),
        plugins=", ".join(options.plugin_hashes()),
        options=options.of_the_engine(),
    )


def open_tensorrt(
    bundle: Bundle,
    *,
    precision: str = AS_BUNDLE,
    cache: str | Path = "",
    builder: str = "tensorrt",
    workspace_mib: int = BuildOptions.workspace_mib,
    level: int = BuildOptions.level,
    timings: str = "",
    plugins: Sequence[str] = (),
    graph: bool = True,
    device: int = 0,
    force: bool = False,
    log: api.Log = print,
    verbose: bool = False,
    gpu: Gpu | None = None,
) -> TensorRtBackend:
    """The engine for this machine from `cache` ("": the default places), or built now; proven on the golden sample.

    graph: replay the network as a CUDA graph. gpu: opened already; else `device` is. Raises ImportError (packages
    missing), BundleError, ValueError (another precision than the bundle has), api.BuildError, RuntimeError (no usable
    GPU), GpuMemoryError.
    """
    options = BuildOptions(workspace_mib, level, timings, tuple(plugins), verbose)
    asked = wanted(precision, bundle.spec)
    trt = api.import_builder(builder)
    gpu = gpu or Gpu(device)
    share = 0.0  # what the last build promised; a cached engine was held to it when it was new

    def build() -> bytes:
        nonlocal share
        onnx = bundle.model()

        def work() -> bytes:
            nonlocal share
            gpu.require({"the builder's workspace": options.workspace_mib * MIB})
            built = build_serialized(trt, onnx, bundle.spec, asked, options, log)
            share = built.share
            return built.engine

        return gpu.run(work)

    def prove(engine: bytes) -> tuple[TensorRtBackend, Proof]:
        backend = TensorRtBackend(trt, gpu, engine, bundle.spec, asked, share=share, graph=graph, log=log)
        try:
            figures = self_test(backend, bundle)
        except BaseException:
            backend.close(release_gpu=False)
            raise
        log(f"layers: {backend.details['layers']}")
        log("golden sample: " + ", ".join(f"{name} {value:.3g}" for name, value in figures.items()))
        return backend, Proof(figures, backend.details["layers"], backend.device_bytes)

    try:
        load_plugins(options.plugins)
        key = engine_key(bundle, builder, trt.__version__, asked, options, gpu)
        backend, path = open_cached(engine_places(cache), key, build, prove, force=force, log=log)
    except BaseException:
        gpu.release()
        raise
    backend.details["engine"] = str(path or NOT_KEPT)
    return backend


class TensorRtBackend:
    """Runs an engine. `bev` comes back as a DeviceState; as `prev_bev` it is read where it lies (arrays work too).

    device_bytes: what it takes on the GPU with as many states as the memory may hold.
    """

    name = "tensorrt"

    def __init__(
        self,
        trt: Any,
        gpu: Gpu,
        engine: bytes,
        spec: ModelSpec,
        precision: str,
        *,
        share: float = 0.0,
        graph: bool = True,
        log: api.Log = print,
    ) -> None:
        self.spec = spec
        self._gpu, self._driver = gpu, gpu.driver
        self._tensors = {t.name: t for t in (*spec.inputs(), *spec.outputs())}
        self._pool = BufferPool(lambda: self._driver.allocate(size_of(self._tensors[STATE_OUT])))
        self._offered: set[tuple[str, int]] = set()
        self._engine = loaded = gpu.run(lambda: LoadedEngine(trt, gpu, engine, spec, precision, share, graph, log))
        self._open = True
        atexit.register(self.close)  # before the context goes, which registered itself earlier
        self.device_bytes = loaded.device_bytes
        self.details = {
            "version": trt.__version__,
            "gpu": f"{gpu.device.name} {gpu.device.architecture}",
            "cuda": f"{gpu.device.cuda} by {gpu.driver.name}",
            "precision": precision,
            "layers": str(loaded.layers),
            "graph": f"no: {loaded.why_no_graph}" if loaded.why_no_graph else "yes",
            "device_mib": f"{loaded.device_bytes / MIB:.0f}",
        }
        if loaded.why_no_graph:
            log(f"the network is not replayed as a CUDA graph: {loaded.why_no_graph}")

    def offer(self, name: str, index: int, row: np.ndarray) -> None:
        """Row `index` of the input `name` that the next `infer` will be given: it goes to the device now, beside
        whatever the caller does next. What `infer` is given counts, should it differ.

        Raises ValueError for a row that is not the spec's, RuntimeError after `close` and where CUDA fails.
        """
        tensor = self._tensors[name]
        if row.shape != tensor.shape[1:] or row.dtype != np.dtype(tensor.dtype):
            raise ValueError(
                f"row of `{name}` is {row.dtype} {list(row.shape)}, expected {tensor.dtype} {list(tensor.shape[1:])}"
            )
        self._gpu.run(lambda: self._upload_row(name, index, row))

    def infer(self, inputs: Mapping[str, Any]) -> dict[str, Any]:
        """See InferenceBackend.infer. Blocks until the outputs are there.

        Raises ValueError for inputs that are not the spec's or a state of another engine, RuntimeError after `close`
        and where CUDA fails.
        """
        validate_inputs(inputs, self.spec)
        for name, value in inputs.items():
            if isinstance(value, DeviceState) and (name != STATE_IN or value.owner() is not self):
                raise ValueError(f"`{name}` is a device state of another engine or tensor; pass the array of fetch()")
        return self._gpu.run(lambda: self._infer(inputs))

    def fetch(self, value: Any) -> np.ndarray:
        """DeviceState -> array on the host; arrays pass through. Raises ValueError for another engine's state."""
        if not isinstance(value, DeviceState):
            return value
        if value.owner() is not self:
            raise ValueError("this device state belongs to another engine")
        return self._gpu.run(lambda: self._fetch(value))

    def free_bytes(self) -> int:
        """Of device memory, now."""
        return self._gpu.run(self._driver.memory)[0]

    def interrupt(self) -> None:
        """TensorRT stops no engine that runs."""

    def close(self, release_gpu: bool = True) -> None:
        """Free everything on the device, then the context. Idempotent; handles still alive become unusable."""
        atexit.unregister(self.close)
        try:
            if self._open:
                self._gpu.run(self._free)
        finally:
            if release_gpu:
                self._gpu.release()

    # ---- in the owner thread

    def _infer(self, inputs: Mapping[str, Any]) -> dict[str, Any]:
        self._require_open()
        engine = self._engine
        try:
            for name in (t.name for t in self.spec.inputs()):
                self._give(name, inputs)
            engine.run()
            states: dict[str, Any] = {}
            if STATE_OUT in self._tensors:
                state = states[STATE_OUT] = DeviceState(self._pool, self._tensors[STATE_OUT], self)
                size = size_of(self._tensors[STATE_OUT])
                self._driver.copy(state.buffer, engine.address[STATE_OUT], size, engine.stream)
            found = {t.name: engine.host[t.name] for t in self.spec.outputs() if t.name != STATE_OUT}
            for name, array in found.items():
                self._driver.download(array, engine.address[name], engine.stream)
            self._driver.wait(engine.stream)
        except BaseException:
            with contextlib.suppress(Exception):  # what is under way still reads and writes pinned memory
                self._driver.wait(engine.stream)
            raise
        finally:
            self._offered.clear()
        return as_wanted(found, self.spec) | states

    def _give(self, name: str, inputs: Mapping[str, Any]) -> None:
        """The input to its place on the device."""
        engine, value = self._engine, inputs[name]
        if isinstance(value, DeviceState):
            self._driver.copy(engine.address[name], value.buffer, size_of(self._tensors[name]), engine.stream)
        elif name == STATE_IN and not inputs["prev_valid"].any() and not value.any():
            self._driver.zero(engine.address[name], value.nbytes, engine.stream)  # megabytes of zeros need no copy
        elif any(offered == name for offered, _ in self._offered):
            for index, row in enumerate(value):
                if (name, index) not in self._offered or not np.array_equal(engine.host[name][index], row):
                    self._upload_row(name, index, row)
        else:
            np.copyto(engine.host[name], value)
            self._driver.upload(engine.address[name], engine.host[name], engine.stream)

    def _upload_row(self, name: str, index: int, row: np.ndarray) -> None:
        self._require_open()
        engine = self._engine
        host = engine.host[name][index : index + 1]
        if (name, index) in self._offered:  # what was copied before may still be on its way out of here
            self._driver.wait(engine.stream)
        np.copyto(host[0], row)
        self._driver.upload(engine.address[name] + index * host.nbytes, host, engine.stream)
        self._offered.add((name, index))

    def _fetch(self, state: DeviceState) -> np.ndarray:
        self._require_open()
        pinned = self._engine.host[STATE_IN]
        self._driver.download(pinned, state.buffer, self._engine.stream)
        self._driver.wait(self._engine.stream)
        return pinned.copy()

    def _require_open(self) -> None:
        if not self._open:
            raise RuntimeError("the tensorrt backend is closed")

    def _free(self) -> None:
        self._open = False
        with contextlib.ExitStack() as all_of_it:
            all_of_it.callback(self._engine.free)
            for buffer in self._pool.drain():
                all_of_it.callback(self._driver.free, buffer)
            with contextlib.suppress(Exception):  # offered images may be on their way
                self._driver.wait(self._engine.stream)
