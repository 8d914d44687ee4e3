"""Converted networks against what the authors' code gave for the same weights, on the small recordings."""

from __future__ import annotations

import pytest

pytest.importorskip("lightning", reason="needs lightning")
import torch
from published import BOXES, HEAD, SHIFT, STAGE, needs_golden
from published_chains import CHAINS, IN_REPOSITORY, converted


@pytest.mark.parametrize("name", [n if n in IN_REPOSITORY else pytest.param(n, marks=needs_golden) for n in CHAINS])
@torch.no_grad()
def test_every_stage_is_the_published_one(name):
    state, small, _ = CHAINS[name]
    off = dict(small(converted(name, state).detector))
    kinds = {"boxes": BOXES, "head": HEAD, "shift": SHIFT}
    limits = {stage: next((kinds[word] for word in kinds if word in stage), STAGE) for stage in off}
    assert {stage: value for stage, value in off.items() if not value < limits[stage]} == {}
    assert len(off) >= 40
