"""The cache of teacher outputs: what it gives back, what it notices, what it refuses."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch", reason="needs torch")

import numpy as np
import torch
from tiny_distill import Taught
from torch import Tensor, nn

from bev_perception.grid import BevGrid
from bev_perception.model_spec import HealthSpec, ModelSpec, TemporalSpec
from training.data.augment import NO_AUGMENTATION, Augmentation
from training.data.config import DataConfig, LidarConfig, PasteConfig
from training.data.view_change import ViewChange
from training.distill import DistillConfig, Term
from training.distill.cache import TeacherCache, refuse_random_inputs, teacher_hash
from training.models.detector import Memory, Prediction
from training.teachers.frozen import FrozenTeacher

GRID = BevGrid(-4.0, 4.0, -4.0, 4.0, 1.0)
SCORES = {"car": 0.1, "truck": 0.1}
SPEC = ModelSpec(
    "tiny", (), (), SCORES, SCORES, ("car", "truck"), GRID, temporal=TemporalSpec(state_channels=0), top_k=5
)
TOKENS = ("a0", "b1", "c2", "d3")
DATA = DataConfig(lidar=LidarConfig())


class Network(nn.Module):
    """A detector that counts how often it runs."""

    bins, training_only = None, ()

    def __init__(self, spec: ModelSpec = SPEC, seed: int = 0) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.spec, self.tasks, self.config, self.runs = spec, (spec.classes,), None, 0
        self.conv, self.heads = nn.Conv2d(2, 5, 3, 1, 1), nn.Conv2d(5, 12, 1)

    def forward(self, inputs: dict[str, Tensor], memory: Memory | None) -> Prediction:
        self.runs += 1
        neck = self.conv(inputs.get("sensed", torch.zeros(1, 2, *GRID.shape))).relu()
        both = self.heads(neck)
        return Prediction(
            both[:, :2], both[:, None, 2:], aux={"iou": both[:, :1]}, features={"neck": neck, "other": neck}
        )


def batch_of(*index: int) -> dict[str, Tensor]:
    """Samples by index; a sample's input depends on its index alone."""
    sensed = [torch.randn(2, *GRID.shape, generator=torch.Generator().manual_seed(i)) for i in index]
    target = torch.zeros(len(index), 2, *GRID.shape)
    return {"index": torch.tensor(index), "sensed": torch.stack(sensed), "heatmap": target}


def ask(cache: TeacherCache, network: Network, *index: int, names: tuple[str, ...] = ("neck",)) -> Prediction:
    def compute() -> Prediction:
        with torch.no_grad():
            prediction: Prediction = network(batch_of(*index), None)
        return prediction

    return cache.predict(batch_of(*index), compute, set(names))


def test_it_gives_back_what_it_was_told(tmp_path: Path) -> None:
    network = Network()
    cache = TeacherCache(tmp_path, network, TOKENS, DATA, "set")
    fresh = ask(cache, network, 2, 0)
    again = ask(TeacherCache(tmp_path, network, TOKENS, DATA, "set"), network, 0, 2)
    assert network.runs == 1
    with torch.no_grad():
        exact = network(batch_of(0, 2), None)
    assert set(again.features) == {"neck"} and not again.aux
    for name in ("heatmap", "regression"):
        assert torch.equal(getattr(again, name), getattr(fresh, name).flip(0))  # filled or filling: the same
        assert torch.allclose(getattr(again, name), getattr(exact, name), rtol=1e-3, atol=1e-4)
        assert getattr(again, name).dtype == torch.float32
    assert torch.allclose(again.features["neck"], exact.features["neck"], rtol=1e-3, atol=1e-4)


def test_it_is_read_under_autocast(tmp_path: Path) -> None:
    network = Network()
    cache = TeacherCache(tmp_path, network, TOKENS, DATA, "set")
    fresh = ask(cache, network, 2, 0)
    with torch.autocast("cpu", torch.bfloat16):
        again = ask(cache, network, 2, 0)
    assert torch.equal(again.heatmap, fresh.heatmap) and network.runs == 1


def test_the_rows_that_lack_something_are_named(tmp_path: Path) -> None:
    network = Network()
    cache = TeacherCache(tmp_path, network, TOKENS, DATA, "set")
    ask(cache, network, 0, 3)
    assert cache.lacking({"neck"}, range(4)) == [1, 2] and cache.lacking(set(), (2, 3)) == [2]
    assert cache.lacking({"neck", "aux.iou"}, range(4)) == [0, 1, 2, 3]
    ask(cache, network, 3, names=("aux.iou",))  # what is stored stays
    assert cache.lacking({"neck", "aux.iou"}, range(4)) == [0, 1, 2]
    cache.path("a0").write_bytes(b"")
    assert cache.lacking({"neck"}, range(4)) == [0, 1, 2]


