"""How long an engine takes, and what is said where frames come faster."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("onnx", reason="needs onnx")
import tiny_bundle

from bev_perception.inference import pace
from bev_perception.inference.backend import open_backend
from bev_perception.inference.pace import RUNS, engine_ms, too_slow


def test_the_time_is_the_median_of_whole_answers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of five by a clock that is told what each takes; an answer counts up to its outputs on the host."""
    bundle = tiny_bundle.write_bundle(tmp_path)
    backend, took, fetched, now = open_backend(bundle, threads=1), [0.5, 0.03, 0.031, 0.032, 0.001], [], [0.0]
    outputs, fetch = len(bundle.spec.outputs()), backend.fetch

    def slowly(value: np.ndarray) -> np.ndarray:
        fetched.append(value)
        if len(fetched) % outputs == 0:
            now[0] += took[len(fetched) // outputs - 1]
        return fetch(value)

    monkeypatch.setattr(backend, "fetch", slowly)
    monkeypatch.setattr(pace.time, "perf_counter", lambda: now[0])
    assert engine_ms(backend, bundle) == pytest.approx(31.0)
    assert len(fetched) == RUNS * outputs


def test_what_is_said_where_it_does_not_keep_up() -> None:
    assert too_slow(83.3, 83.3) == ""
    said = too_slow(126.0, 84.0)
    assert "126 ms" in said and "every 84 ms" in said and "1.5 times too slow" in said
