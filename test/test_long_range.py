"""Pseudo boxes beyond the labels: geometry in closed form, the head against loops and made-up worlds, radar returns,
and the set that is written against the tables that it was made of."""

from __future__ import annotations

import dataclasses
import math
import os
import signal
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("lightning", reason="needs lightning")
devkit = pytest.importorskip("nuscenes", reason="needs nuscenes-devkit")

import torch  # noqa: E402

from bev_perception.geometry import box_corners, transform_points  # noqa: E402
from bev_perception.model_spec import CLASSES  # noqa: E402
from training.command_line import Preempted  # noqa: E402
from training.data.nuscenes import SensorFile  # noqa: E402
from training.data.source import Source  # noqa: E402
from training.long_range import near_objects as near_module  # noqa: E402
from training.long_range import teaching  # noqa: E402
from training.long_range.__main__ import keyframes_of, labels_by, main  # noqa: E402
from training.long_range.checkpoint import TeachConfig, load_head  # noqa: E402
from training.long_range.far_objects import far_rows  # noqa: E402
from training.long_range.far_set import UNCERTAINTY, write_far_set  # noqa: E402
from training.long_range.measure import EXACT, RULE, TRUE, WITH_RADAR, measure  # noqa: E402
from training.long_range.near_objects import columns_of, distances, near_objects  # noqa: E402
from training.long_range.network import SHARED, HeadConfig, InverseHead, encoded, inverse  # noqa: E402
from training.long_range.pseudo import (  # noqa: E402
    BEHIND,
    LEAST_BEHIND,
    RETURN_M,
    Looks,
    height_rule,
    placed,
    with_radar,
)
from training.long_range.teaching import draw, seen_at, teach  # noqa: E402
from training.long_range.views import angles, crop, image_boxes, moved, spans, views  # noqa: E402
from training.tables.chains import links  # noqa: E402

K = np.array([[300.0, 0, 160.5], [0, 280.0, 90.5], [0, 0, 1]])
# A camera 1.5 m above the ground that looks along the ego frame's x.
CAM_FROM_EGO = np.array([[0.0, -1, 0, 0], [0, 0, -1, 1.5], [1, 0, 0, 0], [0, 0, 0, 1]])
CAR = CLASSES.index("car")
LABELLED_TO = 20.0
TINY = HeadConfig(crop=16, features=16)


def cubes(count: int, side: float, nearest: float, farthest: float, aside: float = 0.3) -> dict[str, np.ndarray]:
    """Near objects of a world in which all is a cube that faces the camera, up to `aside` from its axis at depth 1."""
    rng = np.random.default_rng(0)
    depth = rng.uniform(nearest, farthest, count)
    centre = np.column_stack([rng.uniform(-aside, aside, (count, 2)) * depth[:, None], depth])
    unit = np.array([[x, y, z] for x in (-1, 1) for y in (-1, 1) for z in (-1, 1)]) * side / 2
    return {
        "crop": np.full((count, 16, 16, 3), 128, np.uint8),
        "label": np.full(count, CAR),
        "centre": centre.astype(np.float32),
        "corners": (centre[:, None] + unit).astype(np.float32),
        "focal": np.full((count, 2), 300, np.float32),
        "size": np.full((count, 3), side, np.float32),
        "turn": np.zeros(count, np.float32),
    }


def test_a_cube_on_the_axis_is_as_large_as_its_front() -> None:
    corners, centre = box_corners(np.array([[0, 0, 8.0, 2, 2, 2, 0]]))[0], np.array([0, 0, 8.0])
    for depth in (5.0, 8.0, 40.0):
        there = torch.from_numpy(moved(corners, centre, np.array(depth)))
        assert spans(there).tolist() == pytest.approx([2 / (depth - 1)] * 2)


def test_what_moves_along_its_ray_stays_on_it_and_does_not_turn() -> None:
    box = np.array([[3.0, -2.0, 12.0, 4, 2, 1.5, 0.4]])
    corners, centre = box_corners(box)[0], box[0, :3]
    there = moved(corners, centre, np.array(48.0))
    assert there.mean(axis=0) == pytest.approx(4 * centre)
    assert there - there.mean(axis=0) == pytest.approx(corners - centre)
    thin = np.array([[3.0, -2.0, 12.0]]) + np.array([[x, y, 0] for x in (-1, 1) for y in (-1, 1)])  # has no depth
    assert spans(torch.from_numpy(moved(thin, centre, np.array(48.0)))).tolist() == pytest.approx([2 / 48] * 2)


