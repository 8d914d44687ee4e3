"""Every experiment is a network that can be built, saved in a checkpoint and trained on what its data gives."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest

pytest.importorskip("nuscenes", reason="needs nuscenes-devkit")
torch = pytest.importorskip("torch", reason="needs torch")
pytest.importorskip("lightning", reason="needs lightning")

from page_sections import section  # noqa: E402
from torch._subclasses.fake_tensor import FakeTensorMode  # noqa: E402

from training.data.clips import ClipDataset, collate  # noqa: E402
from training.data.config import EVERY_RETURN  # noqa: E402
from training.data.source import Source  # noqa: E402
from training.experiments import crn, demo, family, near  # noqa: E402
from training.models import STUDENTS  # noqa: E402
from training.run import build_detector, run_from_plain, run_to_plain  # noqa: E402
from training.teachers import TEACHERS  # noqa: E402
from training.trainer.loading import open_keyframes  # noqa: E402
from training.trainer.network import Network  # noqa: E402

RESULTS = Path(__file__).resolve().parents[1] / "docs" / "lab_notes" / "eight_keyframes.md"
SIZES = {"tiny": family.tiny(), "near": near.family(), "small": family.small(), "paper": family.paper()}
EVERY = [(size, name) for size, runs in SIZES.items() for name in runs]
SENSORS = {  # of the published families: cameras, radars, LiDAR as an input
    **dict.fromkeys(("bevdet", "bevdet4d", "bevdepth", "bevdepth_large", "bevformer", "fbbev"), (True, False, False)),
    **dict.fromkeys(("bevfusion", "crn", "camera_radar"), (True, True, False)),
    "radar_pillarnet": (False, True, False),
    **dict.fromkeys(
        ("centerpoint", "centerpoint_voxel", "pillarnet", "mvp", "lidar_transformer"), (False, False, True)
    ),
}
MEMORY = ("bevdet4d", "bevdepth", "bevdepth_large", "bevformer", "fbbev", "crn", "camera_radar")


def run_of(size, name):
    if name == "centerpoint_voxel":
        pytest.importorskip("spconv", reason="CenterPoint on voxels needs spconv")
    return SIZES[size][name]


def test_every_student_and_teacher_has_a_run_of_each_size():
    """A paper's size is not asked for: some have no paper."""
    families = set(STUDENTS) | set(TEACHERS)
    missing = [f"{name} ({size})" for size in ("tiny", "near", "small") for name in sorted(families - set(SIZES[size]))]
    assert not missing, f"no run in training/experiments/family.py: {', '.join(missing)}"
    assert [name for size, name in EVERY if SIZES[size][name].model != name or name not in families] == []


def test_forward_projection_alone_is_what_fbbev_adds_to():
    runs = near.study()
    assert set(runs) == set(SIZES["near"]) | {"fbbev_forward"}
    whole, forward = (set(build_detector(runs[name]).state_dict()) for name in ("fbbev", "fbbev_forward"))
    assert forward < whole
    assert {name.split(".")[0] for name in whole - forward} == {"backward_projection", "proposals"}
    same = dataclasses.replace(runs["fbbev"], model="", config=None)
    assert dataclasses.replace(runs["fbbev_forward"], model="", config=None) == same


def test_names_of_specs_differ():
    names = [run.spec.name for runs in SIZES.values() for run in runs.values()]
    assert len(names) == len(set(names))


@pytest.mark.parametrize(("size", "name"), EVERY)
def test_sensors_and_memory_are_those_of_the_family(size, name):
    run = SIZES[size][name]
    found = bool(run.spec.cameras), bool(run.spec.radars), run.data.lidar is not None
    assert any(found) and (run.spec.temporal.state_channels > 0) == (run.data.history > 0)
    if name in SENSORS:
        assert found == SENSORS[name]
        assert (run.data.history > 0) == (name in MEMORY)
        assert (run.data.virtual is not None) == (name == "mvp")


