"""A labeller that knows the pool's own labels, and errs in a stated way: for experiments, in the place of people."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from training.data.source import Source
from training.data_engine.views import rows_of, stamps_of
from training.tables.chains import ANNOTATIONS, INSTANCES, chained
from training.tables.rows import Row
from training.tables.vocabulary import CATEGORY_OF

# (row, its own random numbers, amount) -> the row as labelled, None where it was overlooked.
Noise = Callable[[Row, np.random.Generator, float], Row | None]


def missing(row: Row, rng: np.random.Generator, amount: float) -> Row | None:
    """A box is overlooked with the probability `amount`."""
    return None if rng.random() < amount else row


def moved(row: Row, rng: np.random.Generator, amount: float) -> Row | None:
    """A box stands off by a normal error of `amount` metres along x and y."""
    step = rng.normal(0.0, amount, 2)
    x, y, z = row["translation"]
    return {**row, "translation": [x + float(step[0]), y + float(step[1]), z]}


def sized(row: Row, rng: np.random.Generator, amount: float) -> Row | None:
    """Width, length and height are each off by a factor of exp of a normal number times `amount`."""
    return {**row, "size": [float(side * np.exp(rng.normal(0.0, amount))) for side in row["size"]]}


NOISE: dict[str, Noise] = {"missing": missing, "moved": moved, "sized": sized}
CONFUSED = "confused"  # of instances, whose table says the class: with the probability `amount` another one


@dataclass(frozen=True)
class Errors:
    """kinds: (name of NOISE or `confused`, amount) in the order in which they happen; seed: of all of them."""

    kinds: tuple[tuple[str, float], ...] = ()
    seed: int = 0

    @classmethod
    def of(cls, words: Sequence[str], seed: int = 0) -> Errors:
        """`missing=0.2` and so on. Raises ValueError for others."""
        found = [(name, amount) for name, _, amount in (word.partition("=") for word in words)]
        known = (*NOISE, CONFUSED)
        try:
            kinds = tuple((name, float(amount)) for name, amount in found)
        except ValueError as error:
            raise ValueError(f"--noise {' '.join(words)}: expected KIND=AMOUNT each, of {', '.join(known)}") from error
        if unknown := [name for name, amount in kinds if name not in known or not amount > 0]:
            raise ValueError(f"--noise {unknown[0]}: expected one of {', '.join(known)}, with an amount above 0")
        return cls(kinds, seed)


NO_ERRORS = Errors()


def ask_oracle(pool: Source, tokens: Collection[str], errors: Errors) -> dict[str, Iterator[Row]] | None:
    """The two tables of labels with errors in the frames of these tokens, row by row; None for no errors: then the
    pool's own tables hold. An error depends on its box and the seed alone, so that a box that is asked about again is
    labelled alike. Objects keep the velocity that the labels of the frames around give them.

    Raises ValueError where an object cannot be taken for another class.
    """
    if not errors.kinds:
        return None
    asked = set(tokens)

    def annotations() -> Iterator[Row]:
        for row in rows_of(pool, ANNOTATIONS):
            labelled: Row | None = row
            if row["sample_token"] in asked:
                labelled = _erring(row, errors)
            if labelled is not None:
                yield labelled

    names = {row["name"]: row["token"] for row in rows_of(pool, "category")}
    categories = [names[name] for name in CATEGORY_OF.values() if name in names]
    seen = {row["instance_token"] for row in annotations() if row["sample_token"] in asked}
    amounts = [amount for name, amount in errors.kinds if name == CONFUSED]
    if amounts and len(categories) < 2:
        raise ValueError(
            f"--noise {CONFUSED}: category.json names {len(categories)} class, two are wanted; leave it out"
        )

    def instances() -> Iterator[Row]:
        for row in rows_of(pool, INSTANCES):
            for amount in amounts if row["token"] in seen else ():
                row = _confused(row, categories, amount, errors.seed)
            yield row

    return chained(annotations, instances, stamps_of(pool))


def _erring(row: Row, errors: Errors) -> Row | None:
    labelled: Row | None = row
    for name, amount in errors.kinds:
        if labelled is not None and name in NOISE:
            labelled = NOISE[name](labelled, _rng(name, row["token"], errors.seed), amount)
    return labelled


def _confused(instance: Row, categories: Sequence[str], amount: float, seed: int) -> Row:
    rng = _rng(CONFUSED, instance["token"], seed)
    if rng.random() >= amount:
        return instance
    other = [token for token in categories if token != instance["category_token"]]
    return {**instance, "category_token": other[int(rng.integers(len(other)))]}


def _rng(*names: object) -> np.random.Generator:
    return np.random.default_rng(int.from_bytes(hashlib.sha256("/".join(map(str, names)).encode()).digest()[:8], "big"))
