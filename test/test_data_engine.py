"""Choosing frames: scores against closed forms, samplers against slow searches, duplicates, limits, what is stored."""

from __future__ import annotations

import dataclasses
import math
import tracemalloc
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

pytest.importorskip("pyarrow", reason="frames are stored with pyarrow")
pytest.importorskip("torch", reason="needs torch")
pytest.importorskip("sklearn", reason="distances are scikit-learn's")

import torch

from bev_perception.evaluation.objects import Objects, make_objects
from bev_perception.uncertainty import CHANNELS, OLDER_CHANNELS, ClassTable, Estimator, UncertaintyTable
from training import select
from training.data import table_rows
from training.data.source import Source
from training.data_engine.choosing import Request, _best_within, _Rows, choose
from training.data_engine.chosen_list import by_drive, list_of, read_list, write_list
from training.data_engine.duplicates import Likeness, distinct
from training.data_engine.exchange import Labels, merged
from training.data_engine.looking import missed
from training.data_engine.oracle import NOISE, Errors, ask_oracle
from training.data_engine.peaks import FLOOR, entropy, mutual_information, peak_values
from training.data_engine.pool import FOUND, REFERENCE, _Moments, survey
from training.data_engine.samplers import SAMPLERS, core_set, kmeans_pp
from training.data_engine.store import Frames, Ragged, Store
from training.data_engine.strategies import AGGREGATES, STRATEGIES, Strategy, frame_scores
from training.data_engine.strategies import entropy as entropy_of
from training.data_engine.study import curves_csv, table
from training.data_engine.views import rows_of, write_view
from training.data_engine.waits import NO_WAITS, WaitingStore, Waits, without_number
from training.tables import chains
from training.tables.chains import chained
from training.tables.files import write_rows
from training.tables.linked import linked_set
from training.tables.vocabulary import CATEGORY_OF

CLASSES = ("car", "pedestrian")


def made_up(drive: str, count: int, seed: int, spread: float = 1.0) -> Frames:
    """Frames of a drive at 5 m/s, with random embeddings, peaks and detections."""
    rng = np.random.default_rng(seed)
    found = [rng.integers(0, 4) for _ in range(count)]
    lists = {
        name: Ragged.of(make(k) for k in found)
        for name, make in {
            "label": lambda k: rng.integers(0, 2, k),
            "score": lambda k: rng.uniform(0.1, 1.0, k),
            "metres": lambda k: rng.uniform(0, 50, k),
            "speed": lambda k: rng.uniform(0, 10, k),
            "entropy": lambda k: rng.uniform(0, 0.69, k + 1),
        }.items()
    }
    return Frames(
        drive,
        {
            "token": [f"{drive}-{i}" for i in range(count)],
            "stamp_ns": np.arange(count, dtype=np.int64) * 500_000_000,
            "place": np.stack([2.5 * np.arange(count), np.zeros(count), np.zeros(count)], axis=1),
            "embedding": (spread * rng.normal(size=(count, 6))).astype(np.float32),
            **lists,
        },
    )


def stored(folder: Path, *drives: Frames) -> tuple[Store, list[str]]:
    store = Store(folder, {"base": "abc"})
    for frames in drives:
        store.write("base", frames)
    return store, [frames.drive for frames in drives]


def test_entropy_is_that_of_a_coin() -> None:
    p = np.array([0.0, 0.25, 0.5, 1.0])
    wanted = [0.0, -0.25 * math.log(0.25) - 0.75 * math.log(0.75), math.log(2), 0.0]
    np.testing.assert_allclose(entropy(p), wanted, atol=1e-5)


def test_members_that_agree_share_no_information_and_opposites_a_whole_bit() -> None:
    assert mutual_information(np.array([[0.3], [0.3]])) == pytest.approx(0.0, abs=1e-12)
    assert mutual_information(np.array([[0.0], [1.0]])) == pytest.approx(math.log(2), abs=1e-5)
    p = np.random.default_rng(0).uniform(size=(6, 50))
    found = mutual_information(p)
    assert (found >= 0).all() and (found <= entropy(p.mean(axis=0)) + 1e-9).all()
    np.testing.assert_allclose(found, mutual_information(p[::-1]))  # whoever comes first


