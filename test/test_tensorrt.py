"""TensorRT: builder and parser for real through TensorRT-RTX, which builds without a GPU; running only where one is."""

from __future__ import annotations

import dataclasses
import gc
import signal
import subprocess
import sys
import threading
import types
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bev_perception.bundle import load_bundle
from bev_perception.inference import budget, build_engine, tensorrt_api
from bev_perception.inference.backend import open_backend
from bev_perception.inference.builder import BuildOptions, as_spec, build_serialized
from bev_perception.inference.dry_run import dry_run
from bev_perception.inference.gpu import BufferPool, DeviceState, OwnerThread
from bev_perception.inference.half import LAST_CONVOLUTION, halve
from bev_perception.inference.precisions import Counts, count_precisions, require, wanted
from bev_perception.inference.proof import TOLERANCES, compare_outputs
from bev_perception.inference.tensorrt_api import BuildError, import_builder
from bev_perception.inference.tensorrt_backend import engine_key
from bev_perception.model_spec import BundleError, TensorSpec

pytest.importorskip("onnx")
import onnx
import tiny_bundle

ROOT = Path(__file__).parents[1]
RTX = ["--builder", "tensorrt_rtx", "--without-gpu"]


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    return tiny_bundle.write_bundle(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="module")
def rtx():
    try:
        return import_builder("tensorrt_rtx")
    except ImportError as error:
        pytest.skip(str(error))


def changed(graph: str) -> bytes:
    return tiny_bundle.make_model(graph).SerializeToString()


# ---- builder and parser ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_the_command_builds_an_engine_and_finds_it_again(rtx, bundle, tmp_path, capsys, precision):
    command = [str(bundle.path), *RTX, "--precision", precision, "--cache", str(tmp_path)]
    assert build_engine.main(command) == 0
    first = capsys.readouterr().out.splitlines()
    assert first[-1].startswith(f"{tmp_path}/tiny_{precision}_") and "not proven" in first[-2]
    assert any("parsed" in line for line in first) and any(line.startswith("built") for line in first)
    assert build_engine.main(command) == 0
    second = capsys.readouterr().out.splitlines()
    assert second[-1] == first[-1] and not any(line.startswith("built") for line in second)
    assert build_engine.main([*command, "--force"]) == 0
    assert "asked to" in capsys.readouterr().out


def test_the_command_says_what_is_wrong_and_fails(tmp_path, capsys):
    assert build_engine.main([str(tmp_path)]) == 1
    assert "model.onnx is missing" in capsys.readouterr().err


def test_the_parser_names_the_node_it_refuses(rtx):
    graph = tiny_bundle.GRAPH.replace(
        "bev = Squeeze (state, axis_0)", "bev = Squeeze (state, axis_0)\nx = NonZero (bev)"
    )
    model = onnx.load_model_from_string(changed(graph))
    next(node for node in model.graph.node if node.op_type == "NonZero").name = "the_culprit"
    model.graph.output.append(onnx.helper.make_tensor_value_info("x", onnx.TensorProto.INT64, None))
    with pytest.raises(BuildError, match=r"(?s)cannot parse the model.*the_culprit.*NonZero"):
        build_serialized(rtx, model.SerializeToString(), tiny_bundle.SPEC, log=lambda line: None)


def test_uint8_images_must_be_cast_first(rtx):
    """What TensorRT refuses in an exported student, so that a change of TensorRT here is noticed."""
    graph = tiny_bundle.GRAPH.replace(
        "pixels = Cast <to = 1> (images)",
        "batch = Unsqueeze (images, axis_0)\nsame = Squeeze (batch, axis_0)\npixels = Cast <to = 1> (same)",
    )
    with pytest.raises(BuildError, match="UInt8"):
        build_serialized(rtx, changed(graph), tiny_bundle.SPEC, log=lambda line: None)


def test_another_interface_is_refused_before_the_long_build(rtx):
    lines: list[str] = []
    spec = dataclasses.replace(tiny_bundle.SPEC, top_k=30)
    with pytest.raises(BundleError, match=r"network outputs: `scores` is float32 \[20\], the spec says float32 \[30\]"):
        build_serialized(rtx, changed(tiny_bundle.GRAPH), spec, log=lines.append)
    assert not any("building" in line for line in lines)


def test_garbage_and_unknown_precision(rtx):
    with pytest.raises(BuildError, match="cannot parse"):
        build_serialized(rtx, b"garbage", tiny_bundle.SPEC, log=lambda line: None)
    with pytest.raises(ValueError, match="int4"):
        build_serialized(rtx, changed(tiny_bundle.GRAPH), tiny_bundle.SPEC, "int4")


