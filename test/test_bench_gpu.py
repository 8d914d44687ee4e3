"""The script for a GPU, as far as a CPU can try it: every row, what it says where it cannot run, and one table."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("torch", reason="needs torch")

import torch
from fake_cuda import FakeGpu
from torch import Tensor, nn

from bev_perception.inference import gpu as gpu_module
from bev_perception.inference.cuda_driver import DRIVERS, CudaCore, Pycuda
from bev_perception.inference.gpu import OwnerThread
from bev_perception.model_spec import TensorSpec
from training.bench import gpu, gpu_buffers, gpu_network, gpu_rows
from training.bench.gpu_network import Constants, Network, Unavailable
from training.bench.gpu_rows import ROWS, Options, Row, measured

CPU = torch.device("cpu")


class Spec:
    """Of Toy: what of ModelSpec the ways to run a network read."""

    @staticmethod
    def inputs() -> tuple[TensorSpec, ...]:
        return TensorSpec("images", (3, 8, 8), "float32"), TensorSpec("prev_bev", (4, 8, 8), "float32")

    @staticmethod
    def outputs() -> tuple[TensorSpec, ...]:
        return TensorSpec("scores", (1,), "float32"), TensorSpec("bev", (4, 8, 8), "float32")


class Toy(nn.Module):
    """One convolution, memory that adds up, and a constant made of a Python number."""

    def __init__(self) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(3, 4, 3, padding=1)

    def forward(self, images: Tensor, prev: Tensor) -> tuple[Tensor, Tensor]:
        bev = self.convolution(images[None])[0] + prev * prev.new_tensor(0.5)
        return bev.mean().reshape(1), bev.float()


@pytest.fixture
def toy() -> Network:
    torch.manual_seed(0)
    inputs = (torch.randn(3, 8, 8), torch.zeros(4, 8, 8))
    return Network(Toy().eval(), inputs, Spec(), CPU)  # type: ignore[arg-type]


def options(work: Path) -> Options:
    return Options("tiny", CPU, steps=2, warm_up=1, buffer_steps=300, work=work)


def test_the_state_of_each_frame_is_the_memory_of_the_next(toy: Network) -> None:
    with torch.no_grad():
        found = gpu_network.last_of_frames(gpu_network.eager(toy, False, Path()), toy)
        once = toy.module.convolution(toy.inputs[0][None])[0].numpy()
    np.testing.assert_allclose(found["bev"], once * (1 + 0.5 + 0.25 + 0.125), rtol=1e-5)
    assert gpu_network.FRAMES == 4


def test_the_state_comes_back_as_the_input_was_given(toy: Network) -> None:
    """Code compiled for the first input reads a state of other strides or precision wrongly, without a word."""
    turned = torch.arange(4.0 * 8 * 8).reshape(8, 8, 4).permute(2, 0, 1).half()
    _, state = toy.with_state(toy.inputs, [torch.zeros(1), turned])
    assert state.is_contiguous() and state.dtype == torch.float32
    torch.testing.assert_close(state, turned.float())


def test_times_are_of_the_steps_after_the_warm_up(toy: Network) -> None:
    calls: list[Tensor] = []

    def step(inputs: Any) -> Any:
        calls.append(inputs[1])
        return inputs[1].mean().reshape(1), inputs[1] + 1

    times = gpu_network.step_times(step, toy, steps=3, warm_up=2)
    assert len(times) == 3 and min(times) > 0
    assert [call.mean().item() for call in calls] == [0, 1, 2, 3, 4]


def test_constants_of_the_first_forward_are_given_again_in_order(toy: Network) -> None:
    def forward() -> list[Tensor]:
        return [toy.inputs[0].new_tensor([1.0, 2.0]), torch.tensor(3), torch.zeros(2)]

    with Constants() as constants:
        first = forward()
    with constants:
        constants.replay()
        again = forward()
    assert [a is b for a, b in zip(first, again)] == [True, True, False]
    assert [t.tolist() for t in again] == [[1.0, 2.0], 3, [0.0, 0.0]]


def test_the_forward_of_the_student_makes_the_same_constants_each_time() -> None:
    """Which a CUDA graph of it relies upon."""
    network = gpu_network.make_network("tiny", CPU)
    with torch.no_grad():
        expected = network.module(*network.inputs)
        with Constants() as constants:
            network.module(*network.inputs)
        with constants:
            constants.replay()
            found = network.module(*network.inputs)
    assert constants._next == len(constants._kept) > 0
    for a, b in zip(found, expected):
        torch.testing.assert_close(a, b, rtol=0, atol=0)


def test_norms_have_the_statistics_of_the_inputs_and_their_momenta_back() -> None:
    module = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4))
    images = 5 + 3 * torch.randn(2, 3, 8, 8)
    with torch.no_grad():
        gpu_network.settle_norms(module, [images])
        found = module(images)
    assert not module.training and module[1].momentum == 0.1
    torch.testing.assert_close(found.mean((0, 2, 3)), torch.zeros(4), rtol=0, atol=1e-4)
    torch.testing.assert_close(found.std((0, 2, 3)), torch.ones(4), rtol=0, atol=0.02)


@pytest.mark.parametrize("half", [False, True])
def test_what_is_compiled_is_the_exported_network(
    toy: Network, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, half: bool
) -> None:
    """Without the compiler, which takes a minute: the exported program runs in its place."""
    programs: list[Any] = []
    monkeypatch.setattr(gpu_network.shutil, "which", lambda name: name)
    monkeypatch.setattr(
        torch._inductor, "aoti_compile_and_package", lambda program, package_path: programs.append(program) or "package"
    )
    monkeypatch.setattr(torch._inductor, "aoti_load_package", lambda package: programs[0].module())
    with torch.no_grad():
        expected = gpu_network.last_of_frames(gpu_network.eager(toy, False, tmp_path), toy)
        found = gpu_network.last_of_frames(gpu_network.aot_inductor(toy, half, tmp_path), toy)
    off = max(np.abs(found[name] - array).max() for name, array in expected.items())
    assert off == 0 if not half else 1e-6 < off < 1e-2


def test_what_is_missing_is_named(toy: Network, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(Unavailable, match="needs a CUDA device"):
        gpu_network.cuda_graph(toy, False, tmp_path)
    monkeypatch.setenv("CXX", "no-such-compiler")
    with pytest.raises(Unavailable, match="no C\\+\\+ compiler: no-such-compiler"):
        gpu_network.aot_inductor(toy, False, tmp_path)
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    monkeypatch.setitem(sys.modules, "pycuda", None)
    for row, reason in (("state buffers, pycuda", "pycuda cannot be used: "), ("TensorRT, FP32", "tensorrt")):
        found = measured(row, options(tmp_path))
        assert found.median_ms is None and reason in found.note


def test_network_rows_are_compared_with_the_first(tmp_path: Path) -> None:
    """channels last changes no more than the order of sums."""
    lonely = measured("eager, FP32, channels last", options(tmp_path))
    assert lonely.scores is None and "not compared" in lonely.note
    reference = measured("eager, FP32", options(tmp_path))
    assert (reference.scores, reference.boxes, reference.state, reference.note) == (0, 0, 0, "")
    other = measured("eager, FP32, channels last", options(tmp_path))
    assert other.scores is not None and max(other.scores, other.boxes or 0, other.state or 0) < 1e-3
    assert 0 < (other.median_ms or 0) <= (other.p95_ms or 0)


def test_a_row_that_fails_says_how(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(name: str, options: Options) -> Row:
        raise ZeroDivisionError("one\ntwo")

    monkeypatch.setitem(ROWS, "eager, FP16", fail)
    assert measured("eager, FP16", options(tmp_path)).note == "failed: ZeroDivisionError: one"


class Engine:
    """As TensorRtBackend: answers by name, the state as a handle that only it reads."""

    def __init__(self) -> None:
        self.network, self.closed = gpu_network.make_network("tiny", CPU), False

    def infer(self, inputs: dict[str, Any]) -> dict[str, Any]:
        spec = self.network.spec
        arrays = inputs | {"prev_bev": self.fetch(inputs["prev_bev"])}
        with torch.no_grad():
            outputs = self.network.module(*(torch.from_numpy(arrays[t.name]) for t in spec.inputs()))
        found = {t.name: value.numpy() for t, value in zip(spec.outputs(), outputs)}
        return found | {"bev": (self, found["bev"])}

    def fetch(self, value: Any) -> np.ndarray:
        return value[1] if isinstance(value, tuple) else value

    def close(self) -> None:
        self.closed = True


def test_the_engines_row_is_compared_after_as_many_frames(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With engines in the place of TensorRT's that do what the network does: no more than the order of sums differs."""
    pytest.importorskip("nuscenes", reason="needs nuscenes-devkit")
    pytest.importorskip("lightning", reason="needs lightning")
    pytest.importorskip("onnx", reason="needs onnx")
    from bev_perception import bundle
    from bev_perception.inference import tensorrt_backend
    from training import export

    engine = Engine()
    monkeypatch.setattr(gpu_rows, "import_builder", lambda name: None)
    monkeypatch.setattr(export, "export_bundle", lambda detector, path: path)
    monkeypatch.setattr(bundle, "load_bundle", lambda path: path)
    monkeypatch.setattr(tensorrt_backend, "open_tensorrt", lambda bundle, **how: engine)
    measured("eager, FP32", options(tmp_path))
    row = measured("TensorRT, FP16", options(tmp_path))
    assert (row.scores, row.boxes, row.state, row.note) == (0, 0, 0, "host to host") and row.median_ms
    assert engine.closed


