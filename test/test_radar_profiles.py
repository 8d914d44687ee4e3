"""The radar profile `listed`, files that change it, and that the default is what it was."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from training.world import __main__ as command
from training.world import compare_radar, nuscenes_writer
from training.world.compare_radar import main
from training.world.generate import Rates, Scan, take
from training.world.listed_radar import scan_listed
from training.world.nuscenes_writer import DatasetSettings
from training.world.radar import DTYPE, MAX_RETURNS, scan_radar
from training.world.radar_profiles import CLEAR, LISTED, RADARS, radar_named
from training.world.radar_scans import recorded, simulated
from training.world.radar_statistics import over_ground, polar
from training.world.radar_summary import summarise
from training.world.rig import NS, RIG, scan_rng
from training.world.statistic import Statistic, beside, difference, read
from training.world.world import Conditions, World, make_world

DATA = Path(__file__).parents[1] / "docs" / "data"
RECORDINGS = Path(__file__).parents[2] / "shared" / "data" / "nuscenes"
CHANNELS = [name for name, mount in RIG.items() if mount.kind == "radar"]
# Returns, and sums of x, y, vx_comp and rcs over them, of the world with seed 903, six seconds in.
DEFAULT = {
    "RADAR_FRONT": (60, 1198.719, 171.580, 26.582, 551.500),
    "RADAR_FRONT_LEFT": (57, 1298.000, 151.093, -23.791, 481.500),
    "RADAR_FRONT_RIGHT": (47, 1192.111, -320.708, 18.220, 291.500),
    "RADAR_BACK_LEFT": (40, 759.939, -172.178, -70.920, 389.000),
    "RADAR_BACK_RIGHT": (42, 701.407, -28.767, -47.168, 539.500),
}


@pytest.fixture(scope="module")
def world() -> World:
    return make_world(903, 10.0)


@pytest.fixture(scope="module")
def scans(world: World) -> list[tuple[str, int, np.ndarray]]:
    stamps = [(name, k * NS + RIG[name].phase_ns) for name in CHANNELS for k in (2, 5, 8)]
    return [
        (name, at, scan_listed(LISTED, world, RIG[name], at, scan_rng(world.seed, name, at))) for name, at in stamps
    ]


def test_the_default_radar_is_what_it_was(world: World) -> None:
    """The shipped network and all tables are of it. Bytes of another processor's ray caster may differ in the last bit,
    so what is held is every count and the sums of the fields."""
    for name, (count, *sums) in DEFAULT.items():
        scan = Scan(name, 6 * NS)
        found = take(world, scan, world.seed, 0.1)
        assert isinstance(found, np.ndarray)
        by_hand = scan_radar(world, RIG[name], scan.stamp_ns, scan_rng(world.seed, name, scan.stamp_ns))
        assert found.tobytes() == by_hand.tobytes() == take(world, scan, world.seed, 0.1, radar_named(CLEAR)).tobytes()  # type: ignore[union-attr]
        assert len(found) == count
        assert [float(found[f].astype(float).sum()) for f in ("x", "y", "vx_comp", "rcs")] == pytest.approx(
            sums, abs=0.01
        )


def test_fields_are_as_nuscenes_has_them(world: World, scans: list[tuple[str, int, np.ndarray]]) -> None:
    everything = np.concatenate([scan for _, _, scan in scans])
    assert everything.dtype == DTYPE and np.all(everything["z"] == 0)
    assert np.abs(everything["x"] / 0.2 - np.round(everything["x"] / 0.2)).max() < 1e-3
    assert np.abs(everything["y"] / 0.2 - 0.5 - np.round(everything["y"] / 0.2 - 0.5)).max() < 1e-3
    assert np.all(everything["vx"] % 0.25 == 0) and np.all(everything["vy"] % 0.25 == 0)
    assert everything["rcs"].min() >= LISTED.receiver.floor_dbsm and np.all(everything["rcs"] % 0.5 == 0)
    assert set(np.unique(everything["ambig_state"])) <= {0, 1, 2, 3}
    for name, stamp, scan in scans:
        assert len(scan) <= MAX_RETURNS and scan["id"].tolist() == list(range(len(scan)))
        distance, azimuth = polar(scan)
        # Near scan by distance, then the far one: at most one step back of more than the grid.
        assert np.count_nonzero(np.diff(distance) < -0.5) <= 1
        outside = scan["invalid_state"] == 7
        assert np.all(np.abs(np.rad2deg(azimuth[outside])) > 59)
        # Compensation: the sensor's own speed over ground, as the odometer has it, on top of the relative one.
        vx, vy, yaw_rate = world.ego_twist(stamp)
        sensor = RIG[name].ego_from_sensor
        own = sensor[:2, :2].T @ [vx - yaw_rate * sensor[1, 3], vy + yaw_rate * sensor[0, 3]]
        unit = np.stack([np.cos(azimuth), np.sin(azimuth)], axis=1)
        relative = scan["vx"] * unit[:, 0] + scan["vy"] * unit[:, 1]
        assert over_ground(scan) == pytest.approx(relative + LISTED.receiver.odometer * unit @ own, abs=1e-4)
        still = np.isin(scan["dyn_prop"], (1, 3)) & (scan["invalid_state"] == 0) & (scan["ambig_state"] == 3)
        assert np.sqrt(np.mean(over_ground(scan)[still] ** 2)) < 0.35


def test_same_seed_same_bytes_whatever_was_scanned_before(scans: list[tuple[str, int, np.ndarray]]) -> None:
    name, stamp, scan = scans[-1]
    other = make_world(903, 10.0)
    again = scan_listed(LISTED, other, RIG[name], stamp, scan_rng(903, name, stamp))
    assert again.tobytes() == scan.tobytes()


def test_rain_costs_weak_returns_so_that_the_list_reaches_further(world: World) -> None:
    within = []
    for rain in (0.0, 1.0):
        town = World(903, 10.0, Conditions("day", 0.7, 0.8, rain=rain), world.ego, world.actors, world.town)
        name = "RADAR_FRONT"
        found = [scan_listed(LISTED, town, RIG[name], k * NS, scan_rng(903, name, k * NS)) for k in range(2, 9)]
        within.append(np.mean(polar(np.concatenate(found))[0] < 40))
    assert within[1] < 0.95 * within[0]


def test_a_small_drive_has_the_statistics_of_the_profile() -> None:
    """Held to the committed ones, which are of other drives, with room for the sampling of two short ones."""
    found = {s.key: s for s in summarise(simulated(LISTED, (731, 732), 6.0))}
    committed = {s.key: s for s in read(DATA / "radar_listed.csv")}
    for key, room in {
        ("returns per scan", "all"): 4.0,
        ("returns per scan", "default filter"): 9.0,
        ("returns per scan", "0 to 20 m"): 10.0,
        ("objects without a return", "car, 0 to 20 m"): 0.25,
        ("objects without a return", "car, 20 to 40 m"): 0.25,
        ("objects without a return", "pedestrian, 0 to 20 m"): 0.2,
        ("objects without a return", "pedestrian, 20 to 40 m"): 0.2,
        ("returns per object", "car, 20 to 40 m"): 1.2,
        ("clutter, share of returns", "all"): 0.2,
        ("invalid_state", "not 0"): 0.08,
        ("still returns found again within 1 m", "as it is"): 0.2,
    }.items():
        assert found[key].value == pytest.approx(committed[key].value, abs=room), key
    for key in (("distance", "all"), ("RCS", "all"), ("RCS", "default filter"), ("azimuth to either side", "all")):
        assert difference(committed[key], found[key])[0] < 0.25, key


def test_a_set_keeps_the_numbers_of_its_radar_and_older_sets_go_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = DatasetSettings(3, 0.5, 0.02, Rates(2.0, 2.0, 2.0))
    content = {"format": nuscenes_writer.FORMAT, "settings": json.loads(json.dumps(nuscenes_writer.asdict(settings)))}
    (tmp_path / ".scenes").mkdir()
    stamp = tmp_path / ".scenes" / "scene-0000.json"
    stamp.write_text(json.dumps(content))
    assert nuscenes_writer._finished(tmp_path, 0, settings)
    listed = replace(settings, radar=LISTED)
    with pytest.raises(ValueError, match=r"other settings .*: radar: None -> .*near_m"):
        nuscenes_writer._finished(tmp_path, 0, listed)
    del content["settings"]["radar"]  # of before there were profiles
    stamp.write_text(json.dumps(content))
    assert nuscenes_writer._finished(tmp_path, 0, settings)
    content["settings"] = json.loads(json.dumps(nuscenes_writer.asdict(listed)))
    stamp.write_text(json.dumps(content))
    assert nuscenes_writer._finished(tmp_path, 0, listed)
    with pytest.raises(ValueError, match=r"asked for: radar\.near_m: 100\.0 -> 90\.0; choose"):
        nuscenes_writer._finished(tmp_path, 0, replace(listed, radar=replace(LISTED, near_m=90.0)))
    made: list[DatasetSettings] = []
    monkeypatch.setattr(nuscenes_writer, "write_dataset", lambda out, scenes, settings, *_: made.append(settings) or {})
    (mine := tmp_path / "mine.yaml").write_text("near_m: 90")
    for more in (["--radar-profile", "listed"], ["--radar-profile", str(mine)], []):
        assert command.main(["nuscenes", str(tmp_path), *more]) == 0
    assert [s.radar for s in made] == [LISTED, replace(LISTED, near_m=90.0), None]
    assert command.main(["nuscenes", str(tmp_path), "--radar-profile", "x"]) == 1
    assert "no radar profile 'x'; choose one of ['clear', 'listed'] or a file" in capsys.readouterr().err


def test_a_file_holds_what_differs_from_listed(world: World, tmp_path: Path) -> None:
    (file := tmp_path / "mine.yaml").write_text(
        "receiver:\n  noise_dbsm: 30\n  pattern: [[0, 0], [60, -10]]\n"
        "bodies:\n  car: {mean: 7.5}\nstates: {staggered: 0}\n"
    )
    found = radar_named(str(file))
    assert found is not None and found.bodies["car"] == replace(LISTED.bodies["car"], mean=7.5)
    assert found.receiver == replace(LISTED.receiver, noise_dbsm=30.0, pattern=((0.0, 0.0), (60.0, -10.0)))
    assert found.states == replace(LISTED.states, staggered=0.0)
    same = replace(found, bodies=LISTED.bodies, receiver=LISTED.receiver, states=LISTED.states)
    assert same == LISTED
    name, stamp = "RADAR_FRONT", 5 * NS
    counts = [len(scan_listed(radar, world, RIG[name], stamp, scan_rng(903, name, stamp))) for radar in (found, LISTED)]
    assert counts[0] < counts[1] / 2  # 36 dB more noise


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("receiver: {noise: 1}", r"mine\.yaml: receiver: unknown keys \['noise'\].*'noise_dbsm'"),
        ("noise_dbsm: 1", r"mine\.yaml: unknown keys \['noise_dbsm'\].*'receiver'"),
        (
            "bodies: {lorry: {along: 1, across: 1, mean: 1, of_object: 1, of_centre: 1, micro: 1}}",
            "must be those of.*lorry",
        ),
        ("bodies: {car: {mean: big}}", r"bodies\.car\.mean must be float, found 'big'"),
        ("receiver: {sigma: [1, 2]}", "sigma must have 5 entries"),
        ("near_m: .nan", r"mine\.yaml: every number must be finite"),
        ("- 1", r"mine\.yaml: must be an object with \['bodies'"),
    ],
)
def test_what_listed_does_not_have_is_refused(text: str, error: str, tmp_path: Path) -> None:
    (file := tmp_path / "mine.yaml").write_text(text)
    with pytest.raises(ValueError, match=error):
        radar_named(str(file))


def test_other_mounts_are_refused(world: World) -> None:
    with pytest.raises(ValueError, match="not a radar"):
        scan_listed(LISTED, world, RIG["LIDAR_TOP"], 0, scan_rng(0, "LIDAR_TOP", 0))


def statistic(kind: str, value: float, error: float, quantiles: tuple[float, ...] = ()) -> Statistic:
    return Statistic("n", "g", kind, "", value, error, 100, 20, quantiles)


def test_differences_are_held_against_chance_and_a_fifth() -> None:
    real = statistic("share", 0.5, 0.02)
    assert difference(real, statistic("share", 0.59, 0.0)) == pytest.approx((0.09, 0.04, True))  # a fifth is 0.1
    assert not difference(real, statistic("share", 0.61, 0.0))[2]
    assert difference(real, statistic("share", 0.61, 0.06))[2]  # two errors of 0.063 together
    steps = tuple(np.linspace(0, 1, 21))
    other = tuple(np.linspace(0.3, 1.3, 21))
    distance, _, near = difference(
        statistic("distribution", 0.5, 0.01, steps), statistic("distribution", 0, 0.01, other)
    )
    assert distance == pytest.approx(0.3) and not near
    lines = beside({"real": [real], "a": [statistic("share", 0.61, 0.0)], "b": []})
    assert "!" in lines[1] and "none" in lines[1]
    assert lines[-2:] == [
        "a: 0 of 1 within 20 % or what chance gives; ! marks the others",
        "b: 0 of 0 within 20 % or what chance gives; ! marks the others",
    ]


def test_a_stored_set_is_compared_like_a_simulated_one(tiny_dataset: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Beside a table that the command wrote, which it takes for the recorded one."""
    assert main(["--real", str(DATA / "radar_clear.csv"), "--synthetic", str(tiny_dataset)]) == 0
    out = capsys.readouterr().out
    assert "returns per scan" in out and "synthetic:" in out
    assert main(["--real", "/nowhere"]) == 1 and "are missing" in capsys.readouterr().err