def test_peaks_are_local_maxima_above_the_floor_and_a_cell_off_is_no_disagreement() -> None:
    maps = torch.zeros(2, 1, 1, 9, 9)
    maps[0, 0, 0, 2, 2], maps[1, 0, 0, 2, 3] = 0.9, 0.8  # the same object, a cell off
    maps[0, 0, 0, 7, 7] = 0.5  # which the other does not see
    maps[0, 0, 0, 5, 2] = FLOOR / 2
    (values,) = peak_values(maps)
    np.testing.assert_allclose(values, [[0.9, 0.5], [0.8, 0.0]], atol=1e-6)
    assert peak_values(torch.zeros(1, 1, 1, 4, 4))[0].shape == (1, 0)


def test_aggregates_of_lists() -> None:
    values = Ragged.of([np.array([0.1, 0.5, 0.3, 0.2]), np.array([]), np.array([0.4])])
    wanted = {"max": [0.5, 0, 0.4], "sum": [1.1, 0, 0.4], "mean": [0.275, 0, 0.4], "top3": [1 / 3, 0, 0.4]}
    for name, of in AGGREGATES.items():
        np.testing.assert_allclose(of(values), wanted[name], atol=1e-6, err_msg=name)


def test_what_is_stored_comes_back(tmp_path: Path) -> None:
    frames = made_up("a drive/with a slash", 7, 1)
    store, (drive,) = stored(tmp_path, frames)
    found = store.read(drive)
    assert found.tokens == frames.tokens and store.lacking(drive) == []
    for name, value in frames.columns.items():
        back = found.columns[name]
        if isinstance(value, Ragged):
            np.testing.assert_allclose(found.lists(name).values, value.values)
            np.testing.assert_array_equal(found.lists(name).ends, value.ends)
        elif isinstance(value, np.ndarray):
            np.testing.assert_array_equal(back, value)
    assert set(store.read(drive, ("entropy",)).columns) == {"token", "entropy"}
    other = Store(tmp_path, {"base": "abc", "flips": "def"})
    assert other.lacking(drive) == ["flips"]
    other.write("flips", Frames(drive, {"token": frames.tokens[::-1], "flips": frames.lists("entropy")}))
    with pytest.raises(ValueError, match="of other frames than the views beside it"):
        other.read(drive)
    store.path("base", drive).write_bytes(b"PAR1")
    with pytest.raises(ValueError, match="no Parquet file"):
        store.read(drive)


def test_moments_of_parts_are_those_of_the_whole() -> None:
    rows = np.random.default_rng(3).normal(3.0, 2.0, (100, 4))
    moments = _Moments()
    for part in np.split(rows, [0, 1, 40, 99]):
        moments.add(part)
    np.testing.assert_allclose(moments.mean, rows.mean(axis=0))
    np.testing.assert_allclose(moments.deviation, rows.std(axis=0))


def test_a_car_that_waits_gives_one_frame_and_keeps_the_most_telling() -> None:
    rng = np.random.default_rng(0)
    places, units = np.zeros((10, 3)), np.repeat(rng.normal(size=(1, 8)), 10, axis=0)
    units += 0.05 * rng.normal(size=units.shape)
    scores = rng.uniform(size=10)
    nobody = np.zeros(10, dtype=bool)
    assert np.flatnonzero(distinct(places, units, scores, Likeness(), nobody)).tolist() == [int(scores.argmax())]
    known = nobody.copy()
    known[3] = True  # labelled already: the others tell nothing new
    assert np.flatnonzero(distinct(places, units, scores, Likeness(), known)).tolist() == [3]
    moving = places + np.arange(10)[:, None] * [2.0, 0, 0]
    assert distinct(moving, units, scores, Likeness(), nobody).all()
    turning = places + np.arange(10)[:, None] * [0, 0, 0.2]
    assert distinct(turning, units, scores, Likeness(), nobody).all()
    past = places + np.array([0, 0, 2 * np.pi])  # a whole turn is none
    assert distinct(np.concatenate([places[:1], past[:1]]), units[:2], scores[:2], Likeness(), nobody[:2]).sum() == 1
    changed = units + np.arange(10)[:, None]  # other cars come by
    assert distinct(places, changed, scores, Likeness(), nobody).all()


def test_core_set_covers_as_a_slow_search_does() -> None:
    rng = np.random.default_rng(5)
    points, scores = rng.normal(size=(40, 3)), rng.uniform(0.5, 1.0, 40)
    taken, free, found = rng.normal(size=(2, 3)), np.ones(40, dtype=bool), []
    for row in core_set(scores, points, taken, rng, free):
        found.append(row)
        free[row] = False
        if len(found) == 8:
            break
    centres, slow = [*taken], []
    for _ in range(8):
        worth = [
            -1.0 if i in slow else scores[i] * min(np.linalg.norm(points[i] - c) for c in centres) for i in range(40)
        ]
        slow.append(int(np.argmax(worth)))
        centres.append(points[slow[-1]])
    assert found == slow


