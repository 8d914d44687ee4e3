"""The exit status of `deploy`: whether the model that was asked for is in service."""

from __future__ import annotations

import pytest

from bev_perception.deployment.rollout import ALREADY, DONE, REFUSED, ROLLBACK_ASKED, ROLLED_BACK
from bev_perception.ros.deploy import _as_asked


@pytest.mark.parametrize(
    ("verdict", "reason", "rollback", "serves"),
    [
        (DONE, "in service", False, True),
        (REFUSED, f"{ALREADY}: demo", False, True),
        (REFUSED, "worse_scores: mAP", False, False),
        (REFUSED, f"{ROLLBACK_ASKED}: by a@b", False, False),
        (ROLLED_BACK, "too_slow: 300 ms", False, False),
        (DONE, "in service", True, True),
        (ROLLED_BACK, f"{ROLLBACK_ASKED}: by a@b", True, True),
        (REFUSED, f"{ROLLBACK_ASKED}: by a@b", True, True),
        (REFUSED, "nothing_before: no good bundle before this one is known", True, False),
    ],
)
def test_it_says_whether_what_was_asked_for_serves(verdict: str, reason: str, rollback: bool, serves: bool) -> None:
    assert _as_asked(verdict, reason, rollback) is serves