def test_int32_is_taken_for_int64_only_where_the_spec_has_an_int64_output(rtx):
    spec = tiny_bundle.SPEC
    assert as_spec("labels", (20,), rtx.DataType.INT32, spec) == TensorSpec("labels", (20,), "int64")
    assert as_spec("labels", (20,), rtx.DataType.INT64, spec) == TensorSpec("labels", (20,), "int64")
    assert as_spec("scores", (20,), rtx.DataType.INT32, spec).dtype == "int32"
    assert as_spec("scores", (20,), rtx.DataType.HALF, spec).dtype == "float16"


def test_missing_packages_are_named(bundle):
    try:
        import tensorrt  # noqa: F401
    except ImportError:
        with pytest.raises(ImportError, match=r"the Python package tensorrt is missing; .*JetPack"):
            open_backend(bundle, "tensorrt")
    else:
        pytest.skip("tensorrt is installed here")


def test_the_shipped_student_is_accepted(rtx):
    """In 8 bits, as it is shipped."""
    shipped = load_bundle(ROOT / "bev_perception" / "bundles" / "demo")
    built = build_serialized(rtx, shipped.model(), shipped.spec, "bundle")
    assert built.engine and built.share > 0.9


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_the_student_before_it_was_in_8_bits_is_accepted(rtx, precision, tmp_path):
    pytest.importorskip("lightning", reason="needs lightning")
    from training.export import export_bundle
    from training.trainer.checkpoint import load_network

    student = load_network(ROOT / "training" / "checkpoints" / "city_student.ckpt").detector
    bundle = load_bundle(export_bundle(student, tmp_path / "bundle"))
    lines: list[str] = []
    built = build_serialized(rtx, bundle.model(), bundle.spec, precision, log=lines.append)
    assert built.engine and built.share > 0.9
    assert precision == "fp32" or int(lines[0].split()[0]) > 20  # convolutions in fp16
    assert precision == "fp32" or any(LAST_CONVOLUTION in line for line in lines)


def test_the_command_names_every_node_that_stays_when_asked(rtx, bundle, tmp_path, capsys):
    command = [str(bundle.path), *RTX, "--precision", "fp16", "--cache", str(tmp_path)]
    assert build_engine.main([*command, "--verbose"]) == 0
    lines = capsys.readouterr().out.splitlines()
    kept = halve(bundle.model()).kept
    assert len(kept) > 20 and [line for line in lines if line.startswith("  fp32: ")] == [
        f"  fp32: {one.node} ({one.op}) {one.reason}" for one in kept
    ]


# ---- options, dry run, precisions -----------------------------------------------------------------------------------


def with_refused(operator: str) -> bytes:
    """Two nodes that no TensorRT takes, culprit_a and culprit_b, and one that reads what they make."""
    graph = tiny_bundle.GRAPH.replace(
        "bev = Squeeze (state, axis_0)",
        f"bev = Squeeze (state, axis_0)\na = {operator} (prev_from_curr)\nb = {operator} (prev_from_curr)\n"
        "c = Add (a, b)",
    )
    model = onnx.parser.parse_model(graph)
    model.graph.initializer.extend(
        onnx.numpy_helper.from_array(array, name) for name, array in tiny_bundle.weights().items()
    )
    for node in model.graph.node:
        if node.op_type == operator:
            node.name = f"culprit_{node.output[0]}"
    return model.SerializeToString()


@pytest.mark.parametrize("operator", ["NonZero", "Det"])
def test_a_dry_run_names_every_node_that_is_refused(rtx, operator):
    """The parser tells the first one at once of NonZero, and both at once of Det."""
    model = with_refused(operator)
    expected = rf"(?s)refuses 2 nodes of the model:.*culprit_a \({operator}\).*culprit_b \({operator}\)"
    with pytest.raises(BuildError, match=expected):
        dry_run(rtx, model, tiny_bundle.SPEC, "fp32", lambda line: None)
    with pytest.raises(BuildError, match="culprit_a"):  # a build stops at the first, and says so too
        build_serialized(rtx, model, tiny_bundle.SPEC, log=lambda line: None)


def test_a_dry_run_says_what_it_could_not_look_at(rtx):
    with pytest.raises(BuildError, match="not looked at: the file is no ONNX"):
        dry_run(rtx, b"garbage", tiny_bundle.SPEC, "fp32", print)