def test_2d_boxes_are_those_of_the_corners_and_lenses_do_not_change_angles() -> None:
    boxes = np.array([[10.0, 1, 0, 4, 2, 1.5, 0.3], [30, -9, 0.5, 0.6, 0.6, 1.8, 2.0], [-5, 0, 0, 1, 1, 1, 0]])
    corners = transform_points(CAM_FROM_EGO, box_corners(boxes).reshape(-1, 3)).reshape(-1, 8, 3)
    flat = image_boxes(corners, K)
    for box, eight in zip(flat[:2], corners):
        pixels = [(K @ c / c[2])[:2] for c in eight]
        assert box == pytest.approx([*np.min(pixels, axis=0), *np.max(pixels, axis=0)])
    assert np.isnan(flat[2]).all()  # behind
    finer = np.diag([2.0, 3.0, 1.0]) @ K
    expected = spans(torch.from_numpy(corners[:2])).numpy()
    assert angles(flat[:2], K) == pytest.approx(expected)
    assert angles(image_boxes(corners[:2], finer), finer) == pytest.approx(expected)


def test_only_what_is_whole_in_the_image_has_a_2d_box() -> None:
    file = SensorFile("image.jpg", 0, np.eye(4), np.eye(4), K, 320, 180)
    boxes = np.array([[20.0, y, 0.5, 4, 2, 1.5, 0] for y in (0.0, 10.6, 14.0)])
    seen = views(boxes, CAM_FROM_EGO, file)
    assert seen.rows.tolist() == [0]
    assert (seen.boxes[0] >= -0.5).all() and seen.boxes[0, 2] <= 319.5


def test_a_crop_is_what_is_in_the_box() -> None:
    image = np.zeros((40, 60, 3), np.uint8)
    image[10:20, 30:50] = 200
    assert (crop(image, np.array([29.5, 9.5, 49.5, 19.5]), 8) == 200).all()
    assert crop(image, np.array([58.9, 38.9, 59.5, 39.5]), 8).shape == (8, 8, 3)  # at the corner, less than a pixel


@pytest.mark.parametrize("weights", ["dynamic", SHARED])
def test_each_object_has_its_own_mlp(weights: str) -> None:
    """Dynamic weights in one product are a loop over objects with layers of their own."""
    torch.manual_seed(1)
    head = InverseHead(dataclasses.replace(TINY, weights=weights)).eval()
    sizes = torch.rand(5, 3, 2) * 0.2 + 0.01
    theta = torch.randn(5, len(head.common))
    takes = torch.randn(5, 3, head.shapes[0][0])
    together = inverse(theta, takes, head.shapes)
    for i in range(5):
        parts = theta[i].split([math.prod(shape) for shape in head.shapes])
        w1, b1, w2, b2 = (part.reshape(shape) for part, shape in zip(parts, head.shapes))
        for k in range(3):
            hidden = torch.nn.functional.silu(takes[i, k] @ w1 + b1)
            assert torch.allclose(together[i, k], hidden @ w2 + b2, atol=1e-5)
    crops, labels = torch.rand(5, 3, 16, 16), torch.arange(5)
    whole = head(crops, labels, sizes)
    for i in range(5):
        alone = head(crops[i : i + 1], labels[i : i + 1], sizes[i : i + 1])
        assert torch.allclose(whole.log_depth[i], alone.log_depth[0], atol=1e-5)


def test_positions_are_encoded_by_octaves() -> None:
    found = encoded(torch.tensor([[0.001, 2.0]]), 2)[0].tolist()
    assert found == pytest.approx([0, 0, 0, 1, 1, 1, 0, 0, -1, 1], abs=1e-5)  # x, sin pi x, sin 2 pi x, cos, cos


def test_a_world_of_cubes_is_inverted_far_beyond_its_labels(tmp_path: Path) -> None:
    """On the axis the front of a cube is all that is seen: d = s / w + s / 2."""
    side = 1.6
    config = TeachConfig(TINY, LABELLED_TO, edge_px=0.0, steps=300, batch_size=64, lr=1e-2)
    head, _ = load_head(teach(cubes(512, side, 5, LABELLED_TO, aside=0), config, tmp_path))
    far = cubes(64, side, 25, 75, aside=0)
    sizes = spans(torch.from_numpy(far["corners"]))
    with torch.inference_mode():
        guess = head(torch.full((64, 3, 16, 16), 128 / 255), torch.from_numpy(far["label"]), sizes[:, None])
    relative = (guess.log_depth[:, 0].exp() / torch.from_numpy(far["centre"][:, 2]) - 1).abs()
    assert relative.median() < 0.01 and relative.max() < 0.03
    assert torch.allclose(guess.log_size.exp(), torch.tensor(side), rtol=0.03)
    assert guess.log_scale.exp().median() < 0.03


