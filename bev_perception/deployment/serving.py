"""The model in service and what it made of a frame, as node and deployment hand them to each other."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol

from bev_perception.bundle import Bundle
from bev_perception.inference.interface import InferenceBackend
from bev_perception.model_spec import ModelSpec
from bev_perception.pipeline import BevPipeline
from bev_perception.structures import Detections, SensorFrame


@dataclass(frozen=True)
class Serving:
    """A verified bundle with the pipeline that runs it: engine, memory and thresholds belong together."""

    bundle: Bundle
    pipeline: BevPipeline


@dataclass(frozen=True)
class Stepped:
    """What the model in service made of one frame. sha256: of its ONNX; ms: of the step. error: what it raised, then
    there are no detections. not_finite: candidates that were NaN or infinite."""

    frame: SensorFrame
    sha256: str
    ms: float
    detections: Detections | None
    not_finite: int = 0
    error: str = ""


Observer = Callable[[Stepped], None]


class Host(Protocol):
    """What a deployment needs of the running node."""

    def serving(self) -> Serving:
        """The model in service."""

    def period_ms(self) -> float:
        """From one frame to the next."""

    def check(self, bundle: Bundle) -> None:
        """Whether it may run here, by who made it. Raises ValueError, OSError, ImportError where not."""

    def unlike(self, spec: ModelSpec) -> Mapping[str, str]:
        """Camera -> in words, of those that are known to be mounted otherwise than a model accepts."""

    def open(self, bundle: Bundle, cancelled: Callable[[], bool]) -> InferenceBackend:
        """A proven engine; what is long in it ends early where `cancelled` says so. Raises what its backend raises."""

    def pipeline(self, bundle: Bundle, backend: InferenceBackend) -> BevPipeline:
        """With the thresholds and limits of the node's parameters."""

    def observe(self, observer: Observer | None) -> None:
        """Called after each step of the model in service, in the pipeline's thread; it may `switch`, but not block."""

    def switch(self, serving: Serving) -> None:
        """From the next frame on. Returns at once, in any thread."""

    def settle(self) -> None:
        """Wait for the step that runs and for who observes it: then a model that was switched away from is not in use,
        and an observer that was taken back has said its last word. Not in the pipeline's thread."""
