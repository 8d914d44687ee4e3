"""Build and prove a bundle's engine on the machine that runs it: `ros2 run bev_perception build_engine BUNDLE`."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from bev_perception.bundle import Bundle, load_bundle
from bev_perception.inference.budget import require_memory_to_build
from bev_perception.inference.builder import LEVELS, BuildOptions, build_serialized
from bev_perception.inference.dry_run import dry_run
from bev_perception.inference.engine_cache import Proof, engine_places, open_cached
from bev_perception.inference.precisions import AS_BUNDLE, CHOICES, wanted
from bev_perception.inference.tensorrt_api import BUILDERS, BuildError, Log, import_builder
from bev_perception.inference.tensorrt_backend import NOT_KEPT, engine_key, open_tensorrt
from bev_perception.model_spec import BundleError

BUILDS_WITHOUT_GPU = "tensorrt_rtx"


def build_unproven(
    bundle: Bundle, precision: str, options: BuildOptions, cache: str, force: bool, log: Log
) -> Path | None:
    """Build without a GPU: shows that parser and builder accept the model. Nothing is run, nothing is proven."""
    trt = import_builder(BUILDS_WITHOUT_GPU)
    asked = wanted(precision, bundle.spec)
    _, path = open_cached(
        engine_places(cache),
        engine_key(bundle, BUILDS_WITHOUT_GPU, trt.__version__, asked, options),
        build=lambda: build_serialized(trt, bundle.model(), bundle.spec, asked, options, log).engine,
        prove=lambda engine: (None, Proof({})),
        force=force,
        log=log,
    )
    return path


def main(arguments: list[str] | None = None) -> int:
    """Command line; returns the exit status."""
    options = _parser().parse_args(arguments)

    def log(message: str) -> None:
        print(message, flush=True)

    try:
        how = BuildOptions(
            options.workspace_mib, options.level, options.timings, tuple(options.plugins), options.verbose
        )
        bundle = load_bundle(options.bundle)
        if options.dry_run:
            trt = import_builder(options.builder)
            dry_run(trt, bundle.model(), bundle.spec, options.precision, log, options.verbose)
            log(f"{trt.__name__} {trt.__version__} accepts the model; nothing was built, nothing was run")
            return 0
        require_memory_to_build(bundle.onnx_path.stat().st_size)
        if options.without_gpu:
            if options.builder != BUILDS_WITHOUT_GPU:
                raise ValueError(f"{options.builder} builds on a GPU only; name --builder {BUILDS_WITHOUT_GPU}")
            path = build_unproven(bundle, options.precision, how, options.cache, options.force, log)
            log("accepted by parser and builder; not run, so its precision was not read back, and it is not proven")
        else:
            backend = open_tensorrt(
                bundle,
                precision=options.precision,
                cache=options.cache,
                builder=options.builder,
                workspace_mib=how.workspace_mib,
                level=how.level,
                timings=how.timings,
                plugins=how.plugins,
                graph=options.graph,
                device=options.device,
                force=options.force,
                log=log,
                verbose=options.verbose,
            )
            path = Path(kept) if (kept := backend.details["engine"]) != NOT_KEPT else None
            for name in ("precision", "layers", "graph", "device_mib"):
                log(f"{name}: {backend.details[name]}")
            backend.close()
        if path is None:
            raise OSError("the engine was built, but no place could keep it; name one with --cache")
        log(str(path))
    except (BuildError, BundleError, ImportError, OSError, RuntimeError, ValueError) as error:
        print(f"build_engine: {error}", file=sys.stderr)
        return 1
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="build_engine", description="Build the TensorRT engine of a bundle for this machine and prove it."
    )
    parser.add_argument("bundle", type=Path, help="directory of the bundle")
    parser.add_argument(
        "--precision",
        choices=CHOICES,
        default=AS_BUNDLE,
        help=f"of the engine; {AS_BUNDLE} is that of the bundle's graph (%(default)s)",
    )
    places = " or ".join(map(str, engine_places()))
    parser.add_argument("--cache", default="", help=f"directory for engines (default: {places})")
    parser.add_argument("--device", type=int, default=0, help="CUDA device (%(default)s)")
    parser.add_argument("--force", action="store_true", help="build even if the cache holds a good engine")
    parser.add_argument(
        "--workspace-mib",
        type=int,
        default=BuildOptions.workspace_mib,
        help="device memory that the builder's layers may use (%(default)s)",
    )
    parser.add_argument(
        "--level", type=int, choices=LEVELS, default=BuildOptions.level, help="how long it tries, 0 to 5 (%(default)s)"
    )
    parser.add_argument(
        "--timings", default="", metavar="FILE", help="timing cache: what earlier builds measured, read and renewed"
    )
    parser.add_argument("--plugins", nargs="+", default=[], metavar="LIB", help="libraries with layers of their own")
    parser.add_argument(
        "--graph", action=argparse.BooleanOptionalAction, default=True, help="try it as a CUDA graph (%(default)s)"
    )
    parser.add_argument(
        "--dry-run",
        action="store_true",
        help="parse only: says what layers there are, or names every node that is refused",
    )
    parser.add_argument(
        "--verbose",
        action="store_true",
        help="pass on everything that TensorRT says, and why each single node stays in fp32 with --precision fp16",
    )
    parser.add_argument("--builder", choices=tuple(BUILDERS), default="tensorrt", help="(%(default)s)")
    parser.add_argument(
        "--without-gpu",
        action="store_true",
        help=f"build with --builder {BUILDS_WITHOUT_GPU} on a machine without a GPU, to see that a model is accepted",
    )
    return parser


if __name__ == "__main__":
    sys.exit(main())
