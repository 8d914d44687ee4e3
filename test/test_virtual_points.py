"""MVP's virtual points in a scene whose answer is known: a wall in front of a camera."""

from __future__ import annotations

import numpy as np
import pytest

from bev_perception.model_spec import CLASSES
from training.data.virtual_points import VIRTUAL_CHANNELS, project, unproject, virtual_points

HEIGHT, WIDTH, FOCAL = 40, 60, 50.0
# Camera at (1, 0, 1.5) looking along +x: u to the right (-y), v downwards (-z).
CAM_FROM_EGO = np.array([[0, -1, 0, 0], [0, 0, -1, 1.5], [1, 0, 0, -1], [0, 0, 0, 1.0]])
IMG_FROM_EGO = np.array([[FOCAL, 0, 29.5, 0], [0, FOCAL, 19.5, 0], [0, 0, 1, 0], [0, 0, 0, 1.0]]) @ CAM_FROM_EGO


def wall(x: float, count: int = 40, seed: int = 0, age: float = 0.0) -> np.ndarray:
    """Points (P, 5) on the plane at x, all seen by the camera."""
    rng = np.random.default_rng(seed)
    depth = x - 1
    y, z = rng.uniform(-0.5, 0.5, count) * depth, 1.5 + rng.uniform(-0.3, 0.3, count) * depth
    return np.stack([np.full(count, x), y, z, rng.uniform(size=count), np.full(count, age)], axis=1)


def rectangle(u: slice, v: slice) -> np.ndarray:
    mask = np.zeros((1, HEIGHT, WIDTH), bool)
    mask[0, v, u] = True
    return mask


def make(points: np.ndarray, masks: list[np.ndarray], labels: list[list[int]], **options) -> np.ndarray:  # type: ignore[no-untyped-def]
    scores = [[0.7] * len(one) for one in labels]
    matrices = [IMG_FROM_EGO] * len(masks)
    rng = np.random.default_rng(3)
    return virtual_points(
        points, masks, [np.array(x) for x in labels], [np.array(s) for s in scores], matrices, rng, **options
    )


def test_points_of_a_mask_lie_on_the_wall_and_in_the_mask() -> None:
    mask = rectangle(slice(10, 30), slice(5, 25))
    found = make(wall(11.0, age=0.25), [mask], [[8]], painted=False)
    assert found.shape == (50, VIRTUAL_CHANNELS) and found.dtype == np.float32
    np.testing.assert_allclose(found[:, 0], 11.0, atol=1e-4)
    seen, pixel, depth = project(found[:, :3].astype(float), IMG_FROM_EGO, (HEIGHT, WIDTH))
    assert len(seen) == 50 and np.allclose(depth, 10.0, atol=1e-4)
    np.testing.assert_allclose(pixel, np.rint(pixel), atol=1e-3)  # centres of pixels
    column, row = np.rint(pixel).astype(int).T
    assert mask[0, row, column].all()
    assert len({*zip(column, row)}) == 50  # no pixel twice
    assert np.all(found[:, 3] == 0.25) and np.all(found[:, 4 + 8] == 1) and np.all(found[:, 4:14].sum(1) == 1)
    np.testing.assert_allclose(found[:, 14], 0.7)


def test_depth_is_the_nearest_points_of_the_same_mask() -> None:
    near, far = wall(6.0, seed=1), wall(21.0, seed=2)
    left, right = rectangle(slice(0, 20), slice(0, 40)), rectangle(slice(35, 60), slice(0, 40))
    points = np.concatenate([near, far])
    masks = np.concatenate([left, right])
    found = make(points, [masks], [[0, 6]], per_mask=200, painted=False)
    _, pixels, depths = project(points[:, :3], IMG_FROM_EGO, (HEIGHT, WIDTH))
    assert len(found) == 400 and len(np.unique(np.round(found[:, 0]))) == 2
    for row in found:
        (_, (u, v), (depth,)) = (part for part in _one(row))
        own = masks[int(row[4 + 6])]
        best, answer = np.inf, 0.0
        for (pu, pv), d in zip(pixels, depths):  # slow and obvious
            if own[round(pv), round(pu)] and np.hypot(pu - u, pv - v) < best:
                best, answer = np.hypot(pu - u, pv - v), d
        assert abs(depth - answer) < 1e-3


