"""The worlds by name: the town is what it was, the city another, and folders and commands tell which is which."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("trimesh", reason="the synthetic world needs trimesh and embreex")

from training.world.__main__ import _world, main
from training.world.bag_writer import BagSettings
from training.world.kept_bag import drive_stamp, sources
from training.world.radar_profiles import LISTED
from training.world.rig import NS, NUSCENES
from training.world.styles import CITY, STYLES, TOWN, style_named
from training.world.world import World, make_world

# Of the town as it was when its shipped student was trained: hashes of all boxes and velocities to a micrometre.
TOWN_BOXES = {3: "75a7c4781bd220b4", 903: "bf91ace1eb8c5a6f"}


def boxes_hash(world: World) -> str:
    digest = hashlib.sha1()
    for stamp in (0, 2 * NS, 5 * NS):
        states = world.actor_states(stamp)
        rows = np.array([[*s.center, *s.size_lwh, np.cos(s.yaw), np.sin(s.yaw), *s.velocity] for s in states])
        digest.update(np.round(rows * 1e6).astype(np.int64).tobytes())
        digest.update(" ".join(s.name for s in states).encode())
    return digest.hexdigest()[:16]


@pytest.mark.parametrize("seed", TOWN_BOXES)
def test_the_town_has_the_boxes_it_had(seed: int) -> None:
    assert boxes_hash(make_world(seed, 6.0)) == TOWN_BOXES[seed]
    assert boxes_hash(make_world(seed, 6.0, style=CITY)) != TOWN_BOXES[seed]


def test_worlds_have_names_and_a_rolling_shutter_when_asked_for() -> None:
    assert {name: style.name for name, style in STYLES.items()} == {"town": "town", "city": "city"}
    assert style_named("town") == TOWN
    assert style_named("city", 0.03).rolling_s == 0.03
    with pytest.raises(ValueError, match="no world 'village'; choose one of"):
        style_named("village")
    for wrong in (-0.01, 0.5, float("nan")):
        with pytest.raises(ValueError, match="rolling shutter"):
            style_named("city", wrong)


def test_a_city_has_the_listed_radar_unless_another_is_named() -> None:
    class Arguments:
        world, rolling_shutter, radar_profile, mounts = "city", 0.0, None, "nuscenes"

    assert _world(Arguments) == (LISTED, CITY, NUSCENES)  # type: ignore[arg-type]
    Arguments.radar_profile = "clear"  # type: ignore[assignment]
    assert _world(Arguments) == (None, CITY, NUSCENES)  # type: ignore[arg-type]
    Arguments.world, Arguments.radar_profile = "town", None
    assert _world(Arguments) == (None, TOWN, NUSCENES)  # type: ignore[arg-type]


def test_a_data_set_is_of_one_world(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    common = ["--scenes", "1", "--duration", "1", "--scale", "0.05", "--workers", "1", "--radar-profile", "clear"]
    assert main(["nuscenes", str(tmp_path / "set"), *common, "--world", "city"]) == 0
    settings = json.loads(next((tmp_path / "set" / ".scenes").glob("*.json")).read_text())["settings"]
    assert settings["style"]["name"] == "city"
    capsys.readouterr()
    assert main(["nuscenes", str(tmp_path / "set"), *common]) == 1
    assert "style" in capsys.readouterr().err
    assert main(["nuscenes", str(tmp_path / "set"), *common, "--world", "city", "--rolling-shutter", "0.03"]) == 1
    assert "rolling_s" in capsys.readouterr().err
    assert main(["bag", str(tmp_path / "bag"), "--world", "village"]) == 1
    assert "no world 'village'" in capsys.readouterr().err


def test_a_kept_drive_of_another_world_is_made_anew() -> None:
    assert drive_stamp(BagSettings(style=CITY)) != drive_stamp(BagSettings())
    assert {"world.py", "bodies.py"} <= {path.name for path in sources()}, "the city's code draws, too"
