"""Runs as plain data: round trips, changes by dotted names, and what is refused."""

from __future__ import annotations

import dataclasses
import importlib
import inspect
import json
import pkgutil
import typing

import pytest

pytest.importorskip("torch", reason="needs torch")
pytest.importorskip("lightning", reason="needs lightning")

import training.experiments
from bev_perception.plain import from_plain, to_plain
from training.changes import changes_of, differences, override
from training.experiments import load_experiment
from training.run import ADDED_LATER, Run, run_from_plain, run_to_plain
from training.train import main


def experiments() -> list[str]:
    """package.module:function of every experiment without required arguments."""
    names = []
    for info in pkgutil.iter_modules(training.experiments.__path__, "training.experiments."):
        module = importlib.import_module(info.name)
        for name, function in inspect.getmembers(module, inspect.isfunction):
            own = function.__module__ == info.name and not name.startswith("_")
            free = all(p.default is not p.empty for p in inspect.signature(function).parameters.values())
            if own and free and function.__annotations__.get("return") in ("Run", Run):
                names.append(f"{info.name}:{name}")
    return names


@pytest.fixture(scope="module")
def demo() -> Run:
    return load_experiment("training.experiments.demo:full")


@pytest.mark.parametrize("name", experiments())
def test_every_experiment_survives_its_way_through_json(name):
    run = load_experiment(name)
    assert run_from_plain(json.loads(json.dumps(run_to_plain(run))), name) == run


def test_unknown_names_and_wrong_types_in_a_stored_run_are_errors(demo):
    plain = run_to_plain(demo)
    for change, words in (
        ({"batches": 3}, r"unknown keys \['batches'\]"),
        ({"optim": plain["optim"] | {"rate": 1}}, r"here: optim: unknown keys \['rate'\]"),
        ({"config": plain["config"] | {"neck_channels": "many"}}, "neck_channels must be int, found 'many'"),
        ({"data": plain["data"] | {"history": True}}, "history must be int, found True"),
        ({"model": "resnet"}, "there is no model 'resnet'"),
        ({"spec": plain["spec"] | {"image": {"h": 3}}}, r"here: spec\.image: unknown keys \['h'\]"),
    ):
        with pytest.raises(ValueError, match=words):
            run_from_plain(plain | change, "here")
    for path, words in (
        (("seed",), r"here: unknown keys \[\], missing keys \['seed'\]"),
        (("data", "history"), r"here: data: .*missing keys \['history'\]"),
        (("config", "neck_channels"), r"here: config: .*missing keys \['neck_channels'\].*; a run of another version"),
    ):
        with pytest.raises(ValueError, match=words):
            run_from_plain(without(plain, *path), "here")


def without(plain, *path):
    """A copy that lacks one key."""
    if len(path) == 1:
        return {k: v for k, v in plain.items() if k != path[0]}
    return plain | {path[0]: without(plain[path[0]], *path[1:])}


def test_older_runs_mean_what_they_meant(demo):
    """Not what the defaults have become: scaling the map came with a default that scales."""
    plain = run_to_plain(demo)
    assert plain["data"]["augmentation"]["bev_scale"] != [1.0, 1.0] and plain["losses"]["diou"] != 0
    old = without(without(without(plain, "data", "augmentation", "bev_scale"), "losses", "diou"), "distill")
    run = run_from_plain(without(old, "spec", "radar", "format"), "here")
    assert run.data.augmentation.bev_scale == (1.0, 1.0) and run.losses.diou == 0.0
    unscaled = dataclasses.replace(demo.data.augmentation, bev_scale=(1.0, 1.0))
    losses, data = dataclasses.replace(demo.losses, diou=0.0), dataclasses.replace(demo.data, augmentation=unscaled)
    assert run == dataclasses.replace(demo, losses=losses, data=data)


