"""The model that was switched to, frame by frame: what it must not do while it is on trial."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from statistics import median

from bev_perception.deployment.agreement import Agreement, Cell
from bev_perception.deployment.gate import EMPTY_FRAMES, SLOW_FRAMES, Gate
from bev_perception.deployment.serving import Serving, Stepped
from bev_perception.deployment.shadow import Findings, Shadow


class Watch:
    """note(stepped) in the pipeline's thread, for each frame of the model on trial; the first breach is the last word.

    allowed_ms: the median step may take. had_boxes: whether that one found anything in the frames before; a
    road without objects is no fault.
    """

    def __init__(self, gate: Gate, allowed_ms: float, had_boxes: bool) -> None:
        self._gate, self._limit_ms, self._had_boxes = gate, allowed_ms, had_boxes
        self._ms: deque[float] = deque(maxlen=SLOW_FRAMES)
        self._empty = 0
        self._judged = Cell()  # what agreed before the frames that are judged next
        self._judged_frames = 0
        self.frames = 0

    def note(self, stepped: Stepped, other: Findings) -> str:
        """The breach, named first, or "". other: of the model before, which shadows on sampled frames."""
        self.frames += 1
        if stepped.detections is None:
            return f"step_failed: {stepped.error}"
        if stepped.not_finite:
            return f"not_finite_output: {stepped.not_finite} candidates were NaN or infinite"
        self._ms.append(stepped.ms)
        if len(self._ms) == SLOW_FRAMES and (ms := median(self._ms)) > self._limit_ms:
            return f"too_slow: {ms:.1f} ms a frame over {SLOW_FRAMES} frames, allowed {self._limit_ms:.1f}"
        self._empty = 0 if len(stepped.detections) else self._empty + 1
        if self._empty >= EMPTY_FRAMES and self._had_boxes and other.boxes[0] > 0:
            return f"empty_output: no box in {self._empty} frames, the model before goes on to find some"
        return self._divergence(other.agreement)

    def _divergence(self, agreement: Agreement) -> str:
        """Judged anew over each stretch of as many compared frames as the gate asks for."""
        if agreement.frames - self._judged_frames < max(self._gate.frames, 1):
            return ""
        whole, before = agreement.total(), self._judged
        stretch = Cell(whole.both - before.both, whole.mine - before.mine, whole.theirs - before.theirs)
        self._judged, self._judged_frames = whole, agreement.frames
        if stretch.share < self._gate.agreement:
            allowed = f"allowed {self._gate.agreement:g}"
            return f"diverges: {stretch.share:.2f} of the boxes have a partner in the model before, {allowed}"
        return ""

    def figures(self) -> dict[str, float]:
        return {"trial_frames": float(self.frames)} | ({"trial_p50_ms": median(self._ms)} if self._ms else {})


class Trial:
    """A candidate that serves, watched, with the model before as its shadow. breach: why that one is back, done: it is.

    note(stepped) in the pipeline's thread, so that the model before is back for the next frame.
    """

    def __init__(
        self, watch: Watch, shadow: Shadow, old: Serving, candidate: Serving, switch: Callable[[Serving], None]
    ) -> None:
        self.watch, self.shadow = watch, shadow
        self.breach = ""
        self.done = threading.Event()
        self._old, self._sha256, self._switch = old, candidate.bundle.spec.onnx_sha256, switch

    def note(self, stepped: Stepped) -> None:
        if stepped.sha256 != self._sha256 or self.breach:
            return
        self.breach = self.watch.note(stepped, self.shadow.findings())
        if self.breach:
            self.shadow.stop()  # its engine is needed here
            self._switch(self._old)
            self.done.set()
        elif stepped.detections is not None:
            self.shadow.offer(stepped.frame, stepped.detections)