def test_a_dry_run_tells_the_layers_and_builds_nothing(rtx, bundle, tmp_path, capsys):
    command = [str(bundle.path), *RTX, "--dry-run", "--cache", str(tmp_path)]
    assert build_engine.main([*command, "--precision", "fp16"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[-1].endswith("accepts the model; nothing was built, nothing was run")
    assert lines[-2] == "convolutions: fp16 2, fp32 2" and "CONVOLUTION 4" in lines[-3]
    assert not any(line.startswith("built") for line in lines) and not list(tmp_path.iterdir())
    with pytest.raises(BundleError, match="the spec says float32"):
        dry_run(rtx, bundle.model(), dataclasses.replace(tiny_bundle.SPEC, top_k=30), "fp32", print)


def test_the_build_tells_its_progress(rtx, bundle, monkeypatch):
    lines: list[str] = []
    monkeypatch.setattr(tensorrt_api, "TELL_S", 0.0)
    build_serialized(rtx, bundle.model(), bundle.spec, log=lines.append)
    phases = [line for line in lines if line.startswith("  ")]
    assert "  Building engine" in phases and len(phases) > 4
    assert any(" of " in line for line in phases), "steps of a phase"


# Presses Ctrl-C when the builder calls back, where Python's own handler is swallowed by TensorRT.
INTERRUPTED = """
import os, signal, sys
from bev_perception.bundle import load_bundle
from bev_perception.inference import builder, tensorrt_api
def log(line):
    if line == "  Building engine":
        os.kill(os.getpid(), signal.SIGINT)
        "a" + "b"  # Python looks at signals between two steps
bundle = load_bundle(sys.argv[1])
signal.signal(signal.SIGINT, signal.default_int_handler)
builder.build_serialized(tensorrt_api.import_builder("tensorrt_rtx"), bundle.model(), bundle.spec, log=log)
print("went on")
"""


def test_ctrl_c_ends_a_build(rtx, bundle):
    ended = subprocess.run(
        [sys.executable, "-c", INTERRUPTED, str(bundle.path)], capture_output=True, text=True, check=False, cwd=ROOT
    )
    assert (ended.returncode, ended.stdout) == (-signal.SIGINT, ""), ended.stderr
    chosen = signal.getsignal(signal.SIGINT)
    build_serialized(rtx, bundle.model(), bundle.spec, log=lambda line: None)
    assert signal.getsignal(signal.SIGINT) is chosen


def test_options_reach_the_builder(rtx, bundle, tmp_path):
    """As far as a builder without a GPU obeys them: what it is asked for is read back from the configuration."""
    seen: list[Any] = []

    class Builder(rtx.Builder):
        def build_serialized_network(self, network, config):
            seen.append((config.get_memory_pool_limit(rtx.MemoryPoolType.WORKSPACE), config.builder_optimization_level))
            seen.append((config.get_flag(rtx.BuilderFlag.TF32), config.profiling_verbosity.name))
            return rtx.Builder.build_serialized_network(self, network, config)

    names = {name: getattr(rtx, name) for name in dir(rtx) if not name.startswith("__")}
    watched = types.SimpleNamespace(**names | {"Builder": Builder}, __name__=rtx.__name__, __version__=rtx.__version__)
    lines: list[str] = []
    options = BuildOptions(workspace_mib=64, level=1, timings=str(tmp_path / "timings"))
    build_serialized(watched, bundle.model(), bundle.spec, "fp32", options, lines.append)
    assert seen == [(64 << 20, 1), (False, "DETAILED")]
    assert f"{tmp_path}/timings is not used" in " ".join(lines), "TensorRT for RTX has none"
    for wrong in ({"workspace_mib": 0}, {"level": 6}):
        with pytest.raises(ValueError, match=r"at least 1 is needed|choose one of 0 to 5"):
            BuildOptions(**wrong)


def test_a_precision_that_the_graph_has_not_is_refused(rtx, bundle):
    with pytest.raises(ValueError, match="is in fp32; quantise it first"):
        build_serialized(rtx, bundle.model(), bundle.spec, "int8", log=lambda line: None)
    in_8_bits = dataclasses.replace(tiny_bundle.SPEC, precision="int8")
    assert wanted("bundle", tiny_bundle.SPEC) == "fp32" and wanted("bundle", in_8_bits) == "int8"
    for asked in ("fp32", "fp16"):
        with pytest.raises(ValueError, match=f"precision {asked}: .* ask for int8"):
            wanted(asked, in_8_bits)


def test_plugins_are_loaded_and_part_of_the_key(rtx, bundle, tmp_path):
    with pytest.raises(OSError, match=r"none\.so"):
        build_serialized(rtx, b"", bundle.spec, "fp32", BuildOptions(plugins=("/nowhere/none.so",)), print)
    library = tmp_path / "lib.so"
    library.write_bytes(b"one")
    keys = set()
    for content in (b"one", b"two"):
        library.write_bytes(content)
        keys.add(engine_key(bundle, "tensorrt", "10.3", "fp32", BuildOptions(plugins=(str(library),))).file_name)
    assert len(keys) == 2


def test_memory_for_a_build_is_known_before_it_begins(bundle, monkeypatch, capsys, tmp_path):
    monkeypatch.setattr(budget, "available", lambda: 100 * 2**20)
    assert build_engine.main([str(bundle.path), *RTX, "--cache", str(tmp_path)]) == 1
    assert "a build is taken to need 1024 MiB and 100 are free" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_a_build_without_a_gpu_is_for_rtx_only(bundle, capsys):
    assert build_engine.main([str(bundle.path), "--without-gpu"]) == 1
    assert "tensorrt builds on a GPU only; name --builder tensorrt_rtx" in capsys.readouterr().err


def test_what_an_engine_says_of_itself_is_counted():
    """Lines as TensorRT 8.6 and 10 have them, and fields as 11 has them."""
    layers = [
        {"LayerType": "CaskConvolution", "Inputs": [{"Format/Datatype": "Row major linear FP32"}], "Outputs": []},
        {"LayerType": "CaskConvolution", "Inputs": [{"Format/Datatype": "Thirty-two wide channel vectorized row major "
         "Int8 format"}], "Outputs": [{"Format/Datatype": "Row major linear FP16 format"}]},
        {"LayerType": "kgen", "Inputs": [{"Format/Datatype": "Half"}], "Outputs": []},
        {"LayerType": "Constant", "Inputs": [], "Outputs": [{"Format": "Channel major BFloat16", "Datatype": ""}]},
        {"LayerType": "Reformat", "Inputs": [{"Datatype": "UInt8", "Format": "Row major"}], "Outputs": []},
        {"LayerType": "Shape", "Inputs": [], "Outputs": []},
        {"LayerType": "gemm", "ParameterType": "Convolution", "Inputs": [{"DataType": "Float"}], "Outputs": []},
    ]  # fmt: skip
    counts = count_precisions(layers)
    assert counts.layers == {"fp32": 2, "int8": 1, "fp16": 1, "bf16": 1, "uint8": 1, "unknown": 1}
    assert counts.convolutions == {"fp32": 2, "int8": 1}
    assert str(counts).startswith("fp32 2, ") and str(counts).endswith("of these convolutions: fp32 2, int8 1")


@pytest.mark.parametrize(
    ("asked", "convolutions", "share", "reason"),
    [
        ("fp32", {"fp32": 9}, 0.0, ""),
        ("fp32", {"fp32": 9, "int8": 1}, 0.0, "1 layers are in int8"),
        ("fp16", {"fp16": 45, "fp32": 2}, 45 / 47, ""),
        ("fp16", {"fp16": 42, "fp32": 5}, 45 / 47, ""),
        (
            "fp16",
            {"fp16": 1, "fp32": 46},
            45 / 47,
            "1 of 47 convolutions are in fp16, the network has 96%",
        ),
        ("fp16", {"fp32": 47}, 0.0, "none of its 47 layers is in fp16"),
        ("int8", {"int8": 40, "fp32": 7}, 40 / 47, ""),
        ("int8", {"int8": 40, "fp16": 7}, 40 / 47, "7 layers are in fp16"),
    ],
)
def test_an_engine_is_what_was_asked_for_or_refused(asked, convolutions, share, reason):
    counts = Counts(Counter(convolutions), Counter(convolutions))
    if not reason:
        return require(counts, asked, share)
    with pytest.raises(BuildError, match=f"not the {asked} that was asked for: .*{reason}"):
        require(counts, asked, share)


# ---- device memory, without a device --------------------------------------------------------------------------------


class Owner:
    """Something that can be referred to weakly."""


def test_state_buffers_are_reused_when_their_handles_die():
    pool, owner, tensor = BufferPool(lambda: bytearray(8)), Owner(), TensorSpec("bev", (2,), "float32")
    first, second = DeviceState(pool, tensor, owner), DeviceState(pool, tensor, owner)
    assert first.buffer is not second.buffer and (first.shape, first.dtype) == ((2,), np.float32)
    returned = first.buffer
    del first
    gc.collect()
    third = DeviceState(pool, tensor, owner)
    assert third.buffer is returned
    assert len(pool.drain()) == 2  # also the lent ones, so that close() frees them all
    del third, second
    gc.collect()
    assert pool.drain() == []  # dead handles after close() bring nothing back


def test_a_long_drive_needs_only_as_many_buffers_as_are_remembered():
    pool, owner, tensor = BufferPool(lambda: bytearray(8)), Owner(), TensorSpec("bev", (2,), "float32")
    memory: list[DeviceState] = []
    for _ in range(1000):
        memory = [*memory, DeviceState(pool, tensor, owner)][-12:]
    assert len(pool.drain()) <= 13


def test_handles_may_die_in_any_thread():
    pool, owner, tensor = BufferPool(lambda: bytearray(8)), Owner(), TensorSpec("bev", (2,), "float32")
    handles = [DeviceState(pool, tensor, owner) for _ in range(64)]

    def drop():
        while handles:
            try:
                handles.pop()
            except IndexError:
                return

    threads = [threading.Thread(target=drop) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    gc.collect()
    buffers = [pool.lend() for _ in range(64)]
    assert len({id(buffer) for buffer in buffers}) == 64 == len(pool.drain())


def test_owner_thread_runs_everything_in_one_thread_and_survives_errors():
    owner = OwnerThread("owner")
    idents: set[int] = set()

    def call():
        for _ in range(50):
            idents.add(owner.run(threading.get_ident))

    threads = [threading.Thread(target=call) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(idents) == 1 and threading.get_ident() not in idents
    with pytest.raises(ZeroDivisionError):
        owner.run(lambda: 1 // 0)
    assert owner.run(threading.get_ident) in idents
    owner.stop()
    owner.stop()
    with pytest.raises(RuntimeError, match="closed"):
        owner.run(threading.get_ident)
    assert "owner" not in {thread.name for thread in threading.enumerate()}


def test_owner_thread_still_serves_atexit_and_does_not_keep_a_process_alive():
    script = (
        "import atexit\n"
        "from bev_perception.inference.gpu import OwnerThread\n"
        "closed, forgotten = OwnerThread('closed'), OwnerThread('forgotten')\n"
        "atexit.register(lambda: (closed.run(lambda: print('freed')), closed.stop()))\n"
    )
    command = [sys.executable, "-c", script]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=20, check=True)
    assert (result.stdout, result.stderr) == ("freed\n", "")


# ---- on a GPU -------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def gpu():
    try:
        import pycuda.driver as cuda
        import tensorrt

        cuda.init()
        if cuda.Device.count() == 0:
            pytest.skip("no CUDA device here")
    except Exception as error:
        pytest.skip(f"running an engine needs tensorrt, pycuda and a GPU: {error}")
    return tensorrt


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_engine_on_the_gpu_agrees_with_onnxruntime(gpu, bundle, tmp_path, precision):
    reference = open_backend(bundle, threads=1)
    lines: list[str] = []
    backend = open_backend(bundle, "tensorrt", precision=precision, cache=tmp_path, log=lines.append)
    inputs = tiny_bundle.make_inputs()
    expected, found = reference.infer(inputs), backend.infer(inputs)
    for step in range(5):  # the state goes back in as a handle
        arrays = {name: backend.fetch(value) for name, value in found.items()}
        compare_outputs(arrays, expected, bundle.spec, TOLERANCES[precision], f"step {step}")
        expected = reference.infer(inputs | {"prev_bev": expected["bev"]})
        found = backend.infer(inputs | {"prev_bev": found["bev"]})
    nothing = inputs | {"prev_bev": np.zeros_like(inputs["prev_bev"]), "prev_valid": np.zeros(1, np.float32)}
    fetched = {name: backend.fetch(value) for name, value in backend.infer(nothing).items()}
    compare_outputs(fetched, reference.infer(nothing), bundle.spec, TOLERANCES[precision], "no memory")

    results: list[np.ndarray] = []
    thread = threading.Thread(target=lambda: results.append(backend.infer(nothing)["scores"]))
    thread.start()
    thread.join()
    assert np.array_equal(results[0], fetched["scores"])

    again = open_backend(bundle, "tensorrt", precision=precision, cache=tmp_path, log=lines.append)
    assert "using the cached engine" in lines[-1]
    with pytest.raises(ValueError, match="another engine"):
        again.infer(inputs | {"prev_bev": found["bev"]})
    again.close()
    state = found["bev"]
    backend.close()
    backend.close()
    with pytest.raises(RuntimeError, match="closed"):
        backend.fetch(state)