def test_draws_are_of_the_same_object_at_other_depths() -> None:
    torch.manual_seed(0)
    batch = {name: torch.from_numpy(array) for name, array in cubes(32, 1.0, 5, 20).items()}
    drawn = draw(batch, TeachConfig(TINY, edge_px=0.0, moves=4))
    assert drawn.depths.shape == (32, 5) and torch.equal(drawn.depths[:, 0], batch["centre"][:, 2])
    assert drawn.depths[:, 1:].min() >= 4 and drawn.depths[:, 1:].max() <= 80
    front = 1 / (drawn.depths - 0.5)  # seen off the axis a cube also shows a side
    assert (drawn.sizes >= front[..., None] - 1e-6).all() and (drawn.sizes <= 1.35 * front[..., None]).all()
    alone = draw(batch, TeachConfig(TINY, moves=0))
    assert alone.depths.shape == (32, 1)


def test_a_crop_far_away_has_no_detail() -> None:
    crops = torch.rand(3, 3, 32, 32)
    seen = seen_at(crops, torch.tensor([4.0, 10.0, 40.0]))
    detail = [float((image - image.roll(1, -1)).abs().mean()) for image in (seen[0], seen[1], seen[2])]
    assert detail[0] < detail[1] < detail[2] and torch.equal(seen[2], crops[2])
    assert seen.mean(dim=(1, 2, 3)).tolist() == pytest.approx(crops.mean(dim=(1, 2, 3)).tolist(), abs=0.05)


def test_a_run_that_was_stopped_goes_on_as_if_it_had_not_been(tmp_path: Path, monkeypatch) -> None:
    arrays, config = cubes(64, 1.0, 5, 20), TeachConfig(TINY, steps=8, batch_size=16)
    whole = torch.load(teach(arrays, config, tmp_path / "whole"), weights_only=True)
    drawn = []

    def told(batch, config):
        drawn.append(1)
        if len(drawn) == 4:
            os.kill(os.getpid(), signal.SIGTERM)
        return draw(batch, config)

    monkeypatch.setattr(teaching, "draw", told)
    with pytest.raises(Preempted, match="step 4"):
        teach(arrays, config, tmp_path / "parts")
    parts = torch.load(teach(arrays, config, tmp_path / "parts"), weights_only=True)
    assert len(drawn) == 8
    assert all(torch.equal(whole["state_dict"][name], value) for name, value in parts["state_dict"].items())
    with pytest.raises(ValueError, match="lr"):
        teach(arrays, dataclasses.replace(config, lr=0.1), tmp_path / "parts")


def looks_of(boxes3d: np.ndarray, labels: int = CAR) -> Looks:
    corners = transform_points(CAM_FROM_EGO, box_corners(boxes3d).reshape(-1, 3)).reshape(-1, 8, 3)
    flat = image_boxes(corners, K)
    return Looks(np.zeros((len(flat), 16, 16, 3), np.uint8), np.full(len(flat), labels), flat, K, CAM_FROM_EGO)


def test_a_box_is_placed_where_it_was_seen() -> None:
    true = np.array([[40.0, 6, 0.75, 4.2, 1.8, 1.5, 0.9], [30, -7, 0.9, 0.6, 0.7, 1.8, -2.5]])
    azimuth = np.arctan2(true[:, 1], true[:, 0])
    found = placed(true[:, 0], true[:, 3:6], true[:, 6] - azimuth, looks_of(true))
    assert found[:, :3] == pytest.approx(true[:, :3], abs=0.1)
    assert found[:, 3:6] == pytest.approx(true[:, 3:6])
    assert found[:, 6] == pytest.approx(true[:, 6], abs=0.01)


def test_the_rule_of_heights_is_right_for_what_is_as_tall_as_its_class() -> None:
    head = InverseHead(TINY)
    head.class_size.copy_(torch.tensor([4.0, 2.0, 1.5]).log().expand(len(CLASSES), 3))
    flat = np.array([[100.0, 80, 120, 80 + 280 * 1.5 / 33]])
    looks = Looks(np.zeros((1, 16, 16, 3), np.uint8), np.array([CAR]), flat, K, CAM_FROM_EGO)
    assert height_rule(head, looks).depth == pytest.approx([33.0])


