"""Pictures: projections land where geometry says, near planes cut, what is wrong has the colour that says so."""

from __future__ import annotations

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
from bev_perception.evaluation.judged import judge
from bev_perception.evaluation.objects import make_objects
from bev_perception.evaluation.paint import FALSE_COLOR, HIT_COLOR, MISSED_COLOR, by_verdict
from bev_perception.evaluation.pictures import choose_stamps, draw_drive, within
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


def colored(image: np.ndarray, color: tuple[int, int, int]) -> int:
    return int((np.abs(image.astype(int) - color).max(axis=2) < 40).sum())


def test_hits_false_alarms_and_misses_have_their_colours():
    wanted, beside = one([6, 4, 0, 4, 2, 1.5, 0]), one([6, -4, 0, 4, 2, 1.5, 0])
    nothing = wanted.select(np.zeros(1, bool))

    def colors(found) -> list[bool]:
        """In the bird's-eye view, and in the image of a camera ahead."""
        canvas = draw_bev(400, 12.0, found, wanted, judged=judge(wanted, found))
        image = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
        draw_boxes(image, img_from_ego(), found, paint=by_verdict(found, judge(wanted, found)))
        assert [colored(image, c) > 20 for c in (HIT_COLOR, FALSE_COLOR)] == (
            [colored(canvas, c) > 20 for c in (HIT_COLOR, FALSE_COLOR)]
        )
        return [colored(canvas, color) > 20 for color in (HIT_COLOR, FALSE_COLOR, MISSED_COLOR)]

    assert colors(wanted) == [True, False, False]
    assert colors(beside) == [False, True, True]
    assert colors(nothing) == [False, False, True]
    # a miss is crossed out: half way from its centre (6, 4) to a corner there is a line, also without seeing colours
    scale, size = 400 / 24, 400
    row, column = int(size / 2 - 7 * scale), int(size / 2 - 4.5 * scale)
    missed, hit = (draw_bev(400, 12.0, found, wanted, judged=judge(wanted, found)) for found in (nothing, wanted))
    near = np.s_[row - 2 : row + 3, column - 2 : column + 3]
    assert colored(missed[near], MISSED_COLOR) >= 3 and np.ptp(hit[near].astype(int), axis=(0, 1)).max() < 5


def test_what_was_missed_is_in_the_images_too(drive):
    bag, config = drive
    truth = read_ground_truth(bag)
    _, frame = next(iter(read_frames(bag, tiny_bundle.SPEC, config)))
    wanted = truth[frame.stamp_ns]
    nothing = wanted.select(np.zeros(len(wanted), bool))
    plain = draw_frame(frame, tiny_bundle.SPEC, nothing, wanted)
    judged = draw_frame(frame, tiny_bundle.SPEC, nothing, wanted, judged=judge(wanted, nothing))
    width = DrawSettings().image_width
    assert (plain != judged)[:, :width].any() and colored(judged[:, :width], MISSED_COLOR)


def test_pictures_have_a_budget():
    rng = np.random.default_rng(0)
    images = [(k, rng.integers(0, 256, (120, 160, 3), np.uint8)) for k in range(8)]
    sizes = [len(jpeg) for _, jpeg in within(images, 10**9)]
    assert len(sizes) == 8
    for limit in (sum(sizes) // 2, sum(sizes) // 12):
        made = within(images, limit)
        assert sum(len(jpeg) for _, jpeg in made) <= limit and made[0][0] == 0
    assert len(made) < 8, "where quality does not do, frames go"