def test_intervals_lie_within_what_the_memory_uses():
    for run in (demo.full(), *(SIZES[size][name] for size, name in EVERY)):
        plain = dataclasses.replace(run.data, cbgs=False, paste=None)  # both look at the keyframes, here none
        assert len(ClipDataset([], run.spec, plain)) == 0
    paper = SIZES["paper"]["bevdet4d"]
    assert paper.data.interval[1] == paper.spec.temporal.max_age_s == 2.25


def test_paper_sizes_keep_as_many_candidates_and_boxes_as_the_papers():
    for name, run in SIZES["paper"].items():
        facts = run.spec
        if name == "lidar_transformer":  # a set of queries
            continue
        assert (facts.top_k, len(facts.nms)) == (3000, 6), name
        assert {group.most for group in facts.nms} == {200 if name == "crn" else 83}, name
        assert set(sum((group.classes for group in facts.nms), ())) == set(facts.classes), name


def test_students_learn_from_the_radar_returns_that_a_vehicle_has():
    """Radar topics carry no states to filter by."""
    assert {name for size, name in EVERY if SIZES[size][name].data.returns != EVERY_RETURN} == set()
    filtered = crn.r50_filtered()
    assert filtered.data.returns.ambig_state == (3,) and filtered.spec.name != crn.r50().spec.name


def test_tiny_runs_are_as_long_as_those_that_were_measured():
    table = section(RESULTS, "overfit")
    rows = [line.split("|") for line in table.splitlines() if line.startswith("|")][2:]
    steps = {row[1].strip(): int(row[7]) for row in rows}
    assert steps == {n: r.optim.steps for n, r in SIZES["tiny"].items() if n in SENSORS and n != "centerpoint_voxel"}


@pytest.mark.parametrize(("size", "name"), EVERY)
def test_plain_form_round_trips(size, name):
    run = SIZES[size][name]
    assert run_from_plain(json.loads(json.dumps(run_to_plain(run))), "here") == run


@pytest.mark.parametrize(("size", "name"), [(s, n) for s, n in EVERY if s != "tiny"])
def test_network_is_built(size, name, monkeypatch):
    """Shapes alone, without numbers: a hundred million weights cost nothing so."""
    run = run_of(size, name)
    monkeypatch.setattr(torch.nn.init, "trunc_normal_", lambda weight, *_, **__: weight)  # looks at its numbers
    with FakeTensorMode(allow_non_fake_inputs=True):
        detector = build_detector(run)
    count = sum(p.numel() for p in detector.parameters())
    # As published: CenterPoint-Pillar about 6 M, BEVDepth with ResNet-50 about 77 M, with ConvNeXt-B beyond that.
    low, high = {"near": (0.3e6, 15e6), "small": (0.9e6, 10e6), "paper": (5e6, 150e6)}[size]
    assert low < count < high or name not in SENSORS


@pytest.fixture(scope="module")
def samples(tiny_dataset):
    def of(run):
        keyframes = open_keyframes(run.spec, run.data, Source(tiny_dataset), "train")
        data = ClipDataset(keyframes, run.spec, run.data)
        return collate([data[1], data[2]])

    return of


@pytest.mark.parametrize("name", sorted(set(SIZES["tiny"]) - {"mvp"}))  # the tiny data set has no masks
def test_a_step_reaches_every_weight(name, samples):
    """What the data set gives is what the network takes, and no layer is left out of its losses."""
    run = run_of("tiny", name)
    if name == "centerpoint_voxel" and not torch.cuda.is_available():
        pytest.skip("sparse convolutions have no gradient on the CPU")
    network = Network(run, build_detector(run))
    network.detector.train()
    batch = samples(run)
    terms = network.losses(network.predict(batch), batch)
    assert all(torch.isfinite(value) for value in terms.values())
    torch.stack(list(terms.values())).sum().backward()
    without = [n for n, p in network.detector.named_parameters() if p.grad is None or not torch.isfinite(p.grad).all()]
    assert without == []
