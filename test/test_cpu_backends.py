"""Engines on the processor against the numpy reference, their refusals, and the same bits over runs and processes."""

from __future__ import annotations

import dataclasses
import hashlib
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from bev_perception.inference.backend import open_backend
from bev_perception.inference.interface import default_threads
from bev_perception.inference.proof import Tolerance, compare_outputs
from bev_perception.model_spec import BundleError

pytest.importorskip("onnx")
import tiny_bundle
from test_bundle import endless_model

ROOT = Path(__file__).parents[1]


@pytest.fixture(params=["onnxruntime", "openvino"])
def name(request: pytest.FixtureRequest) -> str:
    return pytest.importorskip(request.param, reason=f"needs {request.param}").__name__


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    return tiny_bundle.write_bundle(tmp_path_factory.mktemp("tiny"))


def digest(outputs) -> str:
    return hashlib.sha256(b"".join(outputs[t.name].tobytes() for t in tiny_bundle.SPEC.outputs())).hexdigest()


@pytest.mark.parametrize("seed", range(5))
def test_outputs_equal_the_numpy_reference(name, bundle, seed):
    inputs = tiny_bundle.make_inputs(seed=seed)
    inputs["camera_valid"][0] = seed % 2
    inputs["prev_valid"][0] = seed % 3 > 0
    backend = open_backend(bundle, name, threads=1)
    found = backend.infer(inputs)
    assert {name: backend.fetch(value).dtype.name for name, value in found.items()} == {
        t.name: t.dtype for t in tiny_bundle.SPEC.outputs()
    }
    compare_outputs(found, tiny_bundle.reference(inputs), bundle.spec, Tolerance(1e-5, 1e-4, 1e-5, 0.0), "reference")
    backend.close()


def test_the_state_can_be_fed_back_and_outputs_are_not_reused(name, bundle):
    backend = open_backend(bundle, name, threads=1)
    inputs = tiny_bundle.make_inputs()
    first = backend.infer(inputs)
    kept = first["bev"].copy()
    second = backend.infer(inputs | {"prev_bev": first["bev"]})
    assert np.array_equal(first["bev"], kept)
    assert not np.array_equal(second["bev"], kept)


def test_wrong_inputs_never_reach_the_engine(name, bundle):
    backend = open_backend(bundle, name, threads=1)
    inputs = tiny_bundle.make_inputs()
    with pytest.raises(ValueError, match="`prev_from_curr` is float64"):
        backend.infer(inputs | {"prev_from_curr": np.eye(4)})


def test_closed_backend_says_so(name, bundle):
    backend = open_backend(bundle, name)
    backend.close()
    backend.close()
    with pytest.raises(RuntimeError, match="closed"):
        backend.infer(tiny_bundle.make_inputs())


def test_repeats_bit_for_bit_over_runs_sessions_and_processes(name, bundle):
    inputs = tiny_bundle.make_inputs()
    digests = set()
    for _ in range(2):
        backend = open_backend(bundle, name, threads=2)
        digests |= {digest(backend.infer(inputs)) for _ in range(10)}
        backend.close()
    script = (
        "import sys, tiny_bundle, test_cpu_backends as t\n"
        "from bev_perception.inference.backend import open_backend\n"
        "from bev_perception.bundle import load_bundle\n"
        "backend = open_backend(load_bundle(sys.argv[1]), sys.argv[2], threads=2)\n"
        "print(t.digest(backend.infer(tiny_bundle.make_inputs())))\n"
    )
    environment = os.environ | {"PYTHONPATH": f"{ROOT}:{ROOT / 'test'}"}
    command = [sys.executable, "-c", script, str(bundle.path), name]
    result = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    digests.add(result.stdout.strip())
    assert len(digests) == 1