def test_kmeans_pp_draws_by_score_and_squared_distance() -> None:
    points, scores = np.array([[0.0], [0.0], [1.0], [2.0]]), np.array([1.0, 1.0, 2.0, 1.0])
    drawn = np.zeros(4)
    rng = np.random.default_rng(1)
    for _ in range(3000):
        drawn[next(kmeans_pp(scores, points, np.zeros((1, 1)), rng, np.ones(4, dtype=bool)))] += 1
    np.testing.assert_allclose(drawn / 3000, [0, 0, 2 / 6, 4 / 6], atol=0.03)


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_samplers_give_each_free_row_once(sampler: str) -> None:
    rng, free, found = np.random.default_rng(2), np.ones(12, dtype=bool), []
    free[4] = False
    for row in SAMPLERS[sampler](rng.uniform(size=12), rng.normal(size=(12, 2)), np.zeros((0, 2)), rng, free):
        found.append(row)
        free[row] = False
    assert sorted(found) == [i for i in range(12) if i != 4]


def estimator_of(channels: Sequence[str]) -> Estimator:
    """Of deviations that grow with the distance."""
    of_class = ClassTable(((0.9,), (0.5,)), {channel: ((0.1,), (1.0 + k,)) for k, channel in enumerate(channels)})
    intervals = dict.fromkeys(channels, (0.67, 1.64, 1.96))
    return Estimator(UncertaintyTable("", (0.0, 50.0), (0.5,), dict.fromkeys(CLASSES, of_class), intervals, 1), CLASSES)


@pytest.mark.parametrize("by", [name for name, s in STRATEGIES.items() if not s.views])
def test_every_strategy_chooses_its_budget(by: str, tmp_path: Path) -> None:
    store, drives = stored(tmp_path, *(made_up(f"d{k}", 20, k) for k in range(4)))
    pool = survey(store, drives, 2, {}, estimator_of(CHANNELS))
    chosen = choose(store, drives, CLASSES, pool, Request(by, 10), {})
    tokens = [frame.token for frame in chosen.frames]
    assert len(set(tokens)) == 10 and chosen.frames_of_pool == 80
    again = choose(store, drives, CLASSES, pool, Request(by, 10), {})
    assert again == chosen
    labelled = by_drive([list_of(tmp_path, "v", Request(by, 10), chosen)])
    pool = survey(store, drives, 2, labelled, estimator_of(CHANNELS))
    more = choose(store, drives, CLASSES, pool, Request(by, 0.5, share=True), labelled)
    assert len(more.frames) == 35 and not {frame.token for frame in more.frames} & set(tokens)
    assert more.labelled == 10


@pytest.mark.parametrize("channels", [CHANNELS, OLDER_CHANNELS], ids=["nine", "six"])
def test_variance_looks_where_deviations_are_large(channels: tuple[str, ...], tmp_path: Path) -> None:
    frames = made_up("d", 30, 1)
    store, drives = stored(tmp_path, frames)
    estimator = estimator_of(channels)
    pool = survey(store, drives, 2, {}, estimator)
    scores, metres = frames.lists("score").values, frames.lists("metres").values
    strong = scores >= FOUND
    logs = np.log(np.stack([0.1 + (0.9 + k) * metres / 50.0 for k in range(len(channels))], axis=1))
    z = ((logs - logs[strong].mean(axis=0)) / logs[strong].std(axis=0)).max(axis=1)
    found = STRATEGIES["variance"].score(frames, pool, 0)
    np.testing.assert_allclose(found.values, np.where(strong, np.exp(z), 0.0), rtol=1e-5)


def test_a_table_that_counts_on_the_network_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    own = SimpleNamespace(classes=CLASSES, name="n")
    monkeypatch.setattr(select, "load_bundle", lambda path: SimpleNamespace(spec=own))
    monkeypatch.setattr(select, "read_uncertainty", lambda bundle: SimpleNamespace(head={"along": 0.5}))
    with pytest.raises(ValueError, match="says of along, which is not stored"):
        select.estimator_in(Path("bundle"), own)  # type: ignore[arg-type]


def test_top_takes_the_highest_scores(tmp_path: Path) -> None:
    parts = [made_up(f"d{k}", 20, k) for k in range(3)]
    store, drives = stored(tmp_path, *parts)
    pool = survey(store, drives, 2, {})
    request = Request("entropy", 7, aggregate="sum", like=None)
    scores = {t: s for f in parts for t, s in zip(f.tokens, frame_scores(request.strategy, f, pool, "sum"))}
    best = sorted(scores, key=lambda token: -scores[token])[:7]
    assert [frame.token for frame in choose(store, drives, CLASSES, pool, request, {}).frames] == best


