"""From stored views to the frames that are labelled next: no duplicates, then scores, then a sampler within limits.

Limits (frames of a drive, quotas of classes) hold from the first cut on: a shortlist of the best is made so that all of
the budget can be taken from it within them.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from training.data_engine.duplicates import Likeness, distinct
from training.data_engine.pool import FOUND, Pool
from training.data_engine.samplers import SAMPLERS
from training.data_engine.store import Frames, Store
from training.data_engine.strategies import STRATEGIES, Strategy, frame_scores

SHORT = 3  # times the budget: what a shortlist holds
NOTHING_LEFT = "nothing is left to choose: all of the pool is labelled, or like what is"
CANDIDATES = 20  # times the budget, the best by score: what samplers that compare embeddings choose from


@dataclass(frozen=True)
class Request:
    """by: of STRATEGIES. budget: frames, with `share` a share of what is not labelled; with `scenes` whole drives, by
    the mean of their frames. aggregate, sampler: instead of the strategy's. per_drive: frames of a drive at most, 0:
    any number. quotas: class -> share of the budget that is filled first with frames in which it was found. like: what
    near duplicates are; None: whatever the strategy, none are left out.

    Raises ValueError for what cannot be, and with `scenes` for what is of single frames: whole drives keep their near
    duplicates, and are ranked by one number.
    """

    by: str
    budget: float
    aggregate: str = ""
    sampler: str = ""
    per_drive: int = 0
    quotas: Mapping[str, float] = field(default_factory=dict)
    like: Likeness | None = field(default_factory=Likeness)
    scenes: bool = False
    seed: int = 0
    share: bool = False

    def __post_init__(self) -> None:
        if self.by not in STRATEGIES:
            raise ValueError(f"--by {self.by}: expected one of {', '.join(STRATEGIES)}")
        if self.sampler and self.sampler not in SAMPLERS:
            raise ValueError(f"--sampler {self.sampler}: expected one of {', '.join(SAMPLERS)}")
        if self.budget <= 0 or (self.budget > 1 if self.share else self.budget != int(self.budget)):
            found = f"{self.budget:.2%}" if self.share else f"{self.budget:g}"
            raise ValueError(f"--budget {found}: expected a number of frames, such as 200, or a share, such as 20%")
        if any(share <= 0 for share in self.quotas.values()) or sum(self.quotas.values()) > 1:
            raise ValueError(f"quotas are shares of the budget above 0 that make at most 1, found {dict(self.quotas)}")
        if self.per_drive < 0:
            raise ValueError(f"--per-drive {self.per_drive}: expected a number of frames, 0 for any")
        if self.scenes:
            self._check_whole_drives()

    def _check_whole_drives(self) -> None:
        of_frames = {"--per-drive": self.per_drive, "--quota": self.quotas, "--sampler": self.sampler}
        if given := [option for option, value in of_frames.items() if value]:
            raise ValueError(f"--scenes takes whole drives, {given[0]} is of single frames; leave one of them out")
        if self.strategy.sampler != "top" or self.strategy.shortlist:
            whole = [name for name, s in STRATEGIES.items() if s.sampler == "top" and not s.shortlist]
            raise ValueError(f"--scenes ranks drives by one number, which --by {self.by} has not; take one of "
                             f"{', '.join(whole)}")  # fmt: skip

    @property
    def strategy(self) -> Strategy:
        return STRATEGIES[self.by]

    @property
    def views(self) -> tuple[str, ...]:
        """What must be stored: of the strategy and of its shortlist."""
        first = STRATEGIES[self.strategy.shortlist].views if self.strategy.shortlist else ()
        return tuple(dict.fromkeys(("base", *self.strategy.views, *first)))

    def count(self, of: int) -> int:
        """The budget in frames (or drives), of so many that there are."""
        wanted = max(1, round(self.budget * of)) if self.share else int(self.budget)
        return min(wanted, of)


@dataclass(frozen=True)
class Picked:
    """One frame of the list."""

    token: str
    drive: str
    stamp_us: int
    score: float


@dataclass(frozen=True)
class Chosen:
    """frames in the order in which they were taken. frames_of_pool, labelled, near_duplicates: how many there were.
    drives: with `Request.scenes` drive -> mean score."""

    frames: tuple[Picked, ...]
    frames_of_pool: int
    labelled: int
    near_duplicates: int
    drives: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class _Rows:
    """What is held of every frame that may be taken: 20 bytes. drive, row (n,): which; score, first (n,): of the
    strategy and of its shortlist; classes (n,): a bit for each class that was found."""

    drive: np.ndarray
    row: np.ndarray
    score: np.ndarray
    first: np.ndarray
    classes: np.ndarray

    def select(self, kept: np.ndarray) -> _Rows:
        return _Rows(self.drive[kept], self.row[kept], self.score[kept], self.first[kept], self.classes[kept])


def choose(
    store: Store,
    drives: Sequence[str],
    classes: Sequence[str],
    pool: Pool,
    request: Request,
    labelled: Mapping[str, Collection[str]],
) -> Chosen:
    """drives: stored ones, of whose detections `classes` are the labels' names. labelled: drive -> tokens; they are not
    taken, and their near duplicates neither.

    Raises ValueError where nothing is left to choose, and for a class that the model does not have.
    """
    unknown = sorted(set(request.quotas) - set(classes))
    if unknown:
        raise ValueError(f"--quota {unknown[0]}: the model has {', '.join(classes)}")
    rows, counted = _score(store, drives, pool, request, labelled)
    if request.scenes:
        return _whole_drives(store, drives, request, rows, counted)
    budget = request.count(counted[0] - counted[1])
    rng = np.random.default_rng(request.seed)
    bits = [1 << classes.index(name) for name in request.quotas]
    if request.strategy.shortlist:
        order = np.argsort(-rows.first, kind="stable")
        rows = rows.select(_best_within(rows, order, SHORT, budget, request.per_drive, bits))
    by_name = request.sampler or request.strategy.sampler
    if by_name != "top":
        order = np.lexsort((rng.random(len(rows.score)), -rows.score))
        rows = rows.select(_best_within(rows, order, CANDIDATES, budget, request.per_drive, bits))
    if not len(rows.row):
        raise ValueError(NOTHING_LEFT)
    embeddings = _embeddings(store, drives, pool, rows) if by_name != "top" else np.zeros((len(rows.row), 1))
    taken = _take(rows, embeddings, pool, request, by_name, budget, classes, counted[1] > 0, rng)
    return Chosen(_named(store, drives, rows, taken), *counted)


def _score(
    store: Store, drives: Sequence[str], pool: Pool, request: Request, labelled: Mapping[str, Collection[str]]
) -> tuple[_Rows, tuple[int, int, int]]:
    """Of every frame that may be taken; (frames of the pool, labelled ones, near duplicates)."""
    strategy, parts = request.strategy, []
    every = known_frames = left_out = 0
    for number, drive in enumerate(drives):
        frames = store.read(drive)
        scores = frame_scores(strategy, frames, pool, request.aggregate, request.seed)
        of_drive = labelled.get(drive, ())
        known = np.array([token in of_drive for token in frames.tokens], dtype=bool)
        stays = np.ones(len(frames), dtype=bool)
        if strategy.distinct and request.like is not None and not request.scenes:
            units = pool.units(frames.array("embedding"))
            stays = distinct(frames.array("place"), units, scores, request.like, known)
        first = scores
        if strategy.shortlist:
            first = frame_scores(STRATEGIES[strategy.shortlist], frames, pool, seed=request.seed)
        free = np.flatnonzero(stays & ~known)
        which = np.full(len(free), number, dtype=np.int32)
        parts.append(_Rows(which, free.astype(np.int32), scores[free], first[free], _found_in(frames)[free]))
        every, known_frames = every + len(frames), known_frames + int(known.sum())
        left_out += int((~stays).sum())
    joined = _Rows(*(np.concatenate([getattr(p, n) for p in parts]) for n in _Rows.__dataclass_fields__))
    return joined, (every, known_frames, left_out)


def _found_in(frames: Frames) -> np.ndarray:
    """(n,) int32, a bit for each class of which something was found in the frame."""
    strong = frames.lists("score").values >= FOUND
    bits = np.zeros(len(frames), dtype=np.int32)
    labels, rows = frames.lists("label").values[strong].astype(np.int32), frames.lists("label").rows[strong]
    np.bitwise_or.at(bits, rows, np.left_shift(np.int32(1), labels))
    return bits


def _best_within(
    rows: _Rows, order: np.ndarray, times: int, budget: int, per_drive: int, bits: Sequence[int]
) -> np.ndarray:
    """Rows, rising: the first times * budget of `order`, no more than times * per_drive of a drive; and as many that
    show each class of `bits`. Whoever takes the budget within these limits does not run out of rows that were cut:
    every drive that is full has left at most `times` rows unused for each that was taken."""
    kept = []
    for bit in (*bits, 0):
        own = order[rows.classes[order] & bit != 0] if bit else order
        kept.append((own[_place_in_drive(rows.drive[own]) < times * per_drive] if per_drive else own)[: times * budget])
    return np.unique(np.concatenate(kept))


def _place_in_drive(drive: np.ndarray) -> np.ndarray:
    """(n,) how many before each row are of its drive."""
    by_drive = np.argsort(drive, kind="stable")
    _, first, counts = np.unique(drive[by_drive], return_index=True, return_counts=True)
    place = np.empty(len(drive), dtype=np.int64)
    place[by_drive] = np.arange(len(drive)) - np.repeat(first, counts)
    return place


def _embeddings(store: Store, drives: Sequence[str], pool: Pool, rows: _Rows) -> np.ndarray:
    """(n, D) in units of the pool, of the rows, which are in the order of the drives."""
    parts = []
    for number in np.unique(rows.drive):
        of_drive = store.read(drives[number], ("embedding",)).array("embedding")
        parts.append(pool.units(of_drive[rows.row[rows.drive == number]]))
    return np.concatenate(parts)


def _take(
    rows: _Rows,
    embeddings: np.ndarray,
    pool: Pool,
    request: Request,
    sampler: str,
    budget: int,
    classes: Sequence[str],
    some_labelled: bool,
    rng: np.random.Generator,
) -> list[int]:
    """Quota by quota, then whatever is best, none of a drive that has given `per_drive`."""
    open_rows, of_drive = np.ones(len(rows.row), dtype=bool), np.zeros(int(rows.drive.max()) + 1, dtype=np.int64)
    taken: list[int] = []
    known = pool.reference if some_labelled and sampler != "top" else np.zeros((0, embeddings.shape[1]))
    wanted = [(1 << classes.index(name), round(share * budget)) for name, share in request.quotas.items()]
    for bit, count in [*wanted, (0, budget)]:
        has = rows.classes & bit != 0 if bit else np.ones(len(rows.row), dtype=bool)
        end = budget if not bit else min(budget, len(taken) + count - int(has[taken].sum()))
        free = open_rows & has
        before = np.concatenate([known, embeddings[taken]])
        order = SAMPLERS[sampler](rows.score, embeddings, before, rng, free)
        while len(taken) < end and (row := next(order, None)) is not None:
            taken.append(row)
            open_rows[row] = free[row] = False
            of_drive[rows.drive[row]] += 1
            if of_drive[rows.drive[row]] == request.per_drive:
                closed = rows.drive == rows.drive[row]
                open_rows[closed] = free[closed] = False
    return taken


def _named(store: Store, drives: Sequence[str], rows: _Rows, taken: Sequence[int]) -> tuple[Picked, ...]:
    found: dict[int, Picked] = {}
    for number in np.unique(rows.drive[taken]):
        frames = store.read(drives[number], ("stamp_ns",))
        for i in (i for i in taken if rows.drive[i] == number):
            row = int(rows.row[i])
            stamp = int(frames.array("stamp_ns")[row]) // 1000
            found[i] = Picked(frames.tokens[row], drives[number], stamp, float(rows.score[i]))
    return tuple(found[i] for i in taken)


def _whole_drives(
    store: Store, drives: Sequence[str], request: Request, rows: _Rows, counted: tuple[int, int, int]
) -> Chosen:
    means = {
        drive: float(rows.score[rows.drive == number].mean())
        for number, drive in enumerate(drives)
        if (rows.drive == number).any()
    }
    if not means:
        raise ValueError(NOTHING_LEFT)
    best = sorted(means, key=lambda drive: -means[drive])[: request.count(len(means))]
    of_best = np.isin(rows.drive, [drives.index(drive) for drive in best])
    picked = _named(store, drives, rows, np.flatnonzero(of_best).tolist())
    return Chosen(picked, *counted, means)
