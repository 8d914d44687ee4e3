"""The steps of a deployment as values: where it stands, where it goes, and what each step writes into the journal."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from bev_perception.deployment.journal import Line, now

IDLE, CHECKING, OPENING, SHADOWING, SWITCHING, WATCHING = (
    "idle", "checking", "opening", "shadowing", "switching", "watching",
)  # fmt: skip
DONE, REFUSED, ROLLED_BACK = "done", "refused", "rolled_back"
DEPLOYMENT = "deployment"  # the step of its first line
BEGUN, PASSED, TOLD = "begun", "passed", "told"  # verdicts of lines, beside the three above
ENDS = (DONE, REFUSED, ROLLED_BACK)
ALREADY, ROLLBACK_ASKED = "already_in_service", "rollback_asked"  # reasons after which what was asked for serves
# Step -> the one after it, where it passes. A step that fails leads to REFUSED while nothing was switched, else back.
AFTER = {
    IDLE: CHECKING, CHECKING: OPENING, OPENING: SHADOWING, SHADOWING: SWITCHING, SWITCHING: WATCHING, WATCHING: DONE,
}  # fmt: skip
FAILED = {
    IDLE: REFUSED, CHECKING: REFUSED, OPENING: REFUSED, SHADOWING: REFUSED, SWITCHING: ROLLED_BACK,
    WATCHING: ROLLED_BACK,
}  # fmt: skip


@dataclass(frozen=True)
class Rollout:
    """One deployment. began: its name in the journal. candidate, in_service: SHA-256 of the models, "" until known.
    reason: why it ended, "" before."""

    asked_by: str
    began: str
    in_service: str
    candidate: str = ""
    step: str = IDLE
    reason: str = ""

    @property
    def ended(self) -> bool:
        return self.step in ENDS

    def line(self, step: str, verdict: str, reason: str = "", figures: Mapping[str, float] | None = None) -> Line:
        hashes = (self.candidate, self.in_service)
        return Line(now(), self.began, self.asked_by, step, verdict, *hashes, reason, dict(figures or {}))


def begin(asked_by: str, in_service: str, what: str) -> tuple[Rollout, Line]:
    """what: the bundle, as it was asked for."""
    rollout = replace(Rollout(asked_by, now(), in_service), step=AFTER[IDLE])
    return rollout, rollout.line(DEPLOYMENT, BEGUN, what)


def passed(rollout: Rollout, figures: Mapping[str, float] | None = None, reason: str = "") -> tuple[Rollout, Line]:
    """The step is done. Raises ValueError where the deployment has ended."""
    if rollout.ended:
        raise ValueError(f"the deployment has ended: {rollout.step}")
    then = replace(rollout, step=AFTER[rollout.step])
    if then.step == DONE:
        then = replace(then, in_service=then.candidate, reason="in service")
    return then, then.line(rollout.step, DONE if then.step == DONE else PASSED, reason, figures)


def failed(rollout: Rollout, reason: str, figures: Mapping[str, float] | None = None) -> tuple[Rollout, Line]:
    """The step failed: refused, or rolled back. Raises ValueError where the deployment has ended."""
    if rollout.ended:
        raise ValueError(f"the deployment has ended: {rollout.step}")
    then = replace(rollout, step=FAILED[rollout.step], reason=reason)
    return then, then.line(rollout.step, then.step, reason, figures)