@pytest.mark.parametrize(("kind", "field"), [(kind, field) for kind in ADDED_LATER for field in ADDED_LATER[kind]])
def test_what_was_added_later_fits_its_field(kind, field):
    value = ADDED_LATER[kind][field]
    assert from_plain(typing.get_type_hints(kind)[field], to_plain(value), field) == value


def test_changes_by_dotted_names(demo):
    changes = changes_of(
        ["optim.steps=100", "data.augmentation.image_flip=0", "optim.lr=1e-3", "config.bins.count=24", "seed=7",
         "data.interval=none", "data.augmentation.image_scale=(1,1.1)", "spec.grid.step=1.6", "precision=32-true",
         "data.cbgs=true"]
    )  # fmt: skip
    run = override(demo, changes)
    assert (run.optim.steps, run.optim.lr, run.seed, run.precision) == (100, 1e-3, 7, "32-true")
    assert run.data.augmentation.image_flip == 0.0 and isinstance(run.data.augmentation.image_flip, float)
    assert run.data.augmentation.image_scale == (1.0, 1.1) and run.data.interval is None and run.data.cbgs is True
    assert run.config.bins.count == 24 and run.spec.grid.step == 1.6
    assert demo.optim.steps != 100, "the experiment itself stays"
    assert override(demo, {}) == demo


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ("optim.step=3", r"optim\.step: there is no `step`; there are \['lr'"),
        ("optimiser.lr=3", r"optimiser: there is no `optimiser`"),
        ("optim.lr=fast", r"optim\.lr must be float, found 'fast'"),
        ("optim.steps=1.5", r"optim\.steps must be int, found 1\.5"),
        ("batch_size=True", r"batch_size must be int, found True"),
        ("data.lidar.sweeps=3", r"data\.lidar\.sweeps: data\.lidar is None, which has no parts"),
        ("optim.lr.max=1", r"optim\.lr\.max: optim\.lr is 0\.0012, which has no parts"),
        ("data.augmentation.image_scale=(1,2,3)", "image_scale must have 2 entries"),
        ("config={}", r"config is changed by its parts, such as config\.backbone_blocks="),
        ("optim.schedule=one_cycle", "warmup_steps=0"),
    ],
)
def test_changes_that_cannot_be_are_clear_errors(demo, change, words):
    with pytest.raises(ValueError, match=words):
        override(demo, changes_of([change]))


def test_changes_that_belong_together_are_made_together(demo):
    run = override(demo, changes_of(["optim.schedule=one_cycle", "optim.warmup_steps=0"]))
    assert run.optim.schedule == "one_cycle"
    with pytest.raises(ValueError, match=r"data\.history: `data` is set as a whole too"):
        override(demo, {"data": "1", "data.history": "2"})
    with pytest.raises(ValueError, match="expected NAME=VALUE"):
        changes_of(["optim.steps"])


def test_differences_are_named_leaf_by_leaf():
    assert differences({"a": {"b": 1, "c": [2]}, "d": 3}, {"a": {"b": 1, "c": [4]}, "e": 5}) == [
        "a.c: [2] -> [4]", "d: 3 -> None", "e: None -> 5",
    ]  # fmt: skip


def test_the_command_prints_its_configuration_and_refuses_unknown_names(capsys):
    assert main(["training.experiments.demo:tiny", "--print-config", "--set", "optim.steps=9"]) == 0
    plain = json.loads(capsys.readouterr().out)
    assert plain["optim"]["steps"] == 9 and plain["spec"]["name"] == "demo_camera_radar"
    for arguments, words in (
        (["training.experiments.demo:tiny", "--set", "optim.stepz=9"], "there is no `stepz`"),
        (
            ["training.experiments.demo:huge"],
            "no such experiment; training.experiments.demo has ['full', 'finetune', 'tiny']",
        ),
        (["training.experiments.nothing:full"], "no module"),
        (["training.experiments.demo:demo_spec"], "not a Run"),
        (["training.experiments.demo:tiny"], "--data and --out are needed"),
    ):
        with pytest.raises(SystemExit):
            main(arguments)
        assert words in capsys.readouterr().err
