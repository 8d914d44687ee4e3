"""The bench compares equals: the usual way gives the results of the fast way, and the page has what was measured."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("rosbags", reason="rosbags is part of the evaluation extra")

from bev_perception.conversions import read_points
from bev_perception.decode import decode
from bev_perception.evaluation import bench, stock
from bev_perception.evaluation.bench_checks import Checks
from bev_perception.evaluation.bench_cost import (
    _our_frame,
    make_arrivals,
    make_outputs,
    make_synchronizer,
    measure_cost,
)
from bev_perception.model_spec import CLASSES, ModelSpec
from bev_perception.preprocess.images import prepare_images
from bev_perception.preprocess.radar import prepare_radar
from bev_perception.structures import ODOMETRY

SPEC = ModelSpec(
    "bench",
    ("CAM_A", "CAM_B"),
    ("RADAR_A", "RADAR_B"),
    dict.fromkeys(CLASSES, 0.1),
    dict.fromkeys(CLASSES, 2.0),
)


@pytest.fixture(scope="module")
def measured():
    """(arrivals, the frame that the last of them completes)."""
    arrivals, sync, frame = make_arrivals(SPEC, 8), make_synchronizer(SPEC), None
    for arrival in arrivals:
        frame = _our_frame(arrival, sync, SPEC, {}) or frame
    assert frame is not None and not frame.missing
    assert all(len(sweeps) == 6 for sweeps in frame.radars)
    return arrivals, frame


def test_radar_loops_agree_with_the_fast_way(measured):
    _, frame = measured
    radar_bev = prepare_radar(frame, SPEC)[0]["radar_bev"]
    assert np.count_nonzero(radar_bev[0]) > 200
    np.testing.assert_allclose(stock.radar_map(frame, SPEC), radar_bev, atol=2e-4)


def test_points_as_tuples_agree_with_the_view(measured):
    cloud = measured[0][-1].clouds[0]
    view = read_points(cloud)
    for name in ("x", "rcs", "vy_comp", "vy_rms"):
        column = view.dtype.names.index(name)
        np.testing.assert_array_equal([row[column] for row in stock.read_points(cloud)], view[name])


def test_decode_loops_agree_with_the_fast_way():
    outputs = make_outputs(SPEC)
    rows, fast = stock.decode(outputs, SPEC), decode(outputs, SPEC)
    assert 20 < len(rows) == len(fast.scores) < SPEC.top_k
    np.testing.assert_allclose([row[2:9] for row in rows], fast.boxes, atol=1e-4)
    np.testing.assert_array_equal([row[1] for row in rows], fast.labels)


def test_images_of_both_ways_show_the_same(measured):
    """Noise differs between resize kernels, its mean over an image does not; the usual way normalises."""
    arrivals, frame = measured
    ours = prepare_images(frame, SPEC)[0].reshape(2, -1, 3).mean(axis=1)
    for prepare in (stock.images_normalised_first, stock.images_scaled_first):
        theirs = prepare(arrivals[-1].images, SPEC)
        assert theirs.shape == (2, 3, SPEC.image.height, SPEC.image.width) and theirs.dtype == np.float32
        np.testing.assert_allclose(theirs.mean(axis=(2, 3)) * stock.STD + stock.MEAN, ours, atol=1.5)


def test_cost_has_every_stage_and_restores_the_cores():
    import os

    before = os.sched_getaffinity(0)
    cost = measure_cost(SPEC, frames=2)
    assert os.sched_getaffinity(0) == before
    assert set(cost.ours) == {"convert", "sync", "images", "radar", "decode", "checks"}
    assert set(cost.stock) == {"convert", "images", "radar", "decode"}
    assert cost.frames >= 2 and min(*cost.ours.values(), *cost.stock.values(), cost.copy_ms) > 0


def test_the_checks_look_at_every_sensor(measured):
    arrivals, frame = measured
    checks = Checks(SPEC)
    for arrival in arrivals:
        checks.of_frame(arrival, frame)()
    assert set(checks._seen) == set(SPEC.cameras)
    delays = [checks._intake.delay_s(name) for name in (*SPEC.cameras, *SPEC.radars, ODOMETRY)]
    assert None not in delays and max(delays) < 0.1


def test_what_a_demo_run_measured_is_in_the_page_and_beside_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    page, row = tmp_path / "b.md", {"p50": 1.25, "p95": 2.0, "p99": 3.0, "max": 4.0, "count": 7}
    arguments = ["--only", "latency", "--demo", str(tmp_path), "--docs", str(page)]
    page.write_text("# Head\n\n<!-- latency -->\n<!-- end -->\n")
    assert bench.main(arguments) == 1
    assert "run `make demo` first" in capsys.readouterr().err
    assert page.read_text() == "# Head\n\n<!-- latency -->\n<!-- end -->\n"
    summary = {"latency_ms": {"infer": row}, "facts": {"drive": "7 s"}, "frames": 7, "frames_dropped": 2}
    (tmp_path / "summary.json").write_text(json.dumps(summary))
    assert bench.main(arguments) == 0
    assert "| infer |     1.2 |     2.0 |     3.0 |     4.0 |     7 |" in page.read_text()
    lines = ["stage,p50_ms,p95_ms,p99_ms,max_ms,count", "infer,1.2,2.0,3.0,4.0,7"]
    assert (tmp_path / "data" / "latency.csv").read_text().splitlines() == lines


def test_a_page_without_the_section_is_told_before_measuring(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    page = tmp_path / "b.md"
    page.write_text("# Head\n")
    assert bench.main(["--only", "cost", "--docs", str(page)]) == 1
    assert "0 sections <!-- cost -->" in capsys.readouterr().err