def test_limits_of_drives_and_quotas_of_classes(tmp_path: Path) -> None:
    store, drives = stored(tmp_path, *(made_up(f"d{k}", 20, k) for k in range(4)))
    pool = survey(store, drives, 2, {})
    chosen = choose(store, drives, CLASSES, pool, Request("entropy", 12, per_drive=3, like=None), {})
    assert {d: sum(f.drive == d for f in chosen.frames) for d in drives} == dict.fromkeys(drives, 3)
    few = choose(store, drives, CLASSES, pool, Request("entropy", 50, per_drive=3, like=None), {})
    assert len(few.frames) == 12, "limits hold, even where the budget is not used up"
    quota = choose(store, drives, CLASSES, pool, Request("random", 20, quotas={"pedestrian": 0.9}), {})
    showing = 0
    for frame in quota.frames:
        frames = store.read(frame.drive)
        row = frames.tokens.index(frame.token)
        strong = frames.lists("score")[row] >= 0.3
        showing += bool((frames.lists("label")[row][strong] == 1).any())
    assert showing >= 18
    with pytest.raises(ValueError, match="--quota tram: the model has car, pedestrian"):
        choose(store, drives, CLASSES, pool, Request("random", 2, quotas={"tram": 0.5}), {})


def one_loud_drive(folder: Path, by_class: bool = False) -> tuple[Store, list[str]]:
    """The first of four drives has all of the highest entropies; by_class: and no pedestrian, who are in the others."""
    parts = []
    for number in range(4):
        frames = made_up(f"d{number}", 90, number)
        peaks, label = frames.lists("entropy"), frames.lists("label")
        columns = {"entropy": Ragged(peaks.values * (0.1 if number else 1.0) + (0 if number else 0.3), peaks.ends)}
        if by_class:
            columns["label"] = Ragged(np.full_like(label.values, float(number > 0)), label.ends)
        parts.append(Frames(frames.drive, {**frames.columns, **columns}))
    return stored(folder, *parts)


@pytest.fixture
def shortlisted(monkeypatch: pytest.MonkeyPatch) -> None:
    """As al_ssl, by what is stored here."""
    monkeypatch.setitem(STRATEGIES, "shortlisted", Strategy(entropy_of, shortlist="entropy"))


@pytest.mark.usefixtures("shortlisted")
@pytest.mark.parametrize("by", ["entropy", "entropy_core_set", "entropy_kmeans++", "shortlisted"])
def test_limits_of_drives_leave_no_budget_over(by: str, tmp_path: Path) -> None:
    store, drives = one_loud_drive(tmp_path)
    chosen = choose(store, drives, CLASSES, survey(store, drives, 2, {}), Request(by, 4, per_drive=1, like=None), {})
    assert sorted(frame.drive for frame in chosen.frames) == drives


@pytest.mark.usefixtures("shortlisted")
@pytest.mark.parametrize("by", ["entropy", "entropy_core_set", "shortlisted"])
def test_quotas_are_filled_where_the_best_show_none_of_the_class(by: str, tmp_path: Path) -> None:
    store, drives = one_loud_drive(tmp_path, by_class=True)
    chosen = choose(store, drives, CLASSES, survey(store, drives, 2, {}),
                    Request(by, 4, quotas={"pedestrian": 0.5}, like=None), {})  # fmt: skip
    assert len(chosen.frames) == 4 and sum(frame.drive != "d0" for frame in chosen.frames) == 2


def test_a_cut_holds_all_that_limits_may_ask_for() -> None:
    """As much can be taken of each class within the limits as without the cut, at random pools."""
    rng = np.random.default_rng(0)
    for _ in range(200):
        count, budget, per_drive, times = 60, *(int(rng.integers(*ends)) for ends in ((1, 8), (0, 3), (1, 4)))
        drive, classes = (rng.integers(0, most, count).astype(np.int32) for most in (6, 4))
        score = rng.uniform(size=count).astype(np.float32)
        rows = _Rows(drive, np.arange(count, dtype=np.int32), score, score, classes)
        kept = _best_within(rows, np.argsort(-score), times, budget, per_drive, [2])
        assert len(set(kept)) == len(kept) <= 2 * times * budget
        for showing in (np.ones(count, dtype=bool), classes & 2 != 0):
            asked = np.arange(count)[showing]
            takeable = [
                sum(min(int((drive[of] == d).sum()), per_drive or count) for d in range(6))
                for of in (asked, np.intersect1d(asked, kept))
            ]
            assert min(takeable[0], budget) == min(takeable[1], budget)