def _one(row: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    seen, pixel, depth = project(row[None, :3].astype(float), IMG_FROM_EGO, (HEIGHT, WIDTH))
    return seen, np.rint(pixel[0]), depth


def test_small_masks_empty_masks_and_far_points() -> None:
    points = wall(11.0)
    three = rectangle(slice(0, 0), slice(0, 0))
    _, pixel, _ = project(points[:, :3], IMG_FROM_EGO, (HEIGHT, WIDTH))
    u, v = np.rint(pixel[0]).astype(int)
    three[0, v, u - 1 : u + 2] = True
    assert len(make(points, [three], [[0]], painted=False)) == 3
    assert len(make(points, [rectangle(slice(0, 0), slice(0, 0))], [[0]])) == 0
    assert len(make(np.zeros((0, 5)), [rectangle(slice(0, 60), slice(0, 40))], [[0]])) == 0
    assert len(make(points, [np.zeros((0, HEIGHT, WIDTH), bool)], [[]])) == 0
    assert make(points, [], []).shape == (0, VIRTUAL_CHANNELS)
    one = make(points[:1], [rectangle(slice(0, 60), slice(0, 40))], [[0]], per_mask=2400, max_pixels=5, painted=False)
    _, where, _ = project(one[:, :3].astype(float), IMG_FROM_EGO, (HEIGHT, WIDTH))
    assert 40 < len(one) < 100 and np.linalg.norm(where - pixel[0], axis=1).max() < 5.001  # about pi 5^2


def test_painted_points_are_the_real_ones_inside() -> None:
    points = wall(11.0, age=0.1)
    mask = rectangle(slice(0, 30), slice(0, 40))
    found = make(points, [mask, mask], [[2], [3]], per_mask=0)
    seen, pixel, _ = project(points[:, :3], IMG_FROM_EGO, (HEIGHT, WIDTH))
    inside = seen[np.rint(pixel[:, 0]) < 30]
    assert 0 < len(inside) < len(points)
    np.testing.assert_allclose(found[:, :4], points[inside][:, [0, 1, 2, 4]], rtol=1e-6)
    assert np.all(found[:, 4:14] == np.eye(10)[2] + np.eye(10)[3])  # in the masks of both cameras


def test_points_behind_the_camera_project_nowhere() -> None:
    behind = wall(11.0)
    behind[:, 0] *= -1
    assert len(project(behind[:, :3], IMG_FROM_EGO, (HEIGHT, WIDTH))[0]) == 0
    on_the_lens = np.array([[1.0, 0.0, 1.5]])
    assert len(project(on_the_lens, IMG_FROM_EGO, (HEIGHT, WIDTH))[0]) == 0


def test_unproject_inverts_project() -> None:
    points = wall(8.0)[:, :3]
    _, pixel, depth = project(points, IMG_FROM_EGO, (HEIGHT, WIDTH))
    np.testing.assert_allclose(unproject(pixel, depth, np.linalg.inv(IMG_FROM_EGO)), points, atol=1e-9)


def test_the_seed_alone_decides() -> None:
    arguments = (wall(11.0), [rectangle(slice(10, 30), slice(5, 25))], [[8]])
    np.testing.assert_array_equal(make(*arguments), make(*arguments))


def test_refuses_what_does_not_fit() -> None:
    mask = rectangle(slice(0, 5), slice(0, 5))
    with pytest.raises(ValueError, match="one entry per camera"):
        virtual_points(wall(5.0), [mask], [], [], [], np.random.default_rng(0))
    with pytest.raises(ValueError, match=f"not indices of the {len(CLASSES)} classes"):
        make(wall(5.0), [mask], [[10]])
    with pytest.raises(ValueError, match=r"camera 0.*bool"):
        make(wall(5.0), [mask.astype(np.uint8)], [[0]])
    with pytest.raises(ValueError, match=r"points \(P, 5\)"):
        make(wall(5.0)[:, :4], [mask], [[0]])