def test_needs_no_torch_and_no_gpu_package(name, bundle):
    script = (
        "import sys\n"
        "from bev_perception.inference.backend import open_backend\n"
        "from bev_perception.inference.proof import self_test\n"
        "from bev_perception.bundle import load_bundle\n"
        "bundle = load_bundle(sys.argv[1])\n"
        "self_test(open_backend(bundle, sys.argv[2]), bundle)\n"
        "print(sorted({'torch', 'onnx', 'tensorrt', 'pycuda', 'rclpy'} & set(sys.modules)))\n"
    )
    result = subprocess.run(
        [sys.executable, "-c", script, str(bundle.path), name],
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert result.stdout.strip() == "[]"


def test_threads(name, bundle):
    assert 1 <= default_threads() <= 4
    assert open_backend(bundle, name).details["threads"] == str(default_threads())
    assert open_backend(bundle, name, threads=1).details["threads"] == "1"
    with pytest.raises(ValueError, match="threads must be 0"):
        open_backend(bundle, name, threads=-1)


def test_idle_threads_do_not_spin_unless_asked(bundle):
    assert open_backend(bundle).details["spinning"] == "0"
    assert open_backend(bundle, spin=True).details["spinning"] == "1"


def test_a_provider_that_is_absent_is_an_error_naming_what_is_there(bundle):
    import onnxruntime

    if "CUDAExecutionProvider" in onnxruntime.get_available_providers():
        pytest.skip("this onnxruntime has CUDA")
    with pytest.raises(ValueError, match=r"provider 'cuda' is not available.*\['cpu'\].*onnxruntime-gpu"):
        open_backend(bundle, provider="cuda")
    with pytest.raises(ValueError, match="provider 'npu' is not available"):
        open_backend(bundle, provider="npu")


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("prev_dt", "previous_dt", r"inputs: unexpected `previous_dt`; `prev_dt` is missing"),
        ("scores", "confidences", r"outputs: unexpected `confidences`; `scores` is missing"),
        ("float[1] prev_dt)", "float[1,1] prev_dt)", r"`prev_dt` is float32 \[1, 1\], the spec says float32 \[1\]"),
        ("float[1] radar_valid", "float[N] radar_valid", r"`radar_valid` is float32 \[('N'|None)\], the spec says"),
        ("uint8[2,8,16,3] images", "float[2,8,16,3] images", r"`images` is float32 .* the spec says uint8"),
    ],
)
def test_a_model_with_another_interface_is_refused_by_name(name, tmp_path, old, new, message):
    assert old in tiny_bundle.GRAPH
    other = tiny_bundle.write_bundle(tmp_path, tiny_bundle.make_model(tiny_bundle.GRAPH.replace(old, new)))
    with pytest.raises(BundleError, match=message):
        open_backend(other, name)


def test_a_spec_that_differs_from_the_model_is_refused(name, tmp_path):
    other = tiny_bundle.write_bundle(tmp_path, spec=dataclasses.replace(tiny_bundle.SPEC, top_k=21))
    with pytest.raises(BundleError, match=r"`scores` is float32 \[20\], the spec says float32 \[21\]"):
        open_backend(other, name)


@pytest.mark.parametrize(
    ("data", "message"), [(b"garbage", "no ONNX file"), (b"", r"(ONNX Runtime|OpenVINO) .* refuses it")]
)
def test_garbage_with_a_matching_hash_is_a_bundle_error(name, tmp_path, data, message):
    loaded = tiny_bundle.write_bundle(tmp_path)
    loaded.onnx_path.write_bytes(data)
    spec = dataclasses.replace(loaded.spec, onnx_sha256=hashlib.sha256(data).hexdigest())
    with pytest.raises(BundleError, match=message):
        open_backend(dataclasses.replace(loaded, spec=spec), name)


def test_openvino_takes_no_network_in_which_it_cannot_be_stopped(tmp_path):
    """Interrupted within a loop it goes on; ONNX Runtime stops there (test_bundle.py)."""
    pytest.importorskip("openvino", reason="needs openvino")
    endless = tiny_bundle.write_bundle(tmp_path, endless_model())
    with pytest.raises(BundleError, match=r"it holds Loop, in which OpenVINO cannot be stopped.*onnxruntime"):
        open_backend(endless, "openvino", threads=1)


def test_an_interrupted_backend_raises(name, bundle):
    backend = open_backend(bundle, name, threads=1)
    backend.infer(tiny_bundle.make_inputs())
    backend.interrupt()
    with pytest.raises(Exception, match=r"(?i)interrupt|terminat"):
        backend.infer(tiny_bundle.make_inputs())
    backend.close()


def test_openvino_computes_in_32_bits(bundle):
    """On processors with bfloat16 it would not, left to itself."""
    pytest.importorskip("openvino", reason="needs openvino")
    assert open_backend(bundle, "openvino").details["precision"] == "fp32"