def test_a_sample_that_vanished_behind_the_points_is_named(tmp_path: Path) -> None:
    network = Network()
    cache = TeacherCache(tmp_path, network, TOKENS, DATA, "set")
    ask(cache, network, 0, 3)
    cache.path("d3").unlink()
    with pytest.raises(ValueError, match=r"nothing is stored for \['d3'\] and the batch has no 'lidar'.*start the run"):
        cache.predict(batch_of(0, 3), lambda: {}["lidar"], {"neck"})


def test_one_missing_sample_or_name_runs_the_teacher(tmp_path: Path) -> None:
    network = Network()
    cache = TeacherCache(tmp_path, network, TOKENS, DATA, "set")
    ask(cache, network, 0, 1)
    ask(cache, network, 1, 2)  # 2 is missing
    assert network.runs == 2 and (cache.hits, cache.misses) == (0, 4)
    ask(cache, network, 2, 0)
    assert network.runs == 2 and (cache.hits, cache.misses) == (2, 4)
    found = ask(cache, network, 2, 0, names=("aux.iou",))
    assert network.runs == 3 and set(found.aux) == {"iou"}
    with pytest.raises(KeyError, match="conv9"):
        ask(cache, network, 3, names=("conv9",))


def test_half_precision_files_without_leftovers(tmp_path: Path) -> None:
    network = Network()
    cache = TeacherCache(tmp_path, network, TOKENS, DATA, "set")
    ask(cache, network, 0, 1, 3)
    files = sorted(p.name for p in cache.folder.iterdir())
    assert files == ["a0.npz", "b1.npz", "d3.npz"]
    stored = cache.read("a0")
    assert set(cache.read("a0", {"neck", "other"})) == {"neck"} < set(stored)
    assert {t.dtype for t in stored.values()} == {torch.float16}
    assert cache.read("c2") == {}
    elements = sum(t.numel() for t in stored.values())
    assert cache.path("a0").stat().st_size < 2 * elements + 2000


def test_a_folder_that_cannot_be_used_names_the_option(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    network = Network()
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match=r"cannot write .*file.*Not a directory.*--teacher-cache"):
        TeacherCache(tmp_path / "file", network, TOKENS, DATA, "set")
    cache = TeacherCache(tmp_path, network, TOKENS, DATA, "set")

    def full(path: Path, **arrays: object) -> None:
        Path(path).write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(np, "savez", full)
    with pytest.raises(OSError, match=r"No space left on device.*make room.*--teacher-cache"):
        ask(cache, network, 0)
    assert list(cache.folder.iterdir()) == [], "nothing half written is left"


def test_a_damaged_file_is_named(tmp_path: Path) -> None:
    network = Network()
    cache = TeacherCache(tmp_path, network, TOKENS, DATA, "set")
    ask(cache, network, 0)
    path, content, whole = cache.path("a0"), cache.path("a0").read_bytes(), cache.read("a0")
    for broken in (content[:-1], content[:100], b""):
        path.write_bytes(broken)
        with pytest.raises(ValueError, match=r"a0\.npz.*delete"):
            ask(cache, network, 0)
    noticed = 0
    for at in range(7, len(content), 11):  # one bit at a time; some bits of the archive say nothing about arrays
        path.write_bytes(content[:at] + bytes([content[at] ^ 4]) + content[at + 1 :])
        try:
            found = cache.read("a0")
        except ValueError as error:
            assert "a0.npz" in str(error) and "delete" in str(error)
            noticed += 1
            continue
        assert all(torch.equal(found[name], whole[name]) for name in found)
    assert noticed > 0.9 * len(content) / 11


def test_other_weights_specs_or_data_have_another_folder(tmp_path: Path) -> None:
    def folder(network: Any, data: DataConfig = DATA, digest: str = "set") -> Path:
        return TeacherCache(tmp_path, network, TOKENS, data, digest).folder

    first = folder(Network())
    assert folder(Network()) == first  # the same weights once more
    assert folder(Network(), dataclasses.replace(DATA, cache_mb=1)) == first
    changed = Network()
    with torch.no_grad():
        changed.heads.bias[3] += 1e-3
    spec = dataclasses.replace(SPEC, grid=BevGrid(-4.0, 4.0, -4.0, 4.0, 0.5))
    fewer = dataclasses.replace(DATA, lidar=LidarConfig(sweeps=1))
    other_set = folder(Network(), digest="another set with the same tokens")
    folders = {first, folder(changed), folder(Network(seed=1)), folder(Network(spec)), folder(Network(), fewer)}
    assert len(folders | {other_set}) == 6
    assert teacher_hash(Network()) == teacher_hash(Network()) != teacher_hash(changed)


