"""Pictures and report: projections land where geometry says, near planes cut, the HTML needs nothing but itself."""

from __future__ import annotations

import re
from pathlib import Path

import cv2
import numpy as np
import pytest
import tiny_bundle
import tiny_drive

from bev_perception.colors import color_of
from bev_perception.evaluation.bag import read_ground_truth
from bev_perception.evaluation.draw import (
    BACKGROUND,
    DrawSettings,
    clip_segments,
    draw_bev,
    draw_boxes,
    draw_frame,
    draw_radar,
    mosaic,
)
from bev_perception.evaluation.frames import read_frames
from bev_perception.evaluation.metrics import score
from bev_perception.evaluation.objects import make_objects
from bev_perception.evaluation.pictures import choose_stamps, draw_drive
from bev_perception.evaluation.report import Latency, ReportData, render, write_report
from bev_perception.geometry import invert, make_transform
from bev_perception.parameters import load_config

WIDTH, HEIGHT = 320, 180
K = np.array([[160.0, 0, 159.5], [0, 160.0, 89.5], [0, 0, 1]])


def img_from_ego() -> np.ndarray:
    """A camera in the ego origin, looking along +x."""
    img_from_cam = np.eye(4)
    img_from_cam[:3, :3] = K
    ego_from_cam = make_transform(np.array([[0, 0, 1], [-1, 0, 0], [0, -1, 0]], float), np.zeros(3))
    return img_from_cam @ invert(ego_from_cam)


def one(box: list[float], velocity: tuple[float, float] = (0, 0), name: str = "car"):
    return make_objects(np.array([box]), np.array([velocity]), np.ones(1), (name,))


def test_clipped_segments_end_on_the_near_plane():
    starts = np.array([[0.0, 0.0, 2.0], [1.0, 1.0, -1.0], [0.0, 0.0, -2.0], [4.0, 0.0, 1.0]])
    ends = np.array([[2.0, 0.0, 4.0], [3.0, 5.0, 3.0], [1.0, 0.0, -1.0], [8.0, 8.0, -3.0]])
    a, b = clip_segments(starts, ends, 1.0)
    assert len(a) == len(b) == 3  # the third lies behind
    np.testing.assert_allclose(a[0], starts[0])
    np.testing.assert_allclose(a[1], [2.0, 3.0, 1.0])  # half way
    np.testing.assert_allclose(b[2], [4.0, 0.0, 1.0])
    assert (a[:, 2] >= 1.0 - 1e-12).all() and (b[:, 2] >= 1.0 - 1e-12).all()


def test_box_is_drawn_where_it_projects():
    image = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
    draw_boxes(image, img_from_ego(), one([10, 0, 0, 2, 4, 2, 0]), labels=False)
    rows, columns = np.nonzero(image.any(axis=2))
    # the near face is 9 m away, 4 m wide, 2 m high
    assert abs(columns.min() - (159.5 - 160 * 2 / 9)) <= 2 and abs(columns.max() - (159.5 + 160 * 2 / 9)) <= 2
    assert abs(rows.min() - (89.5 - 160 / 9)) <= 2 and abs(rows.max() - (89.5 + 160 / 9)) <= 2
    # the face that is tinted is the front one, at 11 m: inside it there is colour, beside it only edges
    assert image[89, 165].any()


@pytest.mark.parametrize("box", [[0.3, 0, 0, 4, 2, 1.6, 0.4], [1.0, 0.5, 0, 5, 2, 2, 1.2]])
def test_box_through_the_camera_stays_in_the_picture(box):
    image = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
    draw_boxes(image, img_from_ego(), one(box))
    assert image.any()


def test_box_behind_the_camera_is_not_drawn():
    image = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
    draw_boxes(image, img_from_ego(), one([-10, 0, 0, 4, 2, 1.6, 0]))
    assert not image.any()


def test_radar_returns_land_on_their_pixels():
    image = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
    draw_radar(image, img_from_ego(), np.array([[10, 2, 0, 0, 0, 0, 0], [-5, 0, 0, 0, 9, 0, 0]], np.float32))
    rows, columns = np.nonzero(image.any(axis=2))
    assert abs(columns.mean() - (159.5 - 160 * 0.2)) < 1 and abs(rows.mean() - 89.5) < 1
    assert len(rows) < 60  # the return behind is nowhere


def test_bev_has_forward_up_and_left_left():
    size = 400
    canvas = draw_bev(size, 50.0, one([30, 20, 0, 4, 2, 1.5, 0]))
    color = np.array(color_of("car"))
    rows, columns = np.nonzero(np.abs(canvas.astype(int) - color).max(axis=2) < 40)
    assert abs(rows.mean() - (200 - 30 * 4)) < 4  # 4 pixels a metre
    assert abs(columns.mean() - (200 - 20 * 4)) < 4


