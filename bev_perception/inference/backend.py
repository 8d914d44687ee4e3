"""The engines that there are, by name. A new one is a module beside this and a line in BACKENDS."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from bev_perception.bundle import Bundle
from bev_perception.inference.interface import InferenceBackend


def _open_onnxruntime(bundle: Bundle, **options: Any) -> InferenceBackend:
    from bev_perception.inference.onnxruntime_backend import OnnxRuntimeBackend

    return OnnxRuntimeBackend(bundle, **options)


def _open_openvino(bundle: Bundle, **options: Any) -> InferenceBackend:
    from bev_perception.inference.openvino_backend import OpenVinoBackend

    return OpenVinoBackend(bundle, **options)


def _open_tensorrt(bundle: Bundle, **options: Any) -> InferenceBackend:
    from bev_perception.inference.tensorrt_backend import open_tensorrt

    return open_tensorrt(bundle, **options)


# The imports stand inside, so that an engine must be installed only where it is used.
BACKENDS: dict[str, Callable[..., InferenceBackend]] = {
    "onnxruntime": _open_onnxruntime,
    "openvino": _open_openvino,
    "tensorrt": _open_tensorrt,
}


def open_backend(bundle: Bundle, name: str = "onnxruntime", **options: Any) -> InferenceBackend:
    """Open the engine called `name`; options are those of its constructor.

    Raises ValueError for an unknown name or option, ImportError naming the package to install, BundleError when the
    ONNX file is not what the spec promises.
    """
    if name not in BACKENDS:
        raise ValueError(f"unknown inference backend {name!r}; choose one of {sorted(BACKENDS)}")
    return BACKENDS[name](bundle, **options)
