"""What must hold for another model to come into service: facts, scores, agreement and time; a small YAML file.

scores: if_stated            # or required, or ignored
map_loss: 0.01               # mAP may be so much lower than in service
nds_loss: 0.01
classes: same                # or any
grid: same                   # or any
mounts: accepted             # as the cameras are mounted, unless the model in service does not accept it either; or any
latency_ratio: 1.5           # slower than in service by this factor, and a tenth of a period, is too slow
agreement: 0.5               # share of the boxes that have a partner in the other model
frames: 20                   # compared at least in the shadow, and served at least in the watch
memory_mib: 256              # stays free on the machine beside what the new engine is taken to need
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any

from bev_perception.deployment.shadow import Findings
from bev_perception.model_spec import ModelSpec
from bev_perception.plain import from_plain
from bev_perception.stated_scores import StatedScores
from bev_perception.yaml_file import parse_yaml_text

TEXT_LIMIT = 64 * 1024
CHOICES = {
    "scores": ("if_stated", "required", "ignored"),
    "classes": ("same", "any"),
    "grid": ("same", "any"),
    "mounts": ("accepted", "any"),
}
LIMITS = {
    "map_loss": (-1.0, 1.0), "nds_loss": (-1.0, 1.0), "latency_ratio": (0.1, 100.0), "agreement": (0.0, 1.0),
    "frames": (0, 100_000), "memory_mib": (0.0, 1e6),
}  # fmt: skip
EMPTY_FRAMES = 10  # in a row without a box, where the other model finds some
SLOW_FRAMES = 10  # of which the middle one is taken
SLACK = 0.1


class GateError(ValueError):
    """A gate that cannot be read; the message says which key and what is expected."""


@dataclass(frozen=True)
class Gate:
    """See the file's docstring. Raises ValueError for values out of range."""

    scores: str = "if_stated"
    map_loss: float = 0.01
    nds_loss: float = 0.01
    classes: str = "same"
    grid: str = "same"
    mounts: str = "accepted"
    latency_ratio: float = 1.5
    agreement: float = 0.5
    frames: int = 20
    memory_mib: float = 256.0

    def __post_init__(self) -> None:
        for name, choices in CHOICES.items():
            if getattr(self, name) not in choices:
                raise ValueError(f"`{name}` is {getattr(self, name)!r}, expected one of {', '.join(choices)}")
        for name, (low, high) in LIMITS.items():
            if not low <= (found := getattr(self, name)) <= high:
                raise ValueError(f"`{name}` is {found!r}, expected a number within [{low:g}, {high:g}]")


@dataclass(frozen=True)
class Judged:
    """reason: "" where it passes, else named first, then in words. figures: what it went by. note: what the journal
    says of it all the same."""

    reason: str = ""
    figures: dict[str, float] = field(default_factory=dict)
    note: str = ""


def parse_gate(text: str) -> Gate:
    """YAML text; keys that are left out have their defaults. Raises GateError."""
    if len(text) > TEXT_LIMIT:
        raise GateError(f"gate: {len(text)} characters, at most {TEXT_LIMIT} are read")
    try:
        given = parse_yaml_text(text)
        if given is not None and not isinstance(given, dict):
            raise ValueError(f"expected keys with values, found {type(given).__name__}")
        defaults: dict[str, Any] = {f.name: f.default for f in fields(Gate)}
        gate: Gate = from_plain(Gate, defaults | (given or {}), "gate:")
    except ValueError as error:
        raise GateError(f"{error}" if str(error).startswith("gate") else f"gate: {error}") from error
    return gate


def judge_facts(candidate: ModelSpec, running: ModelSpec, gate: Gate) -> Judged:
    """Whether the running rig can feed the candidate and whoever listens can take it; every difference is named."""
    problems = []
    for kind in ("cameras", "radars"):
        have, want = getattr(running, kind), getattr(candidate, kind)
        if have != want:
            problems.append(f"{kind} are {list(want)}, the rig feeds {list(have)}")
    if candidate.radars:
        for name in ("sweeps", "max_age_s"):
            have, want = getattr(running.radar, name), getattr(candidate.radar, name)
            if have != want:
                problems.append(f"radar.{name} is {want:g}, frames are made with {have:g}")
    if problems:
        mend = "export it for these sensors, or start the node with it as `bundle`"
        return Judged(f"other_sensors: {'; '.join(problems)}; {mend}")
    if gate.classes == "same" and candidate.classes != running.classes:
        gone = sorted(set(running.classes) - set(candidate.classes))
        new = sorted(set(candidate.classes) - set(running.classes))
        what = f"lacks {gone}, adds {new}" if gone or new else "has them in another order"
        return Judged(f"other_classes: the candidate {what}; the gate's `classes: any` allows it")
    if gate.grid == "same" and candidate.grid != running.grid:
        return Judged(f"other_grid: {candidate.grid}, in service {running.grid}; the gate's `grid: any` allows it")
    return Judged()