def test_fields_that_specs_got_later_change_no_hash_until_they_say_something() -> None:
    network = Network()
    with torch.no_grad():
        for i, parameter in enumerate(network.parameters()):
            parameter.copy_(torch.arange(parameter.numel()).reshape(parameter.shape) + i)
    first = "b02cb8418d9c205e04928d5740d2c96d522a660c43c81c7509a4c2c79b5dae67"  # of before mounts, spread and health
    assert teacher_hash(network) == first
    for change in ({"spread": ("aleatoric",)}, {"health": HealthSpec(0, 4)}, {"precision": "int8"}):
        network.spec = dataclasses.replace(SPEC, **change)
        assert teacher_hash(network) != first, change


@pytest.mark.parametrize(
    ("change", "lidar", "camera", "temporal"),
    [
        ({"bev_flip_x": 0.5}, False, False, False),
        ({"bev_rotation_deg": 5.0}, False, False, False),
        ({"bev_shift_m": 0.5}, False, False, False),
        ({"image_flip": 0.5}, True, False, True),
        ({"brightness": 0.1}, True, False, True),
        ({"photometric": True}, True, False, True),
        ({"drop_camera": 0.1}, True, False, False),
        ({"drop_prev": 0.1}, True, False, False),
        ({"view": ViewChange(share=0.2)}, True, False, True),
        ({"view": ViewChange(zoom=(0.5, 1.5))}, True, True, True),
        ({}, True, True, True),
    ],
)
def test_augmentation_that_a_teacher_sees_is_refused(
    change: dict[str, Any], lidar: bool, camera: bool, temporal: bool
) -> None:
    data = dataclasses.replace(DATA, augmentation=dataclasses.replace(NO_AUGMENTATION, **change))
    cameras = dataclasses.replace(SPEC, cameras=("CAM_FRONT",))
    remembers = dataclasses.replace(SPEC, temporal=TemporalSpec(state_channels=8))
    for spec, allowed in ((SPEC, lidar), (cameras, camera), (remembers, temporal)):
        if allowed:
            refuse_random_inputs(data, spec)
        else:
            with pytest.raises(ValueError, match=next(iter(change))):
                refuse_random_inputs(data, spec)


def test_pasting_and_drawn_intervals_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="paste"):
        TeacherCache(tmp_path, Network(), TOKENS, dataclasses.replace(DATA, paste=PasteConfig()), "set")
    jitter = dataclasses.replace(DATA, interval=(0.3, 0.7))
    refuse_random_inputs(jitter, SPEC)
    with pytest.raises(ValueError, match="interval"):
        refuse_random_inputs(jitter, dataclasses.replace(SPEC, temporal=TemporalSpec(state_channels=8)))
    with pytest.raises(ValueError, match="bev_"):
        TeacherCache(tmp_path, Network(), TOKENS, dataclasses.replace(DATA, augmentation=Augmentation()), "set")


def test_what_half_precision_cannot_hold_is_refused(tmp_path: Path) -> None:
    network = Network()
    with torch.no_grad():
        network.conv.bias.fill_(1e6)
    with pytest.raises(ValueError, match="half precision"):
        ask(TeacherCache(tmp_path, network, TOKENS, DATA, "set"), network, 0)


def test_a_distilled_student_sees_the_same_with_and_without(tmp_path: Path) -> None:
    teacher, config = (
        Network(seed=1),
        DistillConfig((Term("plain_feature", "neck", "neck"), Term("logits", "heatmap", "heatmap"))),
    )
    frozen = FrozenTeacher(teacher)

    def losses(caches: dict[str, TeacherCache]) -> dict[str, float]:
        module = Taught(Network(seed=2), {"teacher": frozen}, config, caches=caches)
        return {n: float(v.detach()) for n, v in module(batch_of(0, 3))[1].items()}

    plain = losses({})
    caches = {"teacher": TeacherCache(tmp_path, teacher, TOKENS, DATA, "set")}
    filling = losses(caches)
    runs = teacher.runs
    filled = losses(caches)
    assert teacher.runs == runs + 1  # once to learn the channels, not for the batch
    assert filled == filling == pytest.approx(plain, rel=2e-3)
