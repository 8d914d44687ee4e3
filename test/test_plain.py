"""Dataclasses as plain data: round trips, and what is refused."""

from __future__ import annotations

import dataclasses
import json

import pytest

from bev_perception.plain import from_plain, to_plain


@dataclasses.dataclass(frozen=True)
class Part:
    size: tuple[int, ...] = (1, 2)
    names: dict[str, float] = dataclasses.field(default_factory=dict)

    def __post_init__(self):
        if len(self.size) > 3:
            raise ValueError(f"size has at most 3 entries, found {self.size}")


@dataclasses.dataclass(frozen=True)
class LargePart(Part):
    size: tuple[int, ...] = (100,)


@dataclasses.dataclass(frozen=True)
class Whole:
    part: Part | None
    pairs: tuple[tuple[str, int], ...] = ()


WHOLE = Whole(Part((3,), {"a": 1.0}), (("car", 2),))
DATA = {"part": {"size": [3], "names": {"a": 1.0}}, "pairs": [["car", 2]]}


def test_nested_values_keep_their_types():
    data = json.loads(json.dumps(to_plain(WHOLE)))
    assert data == DATA and from_plain(Whole, data, "here:") == WHOLE
    assert from_plain(Whole, {"part": None, "pairs": []}, "here:") == Whole(None)
    assert from_plain(Whole, DATA | {"part": {"size": [3], "names": {"a": 1}}}, "here:") == WHOLE


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"parts": 1}, r"here: unknown keys \['parts'\], missing keys \[\]; this version has \['part', 'pairs'\]"),
        ({"part": {"size": [1]}}, r"here: part: unknown keys \[\], missing keys \['names'\]"),
        ({"part": {"size": [1, "x"], "names": {}}}, r"here: part\.size\[1\] must be int, found 'x'"),
        ({"part": {"size": [True], "names": {}}}, r"here: part\.size\[0\] must be int, found True"),
        ({"part": {"size": 3, "names": {}}}, r"here: part\.size must be a list, found 3"),
        ({"part": {"size": [], "names": []}}, r"here: part\.names must be an object, found \[\]"),
        ({"part": {"size": [], "names": {"a": "b"}}}, r"here: part\.names\.a must be float, found 'b'"),
        ({"part": {"size": [1, 2, 3, 4], "names": {}}}, r"here: part: size has at most 3 entries"),
        ({"part": 3}, r"here: part must be an object with \['size', 'names'\], found 3"),
        ({"pairs": [["car"]]}, r"here: pairs\[0\] must have 2 entries, found \['car'\]"),
    ],
)
def test_what_does_not_fit_is_named(change, words):
    with pytest.raises(ValueError, match=words):
        from_plain(Whole, DATA | change, "here:")


def test_a_missing_key_is_an_error_whatever_its_default_unless_the_table_says_what_it_meant():
    old = {"part": {"size": [3]}}
    for table in ({}, {Whole: {"pairs": ()}}, {Part: {"names": {}}}):
        with pytest.raises(ValueError, match="missing keys"):
            from_plain(Whole, old, "here:", table)
    table = {Whole: {"pairs": (("bus", 1),)}, Part: {"names": {"a": 1.0}, "size": ()}}
    assert from_plain(Whole, old, "here:", table) == Whole(WHOLE.part, (("bus", 1),))
    assert from_plain(LargePart, {}, "here:", table | {LargePart: {"size": (50,)}}) == LargePart((50,), {"a": 1.0})
    with pytest.raises(ValueError, match=r"unknown keys \['colour'\]"):
        from_plain(Whole, old | {"colour": 1}, "here:", table)
