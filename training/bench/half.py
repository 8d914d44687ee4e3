"""Our FP16 beside NVIDIA's AutoCast, on a bundle's golden sample: `python -m training.bench.half [BUNDLE] --out DIR`.

Installs AutoCast into DIR (requirements/autocast.txt), converts the bundle's ONNX both ways, and runs the results in
ONNX Runtime, once as they are and once with every tensor that is in FP16 rounded (rounding.py). Prints the table, and
why half.py keeps nodes in FP32; node by node that is in DIR/kept.csv.
"""

from __future__ import annotations

import argparse
import csv
import io
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto

from bev_perception.bundle import Bundle, load_bundle
from bev_perception.evaluation.bench import table
from bev_perception.evaluation.demo import machine
from bev_perception.files import write_atomic
from bev_perception.inference.half import Halved, halve, tensor_types
from training.bench.autocast import autocast, installed
from training.bench.candidate_errors import Arrays, errors
from training.bench.rounding import every_rounding
from training.command_line import errors_as_text

HEAD = ["", "MiB", "nodes in FP16", "weights in FP16", "roundings", "scores", "boxes", "state", "candidates lost", "ms"]


@dataclass(frozen=True)
class Share:
    """How much of a graph is in FP16: of the nodes that have floating point at all, casts left out, and of weights."""

    nodes: float
    weights: float


def share_of(onnx_bytes: bytes) -> Share:
    model = onnx.load_model_from_string(onnx_bytes)
    types = tensor_types(model)
    nodes = [{types.get(name) for name in (*n.input, *n.output)} for n in model.graph.node if n.op_type != "Cast"]
    floating = [found for found in nodes if found & {TensorProto.FLOAT, TensorProto.FLOAT16}]
    weights = [(i.data_type == TensorProto.FLOAT16, int(np.prod(i.dims))) for i in model.graph.initializer]
    half = sum(size for is_half, size in weights if is_half)
    return Share(
        sum(TensorProto.FLOAT16 in found for found in floating) / max(1, len(floating)),
        half / max(1, sum(size for _, size in weights)),
    )


def answers(onnx_bytes: bytes, inputs: Arrays, repeats: int, optimise: bool) -> tuple[dict[str, np.ndarray], float]:
    """(outputs by name, median ms of CPU time) of ONNX Runtime with one thread. optimise: let it change the graph."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    if not optimise:  # no cast may be merged with the next
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(onnx_bytes, options, providers=["CPUExecutionProvider"])
    found = dict(zip([output.name for output in session.get_outputs()], session.run(None, dict(inputs))))
    times = []
    for _ in range(repeats):
        started = time.process_time()
        session.run(None, dict(inputs))
        times.append(time.process_time() - started)
    return found, 1e3 * statistics.median(times)


def compared(bundle: Bundle, models: Mapping[str, bytes], repeats: int) -> list[list[str]]:
    """Rows of HEAD: FP32, then each of `models` twice."""
    inputs, _ = bundle.golden()
    reference, milliseconds = answers(bundle.model(), inputs, repeats, optimise=True)
    rows = [["FP32", _mib(bundle.model()), "0 %", "0 %", *["-"] * 5, f"{milliseconds:.0f}"]]
    for name, model in models.items():
        share = share_of(model)
        facts = [name, _mib(model), f"{100 * share.nodes:.0f} %", f"{100 * share.weights:.1f} %"]
        for roundings, graph in (("every tensor", every_rounding(model)), ("ONNX Runtime's", model)):
            found, milliseconds = answers(graph, inputs, repeats, optimise=graph is model)
            off, lost = errors(found, reference, bundle.spec.grid)
            state = str(off["bev"]) if "bev" in off else "-"
            took = f"{milliseconds:.0f}" if graph is model else "-"
            rows.append([*facts, roundings, str(off["scores"]), str(off["boxes"]), state, str(lost), took])
    return rows


def _mib(data: bytes) -> str:
    return f"{len(data) / 2**20:.2f}"


def kept_csv(halved: Halved) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerows([("node", "op", "reason"), *((k.node, k.op, k.reason) for k in halved.kept)])
    return text.getvalue()


def _timed(make: Callable[[], bytes]) -> tuple[bytes, float]:
    started = time.perf_counter()
    return make(), time.perf_counter() - started


@errors_as_text
def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m training.bench.half", description=__doc__)
    shipped = Path("bev_perception/bundles/demo")
    parser.add_argument("bundle", type=Path, nargs="?", default=shipped, help="in 32 bits (default: %(default)s)")
    parser.add_argument("--out", type=Path, default=Path("out/half"), help="for AutoCast and kept.csv (%(default)s)")
    parser.add_argument("--repeats", type=int, default=9, help="frames that ONNX Runtime is timed with (%(default)s)")
    args = parser.parse_args(argv)
    bundle = load_bundle(args.bundle)
    if bundle.spec.precision != "fp32":
        raise ValueError(f"{args.bundle} is {bundle.spec.precision} already; name the bundle that it was made of")
    halved = halve(bundle.model())
    write_atomic(args.out / "kept.csv", kept_csv(halved))
    print("\n".join(halved.summary()), f"node by node: {args.out / 'kept.csv'}", sep="\n", flush=True)
    packages = installed(args.out / "autocast")
    ours, our_time = _timed(lambda: halve(bundle.model()).onnx)
    theirs, their_time = _timed(lambda: autocast(bundle.model(), bundle.golden()[0], packages))
    print(f"\n{machine()}, ONNX Runtime {onnxruntime.__version__}, one thread; errors: largest, median\n")
    print(table(HEAD, compared(bundle, {"half.py": ours, "AutoCast": theirs}, args.repeats)))
    print(f"\nconversion: half.py {our_time:.1f} s, AutoCast {their_time:.1f} s with its start")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