def test_whole_drives_by_the_mean_of_their_frames(tmp_path: Path) -> None:
    parts = [made_up(f"d{k}", 10 + k, k) for k in range(4)]
    store, drives = stored(tmp_path, *parts)
    pool = survey(store, drives, 2, {})
    chosen = choose(store, drives, CLASSES, pool, Request("entropy_sum", 0.5, scenes=True, share=True), {})
    means = {f.drive: float(f.lists("entropy").values.sum() / len(f)) for f in parts}
    best = sorted(means, key=lambda drive: -means[drive])[:2]
    assert {frame.drive for frame in chosen.frames} == set(best)
    assert len(chosen.frames) == sum(len(f) for f in parts if f.drive in best)
    assert dict(chosen.drives) == pytest.approx(means, rel=1e-5)


def slow_novelty(own: Frames, others: list[np.ndarray], whole: list[Frames]) -> list[float]:
    """Mean distance to the five nearest, frame by frame, in units of the pool's deviations."""
    deviation = np.concatenate([f.array("embedding") for f in whole]).std(axis=0)
    found = []
    for row in own.array("embedding"):
        apart = sorted(float(np.linalg.norm((row - other) / deviation)) for other in others)[:5]
        found.append(sum(apart) / len(apart))
    return found


def test_novelty_is_the_distance_to_what_is_labelled(tmp_path: Path) -> None:
    parts = [made_up(f"d{k}", 12, k, spread) for k, spread in enumerate((0.5, 1.0, 3.0))]
    store, drives = stored(tmp_path, *parts)
    rows = {"d0": (0, 3, 4), "d1": (1, 2, 7, 9)}
    pool = survey(store, drives, 2, {drive: {f"{drive}-{i}" for i in of} for drive, of in rows.items()})
    labelled = [f.array("embedding")[i] for f in parts for i in rows.get(f.drive, ())]
    for frames in parts:
        found = frame_scores(STRATEGIES["novelty"], frames, pool)
        np.testing.assert_allclose(found, slow_novelty(frames, labelled, parts), rtol=1e-4)
        assert np.ptp(found) > 0.1, "frames differ"


def test_where_nothing_is_labelled_novelty_is_the_distance_to_the_other_drives(tmp_path: Path) -> None:
    parts = [made_up(f"d{k}", 12, k, spread) for k, spread in enumerate((0.5, 1.0, 3.0))]
    store, drives = stored(tmp_path, *parts)
    pool = survey(store, drives, 2, {})
    for frames in parts:
        others = [row for f in parts if f is not frames for row in f.array("embedding")]
        found = frame_scores(STRATEGIES["novelty"], frames, pool)
        np.testing.assert_allclose(found, slow_novelty(frames, others, parts), rtol=1e-4)
    alone = survey(store, ["d0"], 2, {})
    assert (frame_scores(STRATEGIES["novelty"], parts[0], alone) == 0).all(), "one's own drive is no measure"


def test_rare_is_what_the_pool_hardly_shows(tmp_path: Path) -> None:
    frames = made_up("d", 50, 3)
    labels = np.zeros_like(frames.lists("label").values)
    labels[0] = 1.0
    columns = {**frames.columns, "label": Ragged(labels, frames.lists("label").ends),
               "score": Ragged(np.ones_like(labels), frames.lists("score").ends)}  # fmt: skip
    frames = Frames("d", columns)
    store, drives = stored(tmp_path, frames)
    scores = frame_scores(STRATEGIES["rarity"], frames, survey(store, drives, 2, {}), "max")
    assert scores.argmax() == frames.lists("label").rows[0]


def test_the_reference_of_a_large_pool_is_bounded(tmp_path: Path) -> None:
    store, drives = stored(tmp_path, *(made_up(f"d{k}", 3000, k) for k in range(4)))
    pool = survey(store, drives, 2, {})
    assert len(pool.reference) == REFERENCE and pool.count == 12000
    shares = [float((pool.of_drive == drive).mean()) for drive in drives]
    assert max(shares) - min(shares) < 0.1


def test_the_list_comes_back_and_others_are_refused(tmp_path: Path) -> None:
    store, drives = stored(tmp_path / "s", made_up("d", 9, 1))
    request = Request("random", 4, quotas={"car": 0.25})
    chosen = list_of(tmp_path, "v", request, choose(store, drives, CLASSES, survey(store, drives, 2, {}), request, {}))
    write_list(tmp_path / "l.json", chosen)
    assert read_list(tmp_path / "l.json") == chosen
    (tmp_path / "l.json").write_text("{}")
    with pytest.raises(ValueError, match="no list of training"):
        read_list(tmp_path / "l.json")


