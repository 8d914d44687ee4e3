"""The TensorRT backend on a GPU made of Python: results, order, lifetimes, threads, and a failure of every call.

STEPS=100000 python -m pytest -n 0 test/test_tensorrt_backend.py -k many_steps is the long drive of docs/inference.md.
"""

from __future__ import annotations

import contextlib
import dataclasses
import gc
import json
import os
import threading
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("onnx")
import tiny_bundle
from fake_cuda import Breach, FakeGpu
from fake_tensorrt import FakeTensorRt, inspector_layers, onnx_kernel

from bev_perception.golden_pattern import pattern_frames
from bev_perception.inference import gpu as gpu_module
from bev_perception.inference import tensorrt_backend
from bev_perception.inference.backend import open_backend
from bev_perception.inference.builder import Built
from bev_perception.inference.capture import Graphs
from bev_perception.inference.cuda_driver import CudaCore, CudaDriver, CudaError, Pycuda, find_driver
from bev_perception.inference.gpu import MIB, Gpu, GpuMemoryError
from bev_perception.inference.tensorrt_api import BuildError
from bev_perception.inference.tensorrt_backend import TensorRtBackend, open_tensorrt
from bev_perception.pipeline import BevPipeline

STEPS = int(os.environ.get("STEPS", "1000"))
SPEC = tiny_bundle.SPEC
FACES: dict[str, Callable[[FakeGpu], CudaDriver]] = {
    "pycuda": lambda fake: Pycuda(fake.pycuda()),
    "cuda-core": lambda fake: CudaCore(fake.bindings()),
}


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    return tiny_bundle.write_bundle(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(params=FACES)
def face(request) -> str:
    return request.param


class Rig:
    """A backend on a fake GPU; `close` demands that all was given back and nothing was breached."""

    def __init__(self, face: str = "pycuda", graph: bool = True, kernel: Any = onnx_kernel, **of_trt: Any) -> None:
        self.fake = FakeGpu()
        self.trt = FakeTensorRt(self.fake, SPEC, kernel, **of_trt)
        self.lines: list[str] = []
        self.gpu = Gpu(0, FACES[face](self.fake), Graphs(self.fake.library()))
        self.graph = graph

    def open(self, onnx: bytes, **options: Any) -> TensorRtBackend:
        options = {"graph": self.graph, "log": self.lines.append} | options
        return TensorRtBackend(self.trt, self.gpu, onnx, SPEC, "fp32", **options)

    def check(self) -> None:
        gc.collect()
        assert self.fake.breaches == []
        assert self.fake.left() == {} and self.trt.live == []
        assert self.fake.free_bytes == self.fake.total


# ---- results --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("graph", [True, False], ids=["graph", "no graph"])
@pytest.mark.parametrize("int64", [True, False], ids=["int64", "int32"])
def test_it_gives_what_onnxruntime_gives(bundle, face, graph, int64) -> None:
    rig = Rig(face, graph, int64=int64)
    backend, reference = rig.open(bundle.model()), open_backend(bundle, threads=1)
    assert backend.details["graph"] == ("yes" if graph else "no: asked not to")
    inputs = tiny_bundle.make_inputs()
    expected, found = reference.infer(inputs), backend.infer(inputs)
    for seed in range(4):
        for name, value in expected.items():
            np.testing.assert_array_equal(backend.fetch(found[name]), value)
            assert backend.fetch(found[name]).dtype == value.dtype
        inputs = tiny_bundle.make_inputs(seed=seed + 1)
        expected = reference.infer(inputs | {"prev_bev": expected["bev"]})
        found = backend.infer(inputs | {"prev_bev": found["bev"]})
    assert rig.fake.calls.count("cuGraphLaunch") == (5 if graph else 0)
    assert rig.fake.calls.count("execute_async_v3") == (2 if graph else 6), "once to warm up, once to capture"
    reference.close()
    backend.close()
    rig.check()


def test_without_memory_zeros_are_made_on_the_device(bundle, face) -> None:
    rig, inputs = Rig(face), tiny_bundle.make_inputs()
    backend = rig.open(bundle.model())
    backend.infer(inputs)  # leaves a state where the next one begins
    nothing = inputs | {"prev_bev": np.zeros_like(inputs["prev_bev"]), "prev_valid": np.zeros(1, np.float32)}
    reference = open_backend(bundle, threads=1)
    np.testing.assert_array_equal(backend.fetch(backend.infer(nothing)["bev"]), reference.infer(nothing)["bev"])
    reference.close()
    backend.close()
    rig.check()


def test_answers_are_not_overwritten_by_the_next_frame(bundle) -> None:
    rig = Rig()
    backend = rig.open(bundle.model())
    first = backend.infer(tiny_bundle.make_inputs())
    kept = {name: backend.fetch(value).copy() for name, value in first.items()}
    second = backend.infer(tiny_bundle.make_inputs(seed=1) | {"prev_bev": first["bev"]})
    assert not np.array_equal(second["scores"], kept["scores"])
    for name, value in first.items():
        np.testing.assert_array_equal(backend.fetch(value), kept[name])
    del first, second
    backend.close()
    rig.check()


def test_a_graph_that_cannot_be_had_is_told_and_done_without(bundle) -> None:
    rig = Rig()
    rig.fake.fail = {"cuGraphInstantiateWithFlags": 1}
    backend = rig.open(bundle.model())
    assert backend.details["graph"].startswith("no: cuGraphInstantiateWithFlags failed")
    assert rig.lines == [
        "the network is not replayed as a CUDA graph: " + backend.details["graph"].removeprefix("no: ")
    ]
    backend.infer(tiny_bundle.make_inputs())
    backend.close()
    rig.check()


# ---- images, one by one ---------------------------------------------------------------------------------------------


def test_each_camera_goes_to_the_device_when_it_is_there(bundle, face) -> None:
    rig, inputs = Rig(face), tiny_bundle.make_inputs(seed=3)
    backend, reference = rig.open(bundle.model()), open_backend(bundle, threads=1)
    uploads = "memcpy_htod_async" if face == "pycuda" else "cuMemcpyHtoDAsync"
    rig.fake.calls.clear()
    for index, image in enumerate(inputs["images"]):
        backend.offer("images", index, image)
    assert rig.fake.calls == [uploads] * 2, "and nobody waits for them"
    found = backend.infer(inputs)
    assert rig.fake.calls.count(uploads) == 2 + len(SPEC.inputs()) - 1, "the images are not sent again"
    np.testing.assert_array_equal(found["scores"], reference.infer(inputs)["scores"])

    # What `infer` is given counts: one image was blanked afterwards, the other never offered.
    backend.offer("images", 0, inputs["images"][0])
    inputs["images"][0] = 0
    np.testing.assert_array_equal(backend.infer(inputs)["scores"], reference.infer(inputs)["scores"])
    # A frame that was given up after its images were on their way.
    backend.offer("images", 0, inputs["images"][1])
    backend.offer("images", 0, inputs["images"][0])
    np.testing.assert_array_equal(backend.infer(inputs)["scores"], reference.infer(inputs)["scores"])
    with pytest.raises(ValueError, match=r"row of `images` is float32 \[8, 16, 3\], expected uint8 \[8, 16, 3\]"):
        backend.offer("images", 0, inputs["images"][0].astype(np.float32))
    reference.close()
    backend.close()
    with pytest.raises(RuntimeError, match="closed"):
        backend.offer("images", 0, inputs["images"][0])
    rig.check()


def test_the_pipeline_offers_images_as_they_are_made(bundle) -> None:
    """And finds what it finds with ONNX Runtime, also where an image is masked after it went to the device."""
    rig = Rig()
    backend, reference = rig.open(bundle.model()), open_backend(bundle, threads=1)
    offered: list[int] = []
    offer = backend.offer
    backend.offer = lambda name, index, row: (offered.append(index), offer(name, index, row))  # type: ignore[method-assign]
    ours, theirs = (BevPipeline(SPEC, engine) for engine in (backend, reference))
    for frame in pattern_frames(SPEC):
        black = dataclasses.replace(frame.cameras[1], frame=_black(frame.cameras[1].frame))
        for seen in (frame, dataclasses.replace(frame, cameras=(frame.cameras[0], black))):
            found, expected = ours.step(seen), theirs.step(seen)
            np.testing.assert_array_equal(found.boxes, expected.boxes)
            np.testing.assert_array_equal(found.scores, expected.scores)
            assert found.missing == expected.missing
    assert offered == [0, 1] * 4 and "cam_b" in found.missing

    def broken(name: str, index: int, row: np.ndarray) -> None:
        raise CudaError("the device is gone")

    backend.offer = broken  # type: ignore[method-assign]
    with pytest.raises(CudaError):  # no fault of a camera
        BevPipeline(SPEC, backend).step(pattern_frames(SPEC)[0])
    reference.close()
    ours.memory.reset("the test ends")
    backend.close()
    rig.check()


def _black(image: Any) -> Any:
    return dataclasses.replace(image, data=np.zeros_like(image.data))


# ---- lifetimes and threads ------------------------------------------------------------------------------------------


def test_handles_outlive_nothing(bundle, face) -> None:
    rig = Rig(face)
    backend, other = rig.open(bundle.model()), rig.open(bundle.model())
    inputs = tiny_bundle.make_inputs()
    state = backend.infer(inputs)["bev"]
    with pytest.raises(ValueError, match="another engine"):
        other.infer(inputs | {"prev_bev": state})
    with pytest.raises(ValueError, match="another engine"):
        other.fetch(state)
    stray = backend.infer(inputs)["bev"]
    stray.shape, stray.dtype = inputs["radar_bev"].shape, inputs["radar_bev"].dtype
    with pytest.raises(ValueError, match="another engine or tensor"):
        backend.infer(inputs | {"radar_bev": stray})
    other.close(release_gpu=False)
    backend.close()
    backend.close()
    with pytest.raises(RuntimeError, match="closed"):
        backend.infer(inputs)
    with pytest.raises(RuntimeError, match="closed"):
        backend.fetch(state)
    del state
    rig.check()


def test_frames_from_many_threads_are_computed_in_one(bundle, face) -> None:
    rig, inputs = Rig(face), tiny_bundle.make_inputs()
    backend = rig.open(bundle.model())
    expected = backend.infer(inputs)["scores"]
    found: list[np.ndarray] = []
    threads = [
        threading.Thread(target=lambda: found.extend(backend.infer(inputs)["scores"] for _ in range(5)))
        for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 20 and all(np.array_equal(scores, expected) for scores in found)
    backend.close()
    rig.check()


def test_the_fake_sees_what_it_is_for() -> None:
    """Or the tests above would prove nothing."""
    for face in FACES:
        fake = FakeGpu()
        driver = FACES[face](fake)
        driver.open(0)
        stream, address, pinned = driver.stream(), driver.allocate(16), driver.pinned((4,), np.float32)
        driver.upload(address, pinned, stream)
        pinned[0] = 1
        with pytest.raises(Breach, match="changed before it was copied"):
            driver.wait(stream)
        driver.upload(address, pinned, stream)
        with pytest.raises(Breach, match="before upload was done"):
            driver.free(address) if face == "cuda-core" else fake.free(address)
        driver.wait(stream)
        driver.download(pinned, address, stream)
        assert pinned[0] != 1, "nothing is there before the stream was waited for"
        driver.wait(stream)
        assert pinned[0] == 1
        with pytest.raises(Breach, match="is not pinned"):
            fake.upload(address, np.zeros(4, np.float32), stream)
        with pytest.raises(Breach, match="not allocated, or freed"):
            driver.copy(address, address + 16, 16, stream)
        other = threading.Thread(target=_whatever_comes, args=(driver.memory,), name="other")
        other.start()
        other.join()
        assert "in thread other" in fake.breaches[-1]
        driver.free(address)
        with pytest.raises(Breach, match="freed twice"):
            fake.free(address)
        driver.end_stream(stream)
        with pytest.raises(Breach, match=r"given back before .*'pinned': 1"):
            driver.close()


def _whatever_comes(call: Callable[[], Any]) -> None:
    with contextlib.suppress(Breach):
        call()


# ---- failures -------------------------------------------------------------------------------------------------------


def drive(backend: TensorRtBackend, inputs: dict[str, Any]) -> None:
    """Two frames with everything that a frame may do, with one state remembered meanwhile."""
    remembered = []
    for _ in range(2):
        for index, image in enumerate(inputs["images"]):
            backend.offer("images", index, image)
        found = backend.infer(inputs)
        remembered.append(found["bev"])
        backend.fetch(found["bev"])
        inputs = inputs | {"prev_bev": found["bev"]}


def calls_of(face: str, work: Callable[[Rig], None]) -> dict[str, int]:
    rig = Rig(face, kernel=lambda data: constant)
    work(rig)
    return {name: rig.fake.calls.count(name) for name in dict.fromkeys(rig.fake.calls)}


def constant(inputs: Any) -> dict[str, np.ndarray]:
    return {t.name: np.ones(t.shape, t.dtype) for t in SPEC.outputs()}


GO_ON_WITHOUT_GRAPH = {
    "cuStreamBeginCapture_v2", "cuStreamEndCapture", "cuGraphInstantiateWithFlags", "cuGraphDestroy",
}  # fmt: skip
NOT_GIVEN_BACK = {
    "mem_free": "device", "cuMemFree": "device", "host_free": "pinned", "cuMemFreeHost": "pinned",
    "cuStreamDestroy": "streams", "cuGraphExecDestroy": "executables", "cuGraphDestroy": "graphs",
    "ctx_pop": "contexts", "cuCtxPopCurrent": "contexts", "cuDevicePrimaryCtxRelease": "contexts",
}  # fmt: skip
NEVER_FAIL = {"stream_destroy", "engine_destroy", "context_destroy", "set_tensor_address"}  # they cannot say so


def test_whatever_call_fails_is_raised_and_all_is_given_back(face) -> None:
    """Each call of opening, driving and closing fails once, at each of its turns up to the second."""

    def whole(rig: Rig) -> None:
        backend = rig.open(b"")
        try:
            drive(backend, tiny_bundle.make_inputs())
        finally:
            backend.close()

    calls = calls_of(face, whole)
    assert len(calls) > 15
    tried = 0
    for name in calls.keys() - NEVER_FAIL:
        for turn in range(1, min(calls[name], 2) + 1):
            rig = Rig(face, kernel=lambda data: constant)
            already = rig.fake.calls.count(name)
            if turn <= already:  # of the opening of the device, below
                rig.gpu.release()
                continue
            rig.fake.fail = {name: turn - already}
            failed = False
            try:
                whole(rig)
            except Exception:
                failed = True
            assert failed or name in GO_ON_WITHOUT_GRAPH, f"{name} failed at turn {turn}, and nobody was told"
            assert failed or rig.lines[0].startswith("the network is not replayed as a CUDA graph: ")
            rig.fake.fail = {}
            rig.gpu.release()
            # What could not be given back is all that is left: one thing, and the context that was not empty.
            left = rig.fake.lost | rig.fake.left()
            allowed = {"contexts", NOT_GIVEN_BACK[name]} if name in NOT_GIVEN_BACK else set()
            assert set(left) <= allowed | {"contexts"}, f"{name}, turn {turn}: {left}"
            assert sum(left.values()) <= max(len(allowed), 1), f"{name}, turn {turn}: {left}"
            assert rig.trt.live == [], "and no engine waits for the garbage collector"
            assert all("given back before" in breach for breach in rig.fake.breaches), (name, rig.fake.breaches)
            assert allowed or not rig.fake.breaches, (name, turn, rig.fake.breaches)
            tried += 1
    assert tried > 25


def test_a_frame_that_failed_is_followed_by_frames_that_are_right(bundle, face) -> None:
    rig, inputs = Rig(face), tiny_bundle.make_inputs(seed=5)
    backend, reference = rig.open(bundle.model()), open_backend(bundle, threads=1)
    expected = reference.infer(inputs)
    backend.infer(inputs)  # allocates the first buffer of the states
    rig.fake.calls.clear()
    backend.infer(inputs)
    calls = set(rig.fake.calls)
    for name in calls:
        backend.offer("images", 0, inputs["images"][1])
        rig.fake.fail = {name: 1}
        with pytest.raises(Exception, match=r"told to fail|out of memory|failed with CUDA's error"):
            backend.infer(inputs)
        found = backend.infer(inputs)
        np.testing.assert_array_equal(found["scores"], expected["scores"])
        np.testing.assert_array_equal(backend.fetch(found["bev"]), expected["bev"])
    assert len(calls) == 5, "uploads, graph, copy of the state, downloads, waiting"
    reference.close()
    backend.close()
    rig.check()


@pytest.mark.parametrize("index", [0, 7])
def test_a_device_that_cannot_be_used_is_named(face, index) -> None:
    fake = FakeGpu()
    if index == 0:
        fake.fail = {"init" if face == "pycuda" else "cuInit": 1}
    with pytest.raises(RuntimeError, match=f"CUDA device {index} cannot be used: .*nvidia-smi"):
        Gpu(index, FACES[face](fake), Graphs(fake.library()))


def test_the_systems_driver_is_read_where_it_says_it(tmp_path, monkeypatch) -> None:
    texts = {
        "NVRM version: NVIDIA UNIX x86_64 Kernel Module  550.54.14  Thu Feb 22 01:44:30 UTC 2024\n": "550.54.14",
        "NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  550.90.07  Release Build\n": "550.90.07",
        "# R36 (release), REVISION: 4.3, GCID: 38968081, BOARD: generic\n": "36.4.3",
        "something else": "unknown",
    }
    patterns = list(gpu_module.KERNEL_DRIVERS.values())
    for text, expected in texts.items():
        (tmp_path / "file").write_text(text)
        files = {str(tmp_path / "none"): patterns[0], str(tmp_path / "file"): patterns["#" in text]}
        monkeypatch.setattr(gpu_module, "KERNEL_DRIVERS", files)
        assert gpu_module.kernel_driver() == expected


def test_without_any_package_both_are_named(monkeypatch) -> None:
    from bev_perception.inference import cuda_driver

    def missing() -> CudaDriver:
        raise ImportError("No module named x")

    monkeypatch.setattr(cuda_driver, "DRIVERS", {"pycuda": missing, "cuda-core": missing})
    with pytest.raises(ImportError, match=r"needs pycuda or cuda-core: pycuda \(.*\), cuda-core \(.*pip install"):
        find_driver()
    monkeypatch.setattr(cuda_driver, "DRIVERS", {"pycuda": missing, "cuda-core": lambda: "found"})
    assert find_driver() == "found"


# ---- memory ---------------------------------------------------------------------------------------------------------


def test_an_engine_without_room_is_refused_before_anything_is_allocated(bundle, face) -> None:
    rig = Rig(face, context_bytes=3000 * MIB)
    rig.fake.free_bytes = 2000 * MIB
    expected = (
        r"Fake GPU has 2000 of 4096 MiB free, needed are 30\d\d \(working memory 3000, inputs and outputs 0, states 0\)"
    )
    with pytest.raises(GpuMemoryError, match=expected):
        rig.open(bundle.model())
    allocating = ("mem_alloc", "host_alloc", "create_context", "cuMemAlloc", "cuMemHostAlloc", "stream_create")
    assert not set(rig.fake.calls) & set(allocating)
    rig.fake.free_bytes = 64 * MIB
    rig.fake.calls.clear()
    with pytest.raises(GpuMemoryError, match="the engine 0"):
        rig.open(bundle.model())
    assert "deserialize" not in rig.fake.calls
    rig.fake.free_bytes = rig.fake.total
    rig.gpu.release()
    rig.check()


def test_what_it_takes_is_told(bundle) -> None:
    rig = Rig(context_bytes=100 * MIB)
    backend = rig.open(bundle.model())
    assert backend.device_bytes > 100 * MIB and backend.details["device_mib"] == "100"
    assert backend.device_bytes - 100 * MIB - len(bundle.model()) >= rig.fake.total - rig.fake.free_bytes
    backend.close()


# ---- from the bundle to the engine ----------------------------------------------------------------------------------


@pytest.fixture
def opened(bundle, tmp_path, monkeypatch):
    """open(**options) of a whole TensorRT that builds what it is told; how many builds there were."""
    rig = Rig()
    rig.gpu.release()
    builds: list[Any] = []

    def build(trt: Any, onnx: bytes, spec: Any, precision: str, options: Any, log: Any) -> Built:
        builds.append((precision, options))
        return Built(onnx, 1.0 if precision != "fp32" else 0.0)

    monkeypatch.setattr(gpu_module, "kernel_driver", lambda: "540.1")
    monkeypatch.setattr(tensorrt_backend, "build_serialized", build)
    monkeypatch.setattr(tensorrt_backend.api, "import_builder", lambda name: rig.trt)

    def open_it(**options: Any) -> TensorRtBackend:
        rig.gpu = Gpu(0, FACES["pycuda"](rig.fake), Graphs(rig.fake.library()))
        return open_tensorrt(bundle, cache=tmp_path, gpu=rig.gpu, log=rig.lines.append, **options)

    return open_it, builds, rig, tmp_path


def test_it_is_built_proven_kept_and_found_again(opened) -> None:
    open_it, builds, rig, place = opened
    backend = open_it()
    assert backend.details["engine"].startswith(f"{place}/tiny_fp32_Fake-GPU_sm87_tensorrt_10.3.0_")
    assert backend.details["layers"] == "fp32 4; of these convolutions: fp32 4"
    assert any(line.startswith("layers: fp32 4") for line in rig.lines)
    sidecar = json.loads(Path(backend.details["engine"]).with_suffix(".json").read_text())
    key = sidecar["key"]
    assert (key["cuda"], key["driver"], key["gpu"], key["architecture"]) == ("12.6", "540.1", "Fake GPU", "sm87")
    assert (key["builder"], key["version"], key["precision"]) == ("tensorrt", "10.3.0", "fp32")
    assert key["shapes"].startswith("images uint8 2x8x16x3, ") and key["options"] == "workspace 2048 MiB, level 3"
    assert sidecar["proof"]["layers"] == backend.details["layers"]
    assert sidecar["proof"]["device_bytes"] == backend.device_bytes
    backend.close()
    open_it().close()
    assert len(builds) == 1 and "using the cached engine" in rig.lines[-1]
    for options in ({"workspace_mib": 512}, {"level": 5}):
        open_it(**options).close()
    assert len(builds) == 3, "an engine of other options is another engine"
    rig.check()


def test_an_engine_of_another_precision_is_refused_and_not_kept(opened) -> None:
    open_it, _, rig, place = opened
    rig.trt.layers = inspector_layers({"fp32": 3, "fp16": 1})
    with pytest.raises(BuildError, match="not the fp32 that was asked for: 1 layers are in fp16"):
        open_it()
    rig.trt.layers = inspector_layers({"fp32": 4})
    with pytest.raises(BuildError, match="none of its 4 layers is in fp16; 0 of 4 convolutions are in fp16"):
        open_it(precision="fp16")
    rig.trt.layers = ["conv1", "conv2"]
    with pytest.raises(BuildError, match="does not tell the types of its layers"):
        open_it()
    assert not list(place.glob("*.engine"))
    rig.check()


def test_a_gpu_that_is_full_now_costs_no_engine(opened) -> None:
    open_it, builds, rig, place = opened
    open_it().close()
    (engine,) = place.glob("*.engine")
    before = engine.read_bytes()
    rig.trt.context_bytes = 8000 * MIB
    with pytest.raises(GpuMemoryError):
        open_it()
    assert engine.read_bytes() == before and len(builds) == 1
    assert any(f"{engine} is not opened, and stays" in line for line in rig.lines)
    with pytest.raises(GpuMemoryError, match="the builder's workspace 9000"):
        open_it(workspace_mib=9000)
    assert len(builds) == 1, "it was refused before the build"
    rig.check()


def test_a_damaged_engine_is_built_again(opened) -> None:
    open_it, builds, rig, place = opened
    open_it().close()
    (engine,) = place.glob("*.engine")
    engine.write_bytes(b"damaged")
    open_it().close()
    assert len(builds) == 2 and any("building again" in line and str(engine) in line for line in rig.lines)
    rig.check()


# ---- a long drive ---------------------------------------------------------------------------------------------------


def adding(data: bytes) -> Any:
    """The state counts frames and the first score says how many; the cheapest network that shows an error in it."""

    def kernel(inputs: Any) -> dict[str, np.ndarray]:
        found = {t.name: np.zeros(t.shape, t.dtype) for t in SPEC.outputs()}
        found["bev"] = inputs["prev_bev"] + np.float32(1)
        found["scores"][0], found["scores"][1] = found["bev"][0, 0, 0], inputs["images"].sum(dtype=np.float32)
        return found

    return kernel


def test_many_steps_leak_nothing(face) -> None:
    rig = Rig(face, kernel=adding)
    backend = rig.open(b"")
    rig.fake.keep_calls = False
    inputs = tiny_bundle.make_inputs()
    nothing = {"prev_bev": np.zeros_like(inputs["prev_bev"]), "prev_valid": np.zeros(1, np.float32)}
    inputs = inputs | nothing
    remembered: deque[tuple[int, Any]] = deque(maxlen=12)
    free: set[int] = set()
    frames = 0  # since the memory was emptied
    for step in range(1, STEPS + 1):
        inputs["images"][:] = step % 251
        backend.offer("images", step % 2, inputs["images"][step % 2])
        found = backend.infer(inputs)
        frames += 1
        assert found["scores"][0] == frames
        assert found["scores"][1] == inputs["images"].sum(dtype=np.float32)
        remembered.append((frames, found["bev"]))
        inputs = inputs | {"prev_bev": found["bev"], "prev_valid": np.ones(1, np.float32)}
        if step % 700 == 0:  # as after a jump of the clock
            inputs, frames = inputs | nothing, 0
        if step % 100 == 0:
            then, state = remembered[0]
            assert (backend.fetch(state) == then).all(), "a state that is remembered stays as it was"
        if step > 20:
            free.add(rig.fake.free_bytes)
    assert len(free) <= 2, "memory on the device neither grows nor shrinks"
    assert rig.fake.count > 5 * STEPS
    backend.close()
    with pytest.raises(RuntimeError, match="closed"):
        backend.fetch(remembered[0][1])
    rig.check()


def test_cuda_that_is_not_installed_has_no_graphs() -> None:
    try:
        Graphs()
    except CudaError as error:
        assert "driver is not installed" in str(error)
