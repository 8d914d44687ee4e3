"""What is stored of frames, by networks whose answers are known: each disagreement against what it must be."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

pytest.importorskip("pyarrow", reason="frames are stored with pyarrow")
pytest.importorskip("nuscenes", reason="needs nuscenes-devkit")

import torch
from tiny_run import SPEC
from torch import Tensor

from bev_perception.model_spec import ModelSpec
from training.data.config import PLAIN
from training.data.nuscenes import open_nuscenes
from training.data.source import Source
from training.data_engine import looking
from training.data_engine.looking import Look, Networks, look_at
from training.data_engine.peaks import mutual_information
from training.data_engine.store import Ragged, Store

SCENE = "scene-0000"
Batch = dict[str, Tensor]


@dataclasses.dataclass(frozen=True)
class Known:
    """In the place of a network: `says` makes probabilities (B, classes, X, Y) of a batch."""

    says: Callable[[Batch], Tensor]
    spec: ModelSpec = SPEC

    data, device = PLAIN, torch.device("cpu")

    @property
    def detector(self) -> SimpleNamespace:
        return SimpleNamespace(tasks=(self.spec.classes,))

    def predict(self, batch: Batch) -> SimpleNamespace:
        return SimpleNamespace(heatmap=torch.logit(self.says(batch).clamp(1e-6, 1 - 1e-6)), aux={})


@pytest.fixture
def looked(tiny_dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Ragged]:
    """(view, networks) -> what is stored of the scene."""

    def look(view: str, *networks: Known) -> Ragged:
        of = {Path(str(number)): network for number, network in enumerate(networks)}
        monkeypatch.setattr(looking, "_network", of.__getitem__)
        store = Store(tmp_path / view, {view: "x"})
        look_at(Look(Networks(tuple(of)), Source(tiny_dataset), SCENE, (view,), store, batch=3))
        return store.read(SCENE).lists(view)

    return look


def at(*peaks: tuple[int, int, Tensor]) -> Tensor:
    """(B, classes, X, Y) with a probability (B,) of the first class at each (x, y)."""
    maps = torch.zeros(len(peaks[0][2]), len(SPEC.classes), *SPEC.grid.shape)
    for x, y, height in peaks:
        maps[:, 0, x, y] = height
    return maps


def alive(batch: Batch, name: str) -> Tensor:
    """(B,) 1 where any sensor of the kind is."""
    return batch[name].amax(dim=1) if name in batch else torch.zeros(len(batch["heatmap"]))


def information(*pairs: tuple[float, float]) -> np.ndarray:
    return mutual_information(np.array(pairs).T)


def test_a_network_that_turns_with_the_scene_does_not_disagree_with_its_mirror_image(looked) -> None:
    """It says where the objects are, of which more are on one side than on the other."""
    found = looked("flips", Known(lambda batch: 0.9 * batch["heatmap"]))
    assert found.counts.min() > 0 and found.values.max() < 0.05
    beside = looked("flips", Known(lambda batch: 0.9 * batch["heatmap"].roll(6, dims=-1)))
    assert beside.values.max() > 0.2, "what stands off to one side stands off to the other in the mirror image"


def test_a_network_that_looks_at_nothing_disagrees_with_its_mirror_image(looked) -> None:
    width = SPEC.grid.shape[1]
    ones = torch.ones
    found = looked(
        "flips", Known(lambda b: at((9, 5, 0.8 * ones(len(b["heatmap"]))), (20, 7, 0.5 * ones(len(b["heatmap"])))))
    )
    for of_frame in (found[i] for i in range(len(found))):
        np.testing.assert_allclose(of_frame, information((0.8, 0), (0, 0.8), (0.5, 0), (0, 0.5)), atol=1e-4)
    both = looked(
        "flips",
        Known(lambda b: at((9, 5, 0.8 * ones(len(b["heatmap"]))), (9, width - 6, 0.8 * ones(len(b["heatmap"]))))),
    )
    assert len(both.values) and both.values.max() < 1e-6, "a map that is its own mirror image"


def test_sensors_are_heard_one_kind_at_a_time_and_without_memory(looked) -> None:
    def says(batch: Batch) -> Tensor:
        cameras, radars = alive(batch, "camera_valid"), alive(batch, "radar_valid")
        remembered = batch["prev_valid"].amax(dim=1)
        return at(
            (9, 5, 0.8 * cameras), (20, 7, 0.5 * radars), (30, 9, 0.7 * cameras * radars), (40, 11, 0.6 * remembered)
        )

    found = looked("sensors", Known(says))
    assert len(found) == 4
    for of_frame in (found[i] for i in range(len(found))):
        np.testing.assert_allclose(of_frame, information((0.8, 0), (0, 0.5)), atol=1e-4)


def test_members_of_an_ensemble_have_their_own_sensors(looked) -> None:
    """The first has no radar: whoever hears radars must have the radars' files all the same."""
    cameras = dataclasses.replace(SPEC, radars=())
    members = (
        Known(lambda b: at((9, 5, 0.8 * alive(b, "camera_valid"))), cameras),
        Known(lambda b: at((9, 5, 0.3 * alive(b, "radar_valid")))),
        Known(lambda b: at((9, 5, 0.6 * alive(b, "radar_valid") * alive(b, "camera_valid")))),
    )
    found = looked("ensemble", *members)
    for of_frame in (found[i] for i in range(len(found))):
        np.testing.assert_allclose(of_frame, mutual_information(np.array([[0.8], [0.3], [0.6]])), atol=1e-4)


def test_members_of_other_classes_are_no_ensemble(looked) -> None:
    other = dataclasses.replace(SPEC, grid=dataclasses.replace(SPEC.grid, step=0.8))
    with pytest.raises(ValueError, match="1 has another grid or other classes than 0: no ensemble"):
        looked("ensemble", Known(lambda b: at((9, 5, alive(b, "camera_valid")))), Known(lambda b: b["heatmap"], other))


def test_the_scene_is_no_mirror_image_of_itself(tiny_dataset: Path) -> None:
    """Or the tests above would say nothing."""
    for keyframe in open_nuscenes(Source(tiny_dataset), [SCENE], SPEC):
        left, right = (np.sum(sign * keyframe.boxes[:, 1] > 2) for sign in (1, -1))
        assert left != right or np.abs(np.sort(keyframe.boxes[:, 1]) + np.sort(keyframe.boxes[:, 1])[::-1]).max() > 1