@pytest.mark.parametrize(
    ("asked", "told"),
    [
        ({"by": "best"}, "--by best: expected one of random"),
        ({"budget": 1.5}, "--budget 1.5"),
        ({"budget": 0}, "--budget 0"),
        ({"budget": 1.2, "share": True}, "--budget 120"),
        ({"sampler": "x"}, "--sampler x"),
        ({"quotas": {"car": 0.7, "bus": 0.6}}, "quotas are shares"),
        ({"per_drive": -1}, "--per-drive -1"),
        ({"scenes": True, "per_drive": 2}, "--scenes takes whole drives, --per-drive is of single frames"),
        ({"scenes": True, "quotas": {"car": 0.2}}, "--quota is of single frames"),
        ({"scenes": True, "sampler": "core_set"}, "--sampler is of single frames"),
        ({"scenes": True, "by": "entropy_core_set"}, "which --by entropy_core_set has not; take one of random, "),
        ({"scenes": True, "by": "al_ssl"}, "which --by al_ssl has not"),
    ],
)
def test_requests_that_cannot_be(asked: dict, told: str) -> None:
    with pytest.raises(ValueError, match=told):
        Request(**({"by": "random", "budget": 3.0} | asked))


def test_nothing_left_is_said(tmp_path: Path) -> None:
    store, drives = stored(tmp_path, made_up("d", 3, 1))
    every = {"d": {"d-0", "d-1", "d-2"}}
    with pytest.raises(ValueError, match="nothing is left to choose"):
        choose(store, drives, CLASSES, survey(store, drives, 2, every), Request("random", 1), every)
    with pytest.raises(ValueError, match="nothing is left to choose"):
        choose(store, drives, CLASSES, survey(store, drives, 2, every), Request("random", 1, scenes=True), every)


def objects(*rows: tuple[str, float, float, float]) -> Objects:
    boxes = np.array([[x, y, 0.5, 4, 2, 1.5, 0] for _, x, y, _ in rows]).reshape(-1, 7)
    names = tuple(name for name, *_ in rows)
    return make_objects(boxes, np.zeros((len(rows), 2)), np.array([s for *_, s in rows]), names)


@pytest.mark.parametrize(
    ("teacher", "student", "count"),
    [
        ([], [], 0),
        ([("car", 0, 0, 0.9)], [], 1),
        ([("car", 0, 0, 0.9)], [("car", 1.2, 1.55, 0.9)], 0),  # 1.96 m apart
        ([("car", 0, 0, 0.9)], [("car", 1.2, 1.7, 0.9)], 1),
        ([("car", 0, 0, 0.9)], [("truck", 0, 0, 0.9)], 1),
        ([("car", 0, 0, 0.9)], [("car", 0, 0, 0.2)], 1),  # too weak to count as found
        ([("car", 0, 0, 0.2)], [], 0),  # the teacher is not sure
        ([("car", 0, 0, 0.9), ("car", 1, 0, 0.8)], [("car", 0.5, 0, 0.9)], 1),  # one object is found once
        ([], [("car", 0, 0, 0.9)], 0),  # what only the student finds is another question
    ],
)
def test_what_the_student_misses(teacher: list, student: list, count: int) -> None:
    assert missed(objects(*teacher), objects(*student)) == count


def test_waits_repeat_some_frames(tmp_path: Path) -> None:
    frames = made_up("d", 40, 1)
    store, _ = stored(tmp_path, frames)
    waits = Waits.of("4x5")
    read = WaitingStore(store.folder, store.views, waits).read("d")
    waiting = {t for t in frames.tokens if len(waits.tokens(t)) == 5}
    assert 2 < len(waiting) < 20 and len(read) == 40 + 4 * len(waiting) == len(set(read.tokens))
    for row, token in enumerate(read.tokens):
        own = frames.tokens.index(without_number(token))
        np.testing.assert_array_equal(read.array("embedding")[row], frames.array("embedding")[own])
    assert [NO_WAITS.tokens("a"), Waits.of("")] == [["a"], NO_WAITS]
    with pytest.raises(ValueError, match="EVERYxLENGTH"):
        Waits.of("4x")
    plain = choose(WaitingStore(store.folder, store.views, waits), ["d"], CLASSES,
                   survey(store, ["d"], 2, {}), Request("entropy", 40), {})  # fmt: skip
    assert len({without_number(frame.token) for frame in plain.frames}) == len(plain.frames), "one of each wait"