def test_returns_move_a_depth_by_their_precision() -> None:
    looks = looks_of(np.array([[40.0, 0, 0.75, 4, 2, 1.5, 0]]))
    depth, scale, reach = np.array([42.0]), np.array([0.05]), np.array([2.0])
    hits = np.array([[38.5, 0.2, 0.5], [39.5, -0.3, 0.5]])
    beside, beyond, behind = [39.0, 3.0, 0.5], [60.0, 0, 0.5], [-39.0, 0, 0.5]
    returns = np.array([*hits, beside, beyond, behind])
    fused, sure, count = with_radar(depth, scale, reach, looks, returns)
    measured = 39.0 + BEHIND * 2
    own, theirs = 1 / (2 * (0.05 * 42) ** 2), 1 / (RETURN_M**2 / 2 + (LEAST_BEHIND * 2) ** 2 + 0.5**2)
    assert count.tolist() == [2]
    assert fused == pytest.approx([(42 * own + measured * theirs) / (own + theirs)])
    assert sure == pytest.approx([math.sqrt(1 / (2 * (own + theirs))) / fused[0]]) and sure < scale
    alone, same, none = with_radar(depth, scale, reach, looks, returns[2:])
    assert none.tolist() == [0] and alone == pytest.approx(depth) and same == pytest.approx(scale)


def test_what_is_linked_is_the_nearest_that_is_kept() -> None:
    kept = np.array([True, False, True, True, True])
    before, after = links(kept, np.array([7, 7, 7, 8, 7]), np.array([3, 2, 1, 1, 4]))
    assert before.tolist() == [2, -1, -1, -1, 0] and after.tolist() == [4, -1, 0, -1, -1]


@pytest.fixture(scope="module")
def keyframes(tiny_dataset: Path):
    return keyframes_of(Source(tiny_dataset), "train")


def test_nothing_beyond_the_range_is_read_to_teach(keyframes, monkeypatch) -> None:
    keyframe = max(keyframes, key=lambda k: len(far_rows(k, LABELLED_TO)))
    far = far_rows(keyframe, LABELLED_TO)
    assert len(far) and len(far) < len(keyframe.labels)
    poisoned = keyframe.boxes.copy()
    poisoned[far, 2:] = np.nan  # all that does not say how far away it is
    poisoned = dataclasses.replace(keyframe, boxes=poisoned)
    found = near_objects(keyframe, CLASSES, LABELLED_TO, 16)
    again = near_objects(poisoned, CLASSES, LABELLED_TO, 16)
    assert set(found) == set(columns_of(16)) and len(found["label"])
    assert all(np.array_equal(found[name], again[name]) for name in found)
    assert all(np.isfinite(array).all() for array in again.values())
    assert (found["centre"][:, 2] <= LABELLED_TO + 3).all()  # of a camera ahead of or behind the vehicle's origin
    monkeypatch.setattr(near_module, "near_part", lambda keyframe, labelled_to: keyframe)  # were it read, it would show
    wrong = near_objects(keyframe, CLASSES, LABELLED_TO, 16)
    assert len(wrong["label"]) > len(found["label"])