def test_without_recordings_a_radar_stands_alone_in_tables_and_picture(
    tiny_dataset: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("matplotlib", reason="the picture is drawn by matplotlib, which comes with nuscenes-devkit")
    assert main(["--synthetic", str(tiny_dataset), "--out", str(tmp_path / "out")]) == 0
    assert "recorded" not in capsys.readouterr().out
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["radar.png", "radar_synthetic.csv"]
    assert read(tmp_path / "out" / "radar_synthetic.csv")
    assert (tmp_path / "out" / "radar.png").read_bytes().startswith(b"\x89PNG")


def test_a_file_stands_beside_the_profiles_by_its_name(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (file := tmp_path / "mine.yaml").write_text("near_m: 90")
    asked: list[object] = []
    monkeypatch.setattr(compare_radar, "simulated", lambda radar, *_: asked.append(radar) or [])
    monkeypatch.setattr(compare_radar, "summarise", lambda scans: [])
    assert main(["--profile", "clear", str(file)]) == 0
    assert asked == [None, replace(LISTED, near_m=90.0)] and "mine: 0 of 0" in capsys.readouterr().out
    (other := tmp_path / "listed.yaml").write_text("near_m: 90")
    assert main(["--profile", "listed", str(other)]) == 1 and "must differ" in capsys.readouterr().err


@pytest.mark.skipif(not RECORDINGS.is_dir(), reason=f"no real recordings in {RECORDINGS}")
def test_recordings_give_statistics_that_simulated_radars_have_too() -> None:
    real = {s.key for s in summarise(recorded(RECORDINGS))}
    for name in RADARS:
        assert real <= {s.key for s in read(DATA / f"radar_{name}.csv")}
