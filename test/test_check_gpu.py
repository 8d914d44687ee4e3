"""The table for a machine with a GPU, as far as one made of Python can try it, and what it says without any."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("onnx")
import tiny_bundle
from fake_cuda import FakeGpu
from fake_tensorrt import FakeTensorRt, inspector_layers

from bev_perception.bundle import Bundle
from bev_perception.inference import check_gpu, tensorrt_backend
from bev_perception.inference.builder import Built
from bev_perception.inference.capture import Graphs
from bev_perception.inference.check_gpu import FAILED, MISSING, OK, Options, check, main
from bev_perception.inference.cuda_driver import Pycuda
from bev_perception.inference.gpu import BufferPool, Gpu
from bev_perception.inference.tensorrt_backend import open_tensorrt


@pytest.fixture(scope="module")
def bundle(tmp_path_factory) -> Bundle:
    return tiny_bundle.write_bundle(tmp_path_factory.mktemp("tiny"))


@pytest.fixture
def machine(tmp_path, monkeypatch):
    """(the fake GPU, its TensorRT, rows(bundle, precisions)). Engines are the ONNX itself, and say that they are in the
    precision that was asked for, or in another."""
    fake = FakeGpu()
    fake.keep_calls = False
    trt = FakeTensorRt(fake, tiny_bundle.SPEC)
    monkeypatch.setattr(tensorrt_backend.api, "import_builder", lambda name: trt)
    built = lambda trt, onnx, spec, precision, options, log: Built(onnx, 0.0)  # noqa: E731
    monkeypatch.setattr(tensorrt_backend, "build_serialized", built)

    def open_gpu() -> Gpu:
        return Gpu(0, Pycuda(fake.pycuda()), Graphs(fake.library()))

    def rows(bundle: Bundle, *precisions: str, says: str = "") -> dict[str, check_gpu.Row]:
        def open_engine(bundle: Bundle, precision: str, **how: Any) -> Any:
            trt.layers = inspector_layers({says or precision: 4})
            return open_tensorrt(bundle, precision=precision, gpu=open_gpu(), **how)

        options = Options(precisions, str(tmp_path), 200, 10, open_engine, open_gpu)
        return {row.name: row for row in check(bundle, options)}

    return fake, trt, rows


def test_every_row_of_a_machine_where_all_is_well(bundle, machine) -> None:
    fake, trt, rows = machine
    found = rows(bundle, "fp32", "fp16")
    assert list(found) == [
        "packages", "GPU", "state buffers, 200 steps",
        *(
            f"{precision}, {graph}: {what}"
            for precision in ("fp32", "fp16")
            for graph in ("graph", "no graph")
            for what in ("built and proven", "20 frames as ONNX Runtime", "10 frames, all at once",
                         "10 frames, images one by one")
        ),
    ]  # fmt: skip
    assert {row.result for name, row in found.items() if name != "packages"} == {OK}
    assert found["GPU"].figures.startswith("Fake GPU sm87, CUDA 12.6 by pycuda, driver ")
    assert "13 buffers, each result right, memory as before" in found["state buffers, 200 steps"].figures
    assert "layers fp16 4; of these convolutions: fp16 4" in found["fp16, graph: built and proven"].figures
    assert "graph no: asked not to" in found["fp16, no graph: built and proven"].figures
    assert found["fp32, graph: 20 frames as ONNX Runtime"].figures == "scores 0, boxes 0, bev 0"
    assert "ms in the median" in found["fp32, graph: 10 frames, images one by one"].figures
    assert fake.breaches == [] and fake.left() == {} and trt.live == []


def test_an_engine_that_goes_wrong_after_its_proof_is_found(bundle, machine) -> None:
    fake, trt, rows = machine
    right = trt.kernel

    def wrong_later(onnx: bytes) -> Any:
        compute, count = right(onnx), [0]

        def kernel(inputs: Any) -> Any:
            count[0] += 1
            found = compute(inputs)
            return found | {"boxes": found["boxes"] + np.float32(0.1 * (count[0] > 8))}

        return kernel

    trt.kernel = wrong_later
    found = rows(bundle, "fp32")
    wrong = found["fp32, graph: 20 frames as ONNX Runtime"]
    assert wrong.result == FAILED and "`boxes` differs" in wrong.figures
    assert found["fp32, graph: built and proven"].result == OK
    assert fake.left() == {}


def test_an_engine_of_another_precision_is_a_failed_row(bundle, machine) -> None:
    _, _, rows = machine
    found = rows(bundle, "fp16", says="fp32")
    assert [row.result for name, row in found.items() if name.startswith("fp16")] == [FAILED, FAILED]
    assert "not the fp16 that was asked for" in found["fp16, graph: built and proven"].figures


def test_handles_that_leak_and_memory_that_is_lost_are_failed_rows(bundle, machine, monkeypatch) -> None:
    fake, _, rows = machine
    with monkeypatch.context() as patch:
        patch.setattr(BufferPool, "give_back", lambda self, buffer: None)
        assert "200 buffers were made for 12 states" in rows(bundle)["state buffers, 200 steps"].figures
    free = fake.free

    def keeps(address: int) -> None:
        free(address)
        fake.free_bytes -= 1 << 20

    monkeypatch.setattr(fake, "free", keeps)
    lost = rows(bundle)["state buffers, 200 steps"]
    assert lost.result == FAILED and "13.0 MiB of the device did not come back" in lost.figures


def test_without_a_gpu_the_command_says_what_is_missing(bundle, tmp_path: Path, capsys, monkeypatch) -> None:
    for package in ("tensorrt", "pycuda.driver", "cuda.bindings.driver"):
        monkeypatch.setitem(__import__("sys").modules, package, None)
    assert main([str(bundle.path), "--cache", str(tmp_path), "--precision", "fp32"]) == 1
    lines = capsys.readouterr().out.splitlines()
    rows = [line.split(" | ") for line in lines if line.startswith("| ")]
    assert [row[0] for row in rows] == ["| check", "| ---", "| packages", "| GPU", "| fp32, graph: built and proven"]
    assert {row[1] for row in rows[2:]} == {MISSING}
    assert "not here: tensorrt (ModuleNotFoundError)" in rows[2][2] and "onnxruntime 1." in rows[2][2]
    assert "needs pycuda or cuda-core" in rows[3][2] and "package tensorrt is missing" in rows[4][2]
    assert lines[-1] == "not checked or not right: packages, GPU, fp32, graph: built and proven"


def test_what_cannot_be_asked_is_refused(tmp_path: Path, capsys) -> None:
    assert main([str(tmp_path)]) == 1
    assert "model.onnx is missing" in capsys.readouterr().err
    assert main([str(tmp_path), "--frames", "0"]) == 1
    assert "must be 1 or more" in capsys.readouterr().err
