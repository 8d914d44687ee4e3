"""Build and prove a bundle's engine on the machine that runs it: `ros2 run bev_perception build_engine BUNDLE`."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from bev_perception.bundle import Bundle, load_bundle
from bev_perception.inference.builder import BUILDERS, PRECISIONS, BuildError, Log, build_serialized, import_builder
from bev_perception.inference.engine_cache import EngineKey, engine_places, open_cached
from bev_perception.inference.tensorrt_backend import NOT_KEPT, open_tensorrt
from bev_perception.model_spec import BundleError


def build_unproven(
    bundle: Bundle, builder: str, precision: str, cache: str, force: bool, log: Log, verbose: bool
) -> Path | None:
    """Build without a GPU: shows that parser and builder accept the model. Nothing is run, nothing is proven."""
    trt = import_builder(builder)
    key = EngineKey(bundle.spec.name, bundle.spec.onnx_sha256, builder, trt.__version__, "any", precision)
    _, path = open_cached(
        engine_places(cache),
        key,
        build=lambda: build_serialized(trt, bundle.model(), bundle.spec, precision, log=log, verbose=verbose),
        prove=lambda engine: (None, {}),
        force=force,
        log=log,
    )
    return path


def main(arguments: list[str] | None = None) -> int:
    """Command line; returns the exit status."""
    parser = argparse.ArgumentParser(
        prog="build_engine", description="Build the TensorRT engine of a bundle for this machine and prove it."
    )
    parser.add_argument("bundle", type=Path, help="directory of the bundle")
    parser.add_argument("--precision", choices=PRECISIONS, default="fp32")
    places = " or ".join(map(str, engine_places()))
    parser.add_argument("--cache", default="", help=f"directory for engines (default: {places})")
    parser.add_argument("--device", type=int, default=0, help="CUDA device (%(default)s)")
    parser.add_argument("--force", action="store_true", help="build even if the cache holds a good engine")
    parser.add_argument(
        "--verbose",
        action="store_true",
        help="pass on everything that TensorRT says, and why each single node stays in fp32 with --precision fp16",
    )
    parser.add_argument(
        "--builder",
        choices=tuple(BUILDERS),
        default="tensorrt",
        help="tensorrt_rtx builds without a GPU and without proof, to check that a model is accepted",
    )
    options = parser.parse_args(arguments)

    def log(message: str) -> None:
        print(message, flush=True)

    try:
        bundle = load_bundle(options.bundle)
        if options.builder == "tensorrt_rtx":
            path = build_unproven(
                bundle, options.builder, options.precision, options.cache, options.force, log, options.verbose
            )
            log("accepted by parser and builder; not run, so not proven")
        else:
            backend = open_tensorrt(
                bundle,
                precision=options.precision,
                cache=options.cache,
                device=options.device,
                force=options.force,
                log=log,
                verbose=options.verbose,
            )
            path = Path(kept) if (kept := backend.details["engine"]) != NOT_KEPT else None
            backend.close()
        if path is None:
            raise OSError("the engine was built, but no place could keep it; name one with --cache")
        log(str(path))
    except (BuildError, BundleError, ImportError, OSError, ValueError) as error:
        print(f"build_engine: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
