"""Paper-size recipes beside the authors' settings: every row is equal or says why not; none is left out."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch", reason="needs torch")
pytest.importorskip("lightning", reason="needs lightning")
pytest.importorskip("nuscenes", reason="needs nuscenes-devkit")

from training.compare_recipes import SETTINGS, Row, compare, main, rows_of
from training.experiments import bevdet, bevformer, centerpoint, family, load_run
from training.recipes.published import PUBLISHED, Published

ALL = {
    "lr", "momentum", "beta2", "weight decay", "decay of norms and biases", "schedule", "epochs", "gradient clip",
    "warm-up steps", "batch", "class balance", "BEV flips", "BEV rotation", "BEV scale", "BEV shift", "boxes kept",
    "velocity weight", "score threshold", "suppression", "averaged weights",
}  # fmt: skip
CAMERA = {
    "image scale", "image rotation", "image flip", "colours", "GridMask", "test image scale", "backbone starts from",
    "frozen stages", "norms fixed", "earlier frames",
}  # fmt: skip


PAGE = Path(__file__).resolve().parent.parent / "docs" / "training.md"


def test_every_published_value_is_ours_or_the_row_says_why_not() -> None:
    rows = compare()
    equal = sum(row.equal for row in rows)
    assert f"of {len(rows)} settings of {len(PUBLISHED)} recipes {equal} are equal" in PAGE.read_text()
    assert [(row.recipe, row.setting, row.ours, row.published, row.fault) for row in rows if row.fault] == []
    assert equal > 0.85 * len(rows)


def test_every_paper_size_recipe_is_compared_in_every_setting() -> None:
    compared = {name: load_run(f"training.experiments.{name}") for name in PUBLISHED}
    assert {run.spec.name for run in family.paper().values()} <= {run.spec.name for run in compared.values()}
    for name, run in compared.items():
        wanted = ALL | (CAMERA if run.spec.cameras else {"objects pasted"})
        if run.model == "lidar_transformer":
            wanted = wanted - {"velocity weight"}  # a query head has its own losses
        assert wanted - set(PUBLISHED[name].values) == set(), name


@pytest.mark.parametrize(
    ("make", "part", "change", "setting"),
    [
        (bevdet.r50, "optim", {"lr": 1e-3}, "lr"),
        (bevdet.r50, "optim", {"decay_norms": False}, "decay of norms and biases"),
        (bevdet.r50, "optim", {"beta2": 0.99}, "beta2"),
        (bevdet.r50, "optim", {"clip_norm": 5.0}, "gradient clip"),
        (bevdet.r50, "optim", {"warmup_start": 0.0}, "warm-up from"),
        (bevdet.r50, "optim", {"milestones": (0.5, 22 / 24)}, "falls after epochs"),
        (bevdet.r50, "losses", {"velocity": 1.0}, "velocity weight"),
        (bevdet.r50, "augmentation", {"image_scale": (0.94, 1.11)}, "image scale"),
        (bevdet.r50, "augmentation", {"brightness": 0.1}, "colours"),
        (bevformer.r101, "augmentation", {"grid_mask": 0.0}, "GridMask"),
        (bevformer.r101, "image", {"frozen_stages": -1}, "frozen stages"),
        (bevformer.r101, "image", {"fixed_norms": False}, "norms fixed"),
        (centerpoint.pillar, "augmentation", {"bev_shift_m": 0.5}, "BEV shift"),
        (centerpoint.pillar, "optim", {"schedule": "cosine"}, "momentum"),
    ],
)
def test_rows_are_read_from_the_run(make: Any, part: str, change: dict[str, Any], setting: str) -> None:
    run = make()
    if part == "augmentation":
        data = dataclasses.replace(run.data, augmentation=dataclasses.replace(run.data.augmentation, **change))
        changed = dataclasses.replace(run, data=data)
    elif part == "image":
        config = dataclasses.replace(run.config, image=dataclasses.replace(run.config.image, **change))
        changed = dataclasses.replace(run, config=config)
    else:
        changed = dataclasses.replace(run, **{part: dataclasses.replace(getattr(run, part), **change)})
    name = f"{make.__module__.removeprefix('training.experiments.')}:{make.__name__}"
    before, after = ({row.setting: row for row in rows_of(name, r, PUBLISHED[name])} for r in (run, changed))
    assert before[setting].equal and not after[setting].equal and after[setting].fault


def test_a_row_must_have_a_reason_when_and_only_when_it_differs() -> None:
    assert Row("r", "lr", 1e-3, 1e-3, "").fault == "" and Row("r", "lr", 1e-3, 2e-3, "why").fault == ""
    assert Row("r", "lr", 1e-3, 1e-3, "why").fault == "equal, yet has a reason"
    assert Row("r", "lr", 1e-3, 2e-3, "").fault == "differs without a reason"
    with pytest.raises(ValueError, match=r"reasons for \['lr'\], of which nothing is published"):
        list(rows_of("r", bevdet.r50(), Published("", {}, {"lr": "why"})))


def test_sources_and_settings_are_complete() -> None:
    assert all(" " in published.source and "/" in published.source for published in PUBLISHED.values())
    used = {setting for published in PUBLISHED.values() for setting in published.values}
    assert used == set(SETTINGS)


def test_the_command_shows_what_differs_and_its_status_says_whether_all_have_reasons(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert main(["--only", "bevdet4d", "--differing"]) == 0
    shown = capsys.readouterr().out
    assert "HuangJunJie2017/BEVDet configs/bevdet4d/bevdet4d-r50.py" in shown
    assert "0.4 to 2.25" in shown and "weight decay" not in shown
    monkeypatch.setitem(PUBLISHED, "bevdet:r50", Published("a b", {"lr": 1.0}))
    assert main(["--only", "bevdet:"]) == 1
    assert "DIFFERS WITHOUT A REASON" in capsys.readouterr().out
    with pytest.raises(SystemExit):
        main(["--only", "yolo"])