def judge_mounts(candidate: Mapping[str, str], running: Mapping[str, str], gate: Gate) -> Judged:
    """candidate, running: cameras of the vehicle that are mounted otherwise than that model accepts -> in words. The
    candidate may lose none that the model in service has."""
    lost = [said for name, said in candidate.items() if name not in running]
    if gate.mounts == "any" or not lost:
        return Judged(note=f"other_mounts: {'; '.join(candidate.values())}" if candidate else "")
    return Judged(
        f"other_mounts: {'; '.join(lost)}; the model in service accepts it: train for this rig, or the gate's "
        "`mounts: any` allows it"
    )


def judge_scores(candidate: StatedScores | None, running: StatedScores | None, gate: Gate) -> Judged:
    """The candidate's stated scores against those of the model in service. Where they cannot be compared, the note says
    so, and `scores: required` refuses."""
    if gate.scores == "ignored":
        return Judged()
    unstated = [who for who, scores in (("candidate", candidate), ("model in service", running)) if scores is None]
    if candidate is None or running is None:
        verb = "states" if len(unstated) == 1 else "state"
        why = f"no_scores_stated: the {' and the '.join(unstated)} {verb} none (scores.json)"
    elif not candidate.same_data(running):
        why = (
            f"scores_of_other_data: {candidate.frames} frames with {sum(candidate.objects.values())} objects, in "
            f"service {running.frames} with {sum(running.objects.values())}"
        )
    else:
        map_gain, nds_gain = candidate.mean_ap - running.mean_ap, candidate.nds - running.nds
        figures = {"map": candidate.mean_ap, "map_gain": map_gain, "nds": candidate.nds, "nds_gain": nds_gain}
        lost = [
            f"{name} {gain:+.4f}, allowed {-allowed:+g}"
            for name, gain, allowed in (("mAP", map_gain, gate.map_loss), ("NDS", nds_gain, gate.nds_loss))
            if gain < -allowed
        ]
        return Judged(f"worse_scores: {'; '.join(lost)}" if lost else "", figures)
    return Judged(f"{why}; the gate requires them") if gate.scores == "required" else Judged(note=why)


def judge_memory(needed_bytes: int, free_bytes: int, gate: Gate) -> Judged:
    """Before the engine is opened."""
    mib = 2**20
    figures = {"needed_mib": needed_bytes / mib, "free_mib": free_bytes / mib}
    if needed_bytes + gate.memory_mib * mib <= free_bytes:
        return Judged("", figures)
    return Judged(
        f"no_memory: the engine is taken to need {figures['needed_mib']:.0f} MiB, {figures['free_mib']:.0f} are free, "
        f"of which {gate.memory_mib:g} stay free",
        figures,
    )


def allowed_ms(in_service_ms: float, period_ms: float, gate: Gate) -> float:
    """The median step that is not too slow; SLACK of a period more is no matter, however quick the models are."""
    return max(gate.latency_ratio * in_service_ms, in_service_ms + SLACK * period_ms)


def judge_shadow(findings: Findings, in_service_ms: float, engine_ms: float, period_ms: float, gate: Gate) -> Judged:
    """At the end of the shadow. in_service_ms: median step of the model in service over the same time; engine_ms: of
    the candidate's engine when it was opened. Slow is what was slow both then and on the frames: in the shadow alone,
    its low priority may be why, and the watch will tell."""
    figures = findings.figures()
    ms, compared = min(findings.percentile(50), engine_ms), findings.agreement.frames
    share = findings.agreement.total().share
    reason = fault_of(findings)
    if not reason and compared < gate.frames:
        reason = (
            f"too_few_frames: {compared} frames were compared, the gate asks for {gate.frames}; shadow for longer, and "
            "look whether frames come at all"
        )
    elif not reason and ms > (allowed := allowed_ms(in_service_ms, period_ms, gate)):
        reason = f"too_slow: {ms:.1f} ms a frame, in service {in_service_ms:.1f}, allowed {allowed:.1f}"
    elif not reason and findings.boxes[0] == 0 < findings.boxes[1]:
        reason = f"empty_output: no box in {compared} frames, where the model in service has {findings.boxes[1]}"
    elif not reason and share < gate.agreement:
        reason = f"disagrees: {share:.2f} of the boxes have a partner, the gate asks for {gate.agreement:g}"
    return Judged(reason, {**figures, "serving_p50_ms": in_service_ms, "engine_ms": engine_ms})


def fault_of(findings: Findings) -> str:
    """What no model may do, not once: the shadow ends with the first."""
    if findings.errors:
        return f"step_failed: {findings.first_error}"
    if findings.not_finite:
        return f"not_finite_output: {findings.not_finite} candidates were NaN or infinite"
    return ""