@pytest.fixture(scope="module")
def head_path(tiny_dataset: Path, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("head")
    arguments = ["--data", str(tiny_dataset), "--labelled-to", str(LABELLED_TO), "--out", str(out), "--steps", "5"]
    assert main(["teach", *arguments, "--batch-size", "32"]) == 0
    assert main(["teach", *arguments, "--batch-size", "32"]) == 0  # nothing is left to do
    return out / "last.ckpt"


@pytest.fixture(scope="module")
def far_set(tiny_dataset: Path, head_path: Path, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("far") / "set"
    arguments = ["label", "--data", str(tiny_dataset), "--model", str(head_path), "--out", str(out), "--radar"]
    assert main([*arguments, "--most-scale", "9"]) == 0
    return out


def test_the_set_is_one_and_its_near_boxes_are_the_same(keyframes, far_set: Path) -> None:
    again = keyframes_of(Source(far_set), "train")
    changed = 0
    for old, new in zip(keyframes, again, strict=True):
        kept = np.flatnonzero(distances(old) <= LABELLED_TO)
        found = {box.tobytes(): i for i, box in enumerate(new.boxes)}
        rows = [found[old.boxes[i].tobytes()] for i in kept]  # to the bit
        assert (new.labels[rows] == old.labels[kept]).all()
        pseudo = np.setdiff1d(np.arange(len(new.labels)), rows)
        assert np.isnan(new.velocity[pseudo]).all()
        assert len(pseudo) <= len(old.labels) - len(kept)
        changed += len(pseudo)
    assert changed


def test_the_devkit_takes_the_set(tiny_dataset: Path, far_set: Path) -> None:
    before, after = (devkit.NuScenes("v1.0-trainval", str(root), verbose=False) for root in (tiny_dataset, far_set))
    old = {row["token"]: row for row in before.sample_annotation}
    tokens = {row["token"] for row in after.sample_annotation}
    pseudo = [row for row in after.sample_annotation if UNCERTAINTY in row]
    assert pseudo and all(row["prev"] == row["next"] == "" for row in pseudo)
    links = ("prev", "next")
    for row in after.sample_annotation:
        assert all(row[link] == "" or row[link] in tokens for link in links)
        own = old[row["token"]]
        if UNCERTAINTY not in row:
            assert {k: v for k, v in row.items() if k not in links} == {k: own[k] for k in row if k not in links}
            assert all(row[link] == own[link] or own[link] not in tokens or own[link] in {p["token"] for p in pseudo}
                       for link in links)  # fmt: skip
        else:
            assert row["category_name"] == own["category_name"] and row["translation"] != own["translation"]
            assert after.get("instance", row["instance_token"])["nbr_annotations"] == 1
    for row in after.instance:
        chain, token = [], row["first_annotation_token"]
        while token:
            chain.append(token)
            token = after.get("sample_annotation", token)["next"]
        assert len(chain) == row["nbr_annotations"] and chain[-1] == row["last_annotation_token"]
    held_out = [s["token"] for s in before.sample if before.get("scene", s["scene_token"])["name"] == "scene-0001"]
    for token in held_out:
        assert before.get("sample", token)["anns"] == after.get("sample", token)["anns"]


def test_what_is_not_sure_is_dropped_and_other_folders_are_left_alone(keyframes, head_path, tmp_path: Path) -> None:
    head, _ = load_head(head_path)
    none = labels_by(head, keyframes, LABELLED_TO, False, 0.0)
    assert all(np.isnan(labels.scale).all() for labels in none.values())
    told = write_far_set(tmp_path / "none", keyframes.data_index, LABELLED_TO, none, {})
    assert told["pseudo"] == 0 and told["dropped"] > 0
    write_far_set(tmp_path / "none", keyframes.data_index, LABELLED_TO, none, {})
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "notes.txt").write_text("")
    with pytest.raises(ValueError, match="name another folder"):
        write_far_set(mine, keyframes.data_index, LABELLED_TO, none, {})
    fewer = {row: dataclasses.replace(labels, far=labels.far[:-1]) for row, labels in none.items()}
    with pytest.raises(ValueError, match="not those of the index"):
        write_far_set(tmp_path / "fewer", keyframes.data_index, LABELLED_TO, fewer, {})
    assert not (tmp_path / "fewer").exists()


def test_true_boxes_measure_as_true(keyframes, head_path) -> None:
    head, config = load_head(head_path)
    rows = measure(keyframes, keyframes.spec, {"mine": head}, config.labelled_to, radar=True)
    assert {row["method"] for row in rows} == {TRUE, RULE, "mine", "mine" + WITH_RADAR}
    far = {row["method"]: row for row in rows if row["boxes"] == EXACT and (row["low"], row["high"]) == (20, 50)}
    assert far[TRUE]["median_metres"] == 0 and far[TRUE]["within_2_m"] == 1
    assert far[TRUE]["ap"] > 0.3 and all(far[TRUE]["ap"] >= row["ap"] for row in far.values())
    assert 0 < far[RULE]["median_relative"] < 1
    assert len({row["objects"] for row in far.values()}) == 1


def test_what_is_no_head_is_refused(tmp_path: Path, tiny_dataset: Path, capsys) -> None:
    torch.save({"state_dict": {}, "run": {"student": "x"}}, tmp_path / "other.ckpt")
    arguments = ["label", "--data", str(tiny_dataset), "--model", str(tmp_path / "other.ckpt")]
    assert main([*arguments, "--out", str(tmp_path / "out")]) == 1
    assert "another network" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