# ---- state buffers --------------------------------------------------------------------------------------------------


def test_buffers_are_reused_and_every_step_is_checked(tmp_path: Path) -> None:
    row = measured("state buffers, PyTorch", options(tmp_path))
    assert row.note == "300 steps, each result right; 14 buffers" and row.median_ms


class Wrong(gpu_buffers.TorchMemory):
    """Writes into the state of the frame before as well, from some step on."""

    def copy(self, target: Tensor, source: Tensor) -> None:
        super().copy(target, source)
        if source[50] == 50:
            source[3] = -1.0


def test_a_state_that_is_overwritten_is_found() -> None:
    thread = OwnerThread("wrong")
    with pytest.raises(RuntimeError, match="step 100, an earlier state: 1 of 16384 words"):
        gpu_buffers.exercise(thread.run, Wrong(CPU), 200)
    thread.stop()


def test_handles_that_leak_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    thread = OwnerThread("leaking")
    monkeypatch.setattr(gpu_module.BufferPool, "give_back", lambda self, buffer: None)
    with pytest.raises(RuntimeError, match="40 buffers were made for 12 states"):
        gpu_buffers.exercise(thread.run, gpu_buffers.TorchMemory(CPU), 40)
    thread.stop()


@pytest.mark.parametrize("driver", DRIVERS)
def test_the_drivers_of_the_backend_do_the_same_and_free_every_buffer(
    driver: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a GPU made of Python, which sees what is read too early or freed too soon."""
    fake = FakeGpu()
    functions = {"pycuda": lambda: Pycuda(fake.pycuda()), "cuda-core": lambda: CudaCore(fake.bindings())}
    monkeypatch.setattr(gpu_rows, "DRIVERS", functions)
    row = measured(f"state buffers, {driver}", options(tmp_path))
    assert row.note == "300 steps, each result right; 14 buffers" and row.median_ms
    assert fake.breaches == [] and fake.left() == {}


# ---- the command ----------------------------------------------------------------------------------------------------


def test_one_table_of_rows_that_ran_in_processes_of_their_own(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "gpu.json"
    command = ["--device", "cpu", "--size", "tiny", "--steps", "2", "--warm-up", "1", "--out", str(out)]
    assert gpu.main([*command, "--only", "eager, FP32"]) == 0
    table = [line for line in capsys.readouterr().out.splitlines() if line.startswith("| ")]
    assert [line.split(" | ")[0] for line in table] == ["| ", "| ---", "| eager, FP32"]
    assert table[-1].endswith(" | 0.0e+00 | 0.0e+00 | 0.0e+00 |  |")
    written = json.loads(out.read_text())
    assert (written["size"], written["steps"], written["cuda"]) == ("tiny", 2, None)
    (row,) = (Row(**row) for row in written["rows"])
    assert row.name == "eager, FP32" and row.median_ms is not None and 0 < row.median_ms <= (row.p95_ms or 0)


def test_rows_that_die_or_take_too_long_are_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shell = tmp_path / "python"
    monkeypatch.setattr(sys, "executable", str(shell))
    shell.write_text("#!/bin/sh\necho the driver is gone\nkill -9 $$\n")
    shell.chmod(0o755)
    row = gpu.in_own_process("eager, FP16", options(tmp_path), 60.0)
    assert row.note == "the row's process failed with status -9: the driver is gone"
    shell.write_text("#!/bin/sh\necho compiling; sleep 60 & echo $! > " + str(tmp_path / "pid") + "; wait\n")
    row = gpu.in_own_process("eager, FP16", options(tmp_path), 1.0)
    assert row.note == "the row's process did not end within 1 s: compiling"
    grandchild = (tmp_path / "pid").read_text().strip()
    until = time.monotonic() + 20
    while _lives(grandchild) and time.monotonic() < until:  # it was killed, and the system needs a moment
        time.sleep(0.05)
    assert not _lives(grandchild)


def _lives(pid: str) -> bool:
    try:
        return Path("/proc", pid, "stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def test_without_time_no_row_is_begun(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert gpu.main(["--device", "cpu", "--limit-s", "1", "--out", str(tmp_path / "gpu.json")]) == 0
    rows = json.loads((tmp_path / "gpu.json").read_text())["rows"]
    assert [row["name"] for row in rows] == list(ROWS)
    assert {row["note"] for row in rows} == {"not begun: no time was left of --limit-s"}


def test_a_device_that_is_not_there_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    if torch.cuda.is_available():
        pytest.skip("there is a CUDA device")
    assert gpu.main([]) == 1
    assert "sees no CUDA device" in capsys.readouterr().err