def test_errors_of_the_oracle_are_of_the_stated_size() -> None:
    row = {"translation": [1.0, 2.0, 3.0], "size": [2.0, 4.0, 1.5]}
    rng = np.random.default_rng(0)
    assert np.mean([NOISE["missing"](row, rng, 0.3) is None for _ in range(2000)]) == pytest.approx(0.3, abs=0.04)
    steps = np.array([NOISE["moved"](row, rng, 0.5)["translation"] for _ in range(2000)]) - row["translation"]
    np.testing.assert_allclose(steps.std(axis=0), [0.5, 0.5, 0.0], atol=0.03)
    factors = np.log(np.array([NOISE["sized"](row, rng, 0.1)["size"] for _ in range(2000)]) / row["size"])
    assert factors.std() == pytest.approx(0.1, abs=0.01)
    assert Errors.of(["missing=0.1", "confused=0.2"]).kinds == (("missing", 0.1), ("confused", 0.2))
    for words in (["missing"], ["blurred=1"], ["moved=-1"]):
        with pytest.raises(ValueError, match="--noise"):
            Errors.of(words)


def pool_of(root: Path, samples: int, objects: int, categories: Sequence[str], more: int = 0) -> Source:
    """Tables alone, in which every object is in every sample. more: numbers that each annotation has besides."""
    tables = root / "v"
    (root / "samples").mkdir(parents=True)
    write_rows(tables / "sample.json", (
        {"token": f"s{k}", "timestamp": k + 1, "scene_token": "x", "prev": "", "next": ""} for k in range(samples)
    ))  # fmt: skip
    write_rows(tables / "category.json", ({"token": name, "name": name} for name in categories))
    write_rows(tables / "instance.json", (
        {"token": f"i{k}", "category_token": categories[k % len(categories)], "nbr_annotations": 0,
         "first_annotation_token": "", "last_annotation_token": ""} for k in range(objects)
    ))  # fmt: skip
    write_rows(tables / "sample_annotation.json", (
        {"token": f"a{k}", "sample_token": f"s{k % samples}", "instance_token": f"i{k // samples}", "prev": "",
         "next": "", "translation": [1.0, 2.0, k], "size": [2.0, 4.0, 1.5], "rotation": [1.0, 0.0, 0.0, 0.0],
         "visibility_token": "", "attribute_tokens": [], "num_lidar_pts": 1, "num_radar_pts": 1, "more": [k] * more}
        for k in range(samples * objects)
    ))  # fmt: skip
    return Source(root, "v")


def test_confused_objects_are_taken_for_another_class(tmp_path: Path) -> None:
    categories = sorted({CATEGORY_OF[name] for name in ("car", "pedestrian", "bus", "trailer")})
    pool = pool_of(tmp_path / "pool", 2, 800, categories)
    of = {row["token"]: row["category_token"] for row in rows_of(pool, "instance")}

    def confused(amount: float, seed: int = 0, tokens: Sequence[str] = ("s0",)) -> dict[str, str]:
        tables = ask_oracle(pool, tokens, Errors.of([f"confused={amount}"], seed))
        assert tables is not None
        return {row["token"]: row["category_token"] for row in tables["instance"]}

    half = confused(0.5)
    wrong = [token for token in of if half[token] != of[token]]
    assert len(wrong) / 800 == pytest.approx(0.5, abs=0.06)
    shares = [sum(half[token] == name for token in wrong) / len(wrong) for name in categories]
    assert max(shares) - min(shares) < 0.15, "for any of the others"
    assert confused(0.5) == half != confused(0.5, seed=1), "an object that is asked about again is taken for the same"
    assert all(name != of[token] for token, name in confused(1.0).items())
    few = pool_of(tmp_path / "few", 2, 1, categories)
    tables = ask_oracle(few, ("none of these",), Errors.of(["confused=1"]))
    assert tables is not None and [row["category_token"] for row in tables["instance"]] == [categories[0]]
    with pytest.raises(ValueError, match=r"confused: category\.json names 1 class, two are wanted"):
        ask_oracle(pool_of(tmp_path / "one", 2, 1, categories[:1]), ("s0",), Errors.of(["confused=1"]))