def test_velocity_arrow_is_as_long_as_a_second():
    still = draw_bev(400, 50.0, one([0, 20, 0, 4, 2, 1.5, 0]))
    moving = draw_bev(400, 50.0, one([0, 20, 0, 4, 2, 1.5, 0], velocity=(10, 0)))
    rows, _ = np.nonzero((still != moving).any(axis=2))
    assert abs(rows.min() - (200 - (2 + 10) * 4)) <= 2  # from the nose, 10 m forward


def test_mosaic_turns_the_rear_row():
    panels = [np.full((10, 20, 3), k + 1, np.uint8) for k in range(6)]
    picture = mosaic(panels, np.full((24, 24, 3), 99, np.uint8), gap=4)
    assert picture.shape == (24, 3 * 24 + 24, 3)
    assert [picture[5, x, 0] for x in (10, 34, 58)] == [1, 2, 3]
    assert [picture[19, x, 0] for x in (10, 34, 58)] == [6, 5, 4]
    assert picture[12, 90, 0] == 99 and tuple(picture[12, 10]) == BACKGROUND


@pytest.fixture(scope="module")
def drive(tmp_path_factory: pytest.TempPathFactory):
    folder = tmp_path_factory.mktemp("drive")
    tiny_bundle.write_bundle(folder / "bundle")
    bag = tiny_drive.write_drive(folder / "bag", frames=6)
    return bag, load_config(folder / "bundle", tiny_drive.write_params(folder / "params.yaml"))


def test_pictures_of_a_drive(drive):
    bag, config = drive
    truth = read_ground_truth(bag)
    large, small = draw_drive(bag, tiny_bundle.SPEC, config, truth, truth)
    assert [p.stamp_ns for p in small] == sorted(truth)
    assert len(large) == 4 and {p.stamp_ns for p in large} <= set(truth)
    image = cv2.imdecode(np.frombuffer(large[0].jpeg, np.uint8), cv2.IMREAD_COLOR)
    width, gap = DrawSettings().image_width, DrawSettings().gap
    assert image.shape[:2] == (width + gap, 2 * (width + gap))  # two 2:1 images over one another, a square BEV


def test_detections_and_radar_show_in_the_frame(drive):
    bag, config = drive
    truth = read_ground_truth(bag)
    _, frame = next(iter(read_frames(bag, tiny_bundle.SPEC, config)))
    bare = draw_frame(frame, tiny_bundle.SPEC, truth[frame.stamp_ns].select(np.zeros(1, bool)))
    full = draw_frame(frame, tiny_bundle.SPEC, truth[frame.stamp_ns], truth[frame.stamp_ns])
    changed = (bare != full).any(axis=2)
    width, gap = DrawSettings().image_width, DrawSettings().gap
    assert changed[: width // 2, :width].any()  # the box, in the first camera
    assert changed[:, width + gap :].any()  # and in the BEV


def test_chosen_frames_are_the_busiest_of_each_part():
    few, many = one([5, 0, 0, 4, 2, 1, 0]), make_objects(np.ones((3, 7)), np.zeros((3, 2)), np.ones(3), ("car",) * 3)
    truth = {k: many if k in (2, 5) else few for k in range(8)}
    assert choose_stamps(truth, truth, 2) == [2, 5]


def report(drive) -> ReportData:
    bag, config = drive
    truth = read_ground_truth(bag)
    large, small = draw_drive(bag, tiny_bundle.SPEC, config, truth, truth)
    return ReportData(
        "A <drive> & more",
        {"model": "tiny"},
        score(truth, truth),
        score(truth, truth),
        [Latency("total", 80, 90, 95, 99, 6)],
        {"frame_dropped": 2},
        {"cam_a": (5, 6)},
        [(0.0, 80.0), (0.5, 91.0)],
        ("identical: all 6 frames, bit for bit", True),
        large,
        small,
        "make demo",
        "synthetic",
    )


def test_report_is_self_contained_and_says_what_it_was_given(drive, tmp_path: Path):
    data = report(drive)
    text = write_report(tmp_path / "report.html", data).read_text()
    assert list(tmp_path.iterdir()) == [tmp_path / "report.html"]
    assert not re.search(r'(src|href)="(?!data:)', text) and "http" not in text and "url(" not in text
    assert text.count("data:image/jpeg;base64,") == len(data.chosen) + len(data.animation)
    assert "A &lt;drive&gt; &amp; more" in text
    assert "identical: all 6 frames" in text
    assert f"{data.scores.classes['car'].ap:.3f}" in text
    assert "frame dropped" in text and "5 of 6" in text
    assert "no trailer" in text  # classes that the drive does not have are named
    for tag in ("section", "table", "tr", "div", "figure"):
        assert len(re.findall(rf"<{tag}[ >]", text)) == text.count(f"</{tag}>"), tag


def test_report_without_scores_or_pictures():
    text = render(ReportData("empty", {}, None))
    assert "<h2>What was run</h2>" in text and "<h2>Scores" not in text