def test_chains_are_made_anew() -> None:
    rows = [{"token": t, "sample_token": s, "instance_token": i, "prev": "x", "next": "x"} for t, s, i in
            ("aci", "bdi", "edu")]  # fmt: skip
    instances = [{"token": "i"}, {"token": "gone"}]
    made = {name: list(of) for name, of in chained(lambda: rows, lambda: instances, {"c": 2, "d": 1}).items()}
    assert [(r["token"], r["prev"], r["next"]) for r in made["sample_annotation"]] == [("a", "b", ""), ("b", "", "a")]
    assert made["instance"] == [
        {"token": "i", "first_annotation_token": "b", "last_annotation_token": "a", "nbr_annotations": 2}
    ]
    assert [list(of) for of in chained(list, list, {}).values()] == [[], []]
    with pytest.raises(ValueError, match="'a' is of no sample that there is"):
        chained(lambda: rows, lambda: instances, {"d": 1})


def test_tables_are_not_held_in_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of 12,000 rows, 24 MB as objects, a block at a time: choosing by labels with errors, merging labels."""
    monkeypatch.setattr(table_rows, "BLOCK_BYTES", 1 << 15)
    monkeypatch.setattr(chains, "BLOCK", 64)
    pool, asked = pool_of(tmp_path / "pool", 200, 60, ["vehicle.car"], more=30), ["s3", "s4"]
    made = {}
    for name, tables_of in (
        ("noise", lambda: ask_oracle(pool, asked, Errors.of(["missing=0.5"]))),
        ("merged", lambda: merged(pool, asked, Labels((), ()))),
    ):
        tracemalloc.start()
        made[name] = write_view(tmp_path / name, pool, asked, tables_of())
        most = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert most < 5e6, (name, most)
    counts = {name: sum(1 for _ in rows_of(source, "sample_annotation")) for name, source in made.items()}
    assert counts["merged"] == 12_000 - 120 and 12_000 - 120 < counts["noise"] < 12_000 - 20


def test_sets_of_links_lead_to_the_files_and_not_into_themselves(tmp_path: Path) -> None:
    root = tmp_path / "pool"
    for name in ("samples", "own_masks", "v"):
        (root / name).mkdir(parents=True)
        (root / name / "a.json").write_text("[]")
    first = write_view(root / "views" / "first", Source(root, "v"), ["s"], {"a": [{"token": "x"}]})
    assert sorted(path.name for path in first.root.iterdir()) == ["frames.json", "own_masks", "samples", "v"]
    assert (first.root / "v" / "a.json").read_text() == '[{"token":"x"}]' and (
        root / "v" / "a.json"
    ).read_text() == "[]"
    second = write_view(tmp_path / "second", first, ["s"])
    with linked_set(tmp_path / "third", second.root, "v", (), "far.json") as work:
        (work / "far.json").touch()
    write_view(root / "views" / "first", Source(root, "v"), ["t"])
    third = tmp_path / "third"
    assert (third / "samples").resolve() == root / "samples" and (third / "own_masks" / "a.json").is_file()
    assert (third / "frames.json").is_symlink(), "what is labelled there is labelled here"
    with pytest.raises(ValueError, match=r"was not written here \(it holds no frames.json\)"):
        write_view(third, Source(root, "v"), ["s"])


def test_curves_of_a_study() -> None:
    def rounds(*values: float) -> list[dict[str, float]]:
        return [{"frames": 10 * (k + 1), "different": 10, "mAP": v, "NDS": v} for k, v in enumerate(values)]

    curves = {("random", 0): rounds(0.1, 0.2), ("random", 1): rounds(0.1, 0.3), ("entropy", 0): rounds(0.1, 0.3),
              ("entropy", 1): rounds(0.1, 0.3)}  # fmt: skip
    assert curves_csv(curves).splitlines()[:2] == ["strategy,seed,round,frames,different,mAP,NDS",
                                                   "random,0,0,10,10,0.10000,0.10000"]  # fmt: skip
    lines = table(curves).splitlines()
    assert lines[2] == "| random | 0.100 ± 0.000 | 0.250 ± 0.050 | +0.000 ± 0.000 |"
    assert lines[3] == "| entropy | 0.100 ± 0.000 | 0.300 ± 0.000 | +0.050 ± 0.050 |"


def test_strategies_name_views_and_samplers_that_there_are() -> None:
    from training.data_engine.looking import VIEWS

    for strategy in STRATEGIES.values():
        assert set(strategy.views) < set(VIEWS) and strategy.sampler in SAMPLERS
        assert strategy.aggregate in AGGREGATES and strategy.shortlist in ("", *STRATEGIES)
    assert dataclasses.is_dataclass(Request("al_ssl", 3)) and Request("al_ssl", 3).views == ("base", "flips")
