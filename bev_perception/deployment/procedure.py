"""One deployment from the first look at a bundle to its end: every step journalled, every failure led back.

`at(point)` is called at each of POINTS, in their order as far as it goes, for whoever tries what happens when the
process ends there.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import TypeVar

from bev_perception.bundle import Bundle, load_bundle
from bev_perception.deployment import gate as gates
from bev_perception.deployment import memory
from bev_perception.deployment import record as records
from bev_perception.deployment import rollout as steps
from bev_perception.deployment.folder import RECORD, VehicleFolder
from bev_perception.deployment.gate import Gate, Judged, parse_gate
from bev_perception.deployment.goal import Goal, Progress
from bev_perception.deployment.journal import Line, now
from bev_perception.deployment.listening import FIRST, Listening
from bev_perception.deployment.priority import EngineThreads
from bev_perception.deployment.record import Record
from bev_perception.deployment.rollout import Rollout
from bev_perception.deployment.serving import Host, Serving
from bev_perception.deployment.shadow import Findings, Pace, Plan, Shadow, plan
from bev_perception.deployment.watch import Trial, Watch
from bev_perception.inference.budget import available
from bev_perception.inference.interface import InferenceBackend
from bev_perception.inference.pace import engine_ms
from bev_perception.stated_scores import read_scores

POINTS = (
    "asked", "begun", "copying", "copied", "checked", "opening", "opened", "shadowing", "shadowed", "passed",
    "on_trial", "switched", "watched", "breached", "back", "rolled_back", "good", "accepted", "done",
)  # fmt: skip
T = TypeVar("T")
TELL_S = 0.5
LOOK_S = 0.05
SILENCE_S = 30.0  # without a frame of the model in service; in a slow replay the next one is long in coming
NOT_ASKED = "not asked for"


class Failed(Exception):
    """A step that does not pass: reason named first, then in words."""

    def __init__(self, reason: str, figures: Mapping[str, float] | None = None) -> None:
        super().__init__(reason)
        self.reason, self.figures = reason, dict(figures or {})


def nowhere(point: str) -> None:
    """The usual `at`."""


class Deployment:
    """run() in a thread of its own; cancel() from any. rollout: where it stands. clock: of shadow and watch, in s."""

    def __init__(
        self,
        goal: Goal,
        host: Host,
        folder: VehicleFolder,
        tell: Callable[[Progress], None],
        at: Callable[[str], None] = nowhere,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._clock = clock
        self._goal, self._host, self._folder, self._tell, self._at = goal, host, folder, tell, at
        self._before = host.serving()
        self._cancelled = ""
        self._stop = threading.Event()
        self.rollout = Rollout(goal.asked_by, now(), self._before.bundle.spec.onnx_sha256)
        self._progress = Progress(candidate=str(goal.source))
        self._copy = ""  # of the candidate, in the vehicle's folder
        self._backend: InferenceBackend | None = None  # of the candidate, while it is ours to close
        self._shadow: Shadow | None = None
        self._pace = Pace(0.0, 0.0)
        self._threads = EngineThreads()  # the candidate's own
        self._record: Record | None = None  # before the trial
        self._told_at = 0.0

    def cancel(self, reason: str) -> None:
        """The deployment fails with this reason at its next look; an engine that is being opened is opened first."""
        self._cancelled = self._cancelled or reason
        self._stop.set()

    def run(self) -> Rollout:
        """-> how it ended; in service is what the journal says then, and every other engine is closed."""
        try:
            self._at("asked")
            what = "back to the bundle before" if self._goal.rollback else str(self._goal.source)
            self._note(*steps.begin(self._goal.asked_by, self._before.bundle.spec.onnx_sha256, what))
            self._at("begun")
            self._go_back() if self._goal.rollback else self._deploy()
        except Failed as failure:
            self._fail(failure.reason, failure.figures)
        except Exception as error:  # whatever it is, the model before goes on
            self._fail(f"failed: {type(error).__name__}: {error}", {})
        finally:
            if self._backend is not None:
                self._host.settle()
                self._backend.close()
        with contextlib.suppress(OSError, ValueError):  # the next start looks again
            self._folder.drop_copies()
        return self.rollout

    def _deploy(self) -> None:
        gate = self._try("bad_gate", lambda: parse_gate(self._goal.gate))
        bundle = self._check(gate)
        candidate, ms = self._open(bundle, gate)
        heard = self._shadow_first(candidate, ms, gate)
        self._watch(self._switch(candidate, heard, gate), gate)

    # ---- steps

    def _check(self, gate: Gate) -> Bundle:
        bundle = self._try("bad_bundle", lambda: self._folder.take(self._goal.source, self._at))
        self._know(bundle)
        self._try("bad_signature", lambda: self._host.check(bundle))
        running = self._before.bundle
        if bundle.spec.onnx_sha256 == running.spec.onnx_sha256:
            raise Failed(f"{steps.ALREADY}: {bundle.spec.name}")
        facts = gates.judge_facts(bundle.spec, running.spec, gate)
        _pass_or_fail(facts)
        mounts = self._judge_mounts(bundle, gate)
        _pass_or_fail(mounts)
        scores = self._try("bad_bundle", lambda: gates.judge_scores(read_scores(bundle), read_scores(running), gate))
        _pass_or_fail(scores)
        self._passed(scores.figures, "; ".join(filter(None, (mounts.note, scores.note))))
        self._at("checked")
        return bundle

    def _judge_mounts(self, candidate: Bundle, gate: Gate) -> Judged:
        """Of the cameras as they are now."""
        return gates.judge_mounts(self._host.unlike(candidate.spec), self._host.unlike(self._before.bundle.spec), gate)

    def _open(self, bundle: Bundle, gate: Gate) -> tuple[Serving, float]:
        asked = gates.judge_memory(memory.needed(bundle), available(), gate)
        _pass_or_fail(asked)
        self._at("opening")
        before = memory.resident()
        with self._threads.opening():
            self._backend = backend = self._try("cannot_open", lambda: self._host.open(bundle, self._stop.is_set))
        self._at("opened")
        self._look()
        self._try("cannot_open", self._threads.normal)
        ms = engine_ms(backend, bundle)
        self._threads.low()
        grown = max(0, memory.resident() - before) / memory.MIB
        self._passed({**asked.figures, "grown_mib": grown, "engine_ms": ms})
        return Serving(bundle, self._host.pipeline(bundle, backend)), ms

    def _shadow_first(self, candidate: Serving, ms: float, gate: Gate) -> Listening:
        """ms: of the candidate's engine. -> what was heard of the model in service."""
        heard = Listening()
        self._host.observe(heard.note)
        # A few frames tell how long the model in service takes; from that follows the share.
        silence_s = max(SILENCE_S, 3 * self._host.period_ms() / 1e3)
        self._say(event=f"waiting for {FIRST} frames of the model in service, for each {silence_s:g} s at most")
        while (had := len(heard)) < FIRST:
            self._wait(lambda: len(heard) > had, silence_s)
            if len(heard) == had:
                raise Failed(
                    f"too_few_frames: the model in service had {had} frames of {FIRST}, and then none in {silence_s:g} "
                    "s; deploy while it works"
                )
        alone_ms, self._pace = heard.median_ms(), heard.pace()
        if self._goal.shadow_s <= 0:
            self._passed({"serving_p50_ms": alone_ms}, NOT_ASKED)
            return heard
        chosen = self._plan(alone_ms, ms, candidate)
        self._shadow = shadow = Shadow(candidate.pipeline, chosen, self._before.bundle.spec.classes)
        shadow.start()
        heard.pass_on_to(shadow)
        self._at("shadowing")
        self._say(event=chosen.why, share=chosen.share)
        self._follow(shadow, self._goal.shadow_s, "shadowed", lambda: bool(gates.fault_of(shadow.findings())))
        self._end_shadow()
        judged = gates.judge_shadow(shadow.findings(), heard.median_ms(), ms, self._host.period_ms(), gate)
        _pass_or_fail(judged)
        self._at("passed")
        figures = {"share": chosen.share, **judged.figures, "memory_mib": memory.resident() / memory.MIB}
        self._passed({**figures, "serving_alone_p50_ms": alone_ms}, chosen.why)
        return heard

    def _plan(self, serving_ms: float, shadow_ms: float, shadow: Serving) -> Plan:
        return plan(self._pace, serving_ms, shadow_ms, shadow.bundle.spec.temporal)

    def _switch(self, candidate: Serving, heard: Listening, gate: Gate) -> Trial:
        """From the next frame on the candidate serves, and the model before is its shadow."""
        before_ms = heard.median_ms()
        watch = Watch(gate, gates.allowed_ms(before_ms, self._host.period_ms(), gate), heard.boxes > 0)
        new = self._folder.stored(candidate.bundle, now())
        self._record = self._folder.record()
        self._folder.change(lambda record: records.begin_trial(record, new))
        self._at("on_trial")
        old, states = self._before, candidate.pipeline.memory
        chosen = self._plan(before_ms, before_ms, old)
        self._shadow = Shadow(old.pipeline, chosen, candidate.bundle.spec.classes)
        trial = Trial(watch, self._shadow, old, candidate, self._host.switch)
        self._shadow.start()
        kept = len(states)
        self._try("low_priority", self._threads.normal)
        why = f"its own memory of {kept} states goes on" if kept else _begin_empty(candidate)
        self._host.observe(trial.note)
        self._host.switch(candidate)
        self._at("switched")
        self._passed({"states": float(kept)}, why)
        return trial

    def _watch(self, trial: Trial, gate: Gate) -> None:
        self._follow(trial.shadow, self._goal.watch_s, "watched", trial.done.is_set)
        self._end_shadow()
        figures = {**trial.shadow.findings().figures(), **trial.watch.figures()}
        if trial.breach:
            self._at("breached")
            raise Failed(trial.breach, figures)
        frames = trial.watch.frames
        if self._goal.watch_s > 0 and frames < gate.frames:
            raise Failed(f"too_few_frames: {frames} frames on trial, the gate asks for {gate.frames}", figures)
        self._at("good")
        self._folder.change(records.accept)
        self._at("accepted")
        self._has_come_in(figures)
        self._at("done")

    def _has_come_in(self, figures: Mapping[str, float], reason: str = "") -> None:
        """The record says so: from here on nothing leads back, and the engine to close is the one before."""
        self._backend = self._before.pipeline.backend
        rollout, line = steps.passed(self.rollout, figures, reason)
        self._note_at_last(rollout, line)

    def _go_back(self) -> None:
        """To the bundle before, which was good: opened and proven, not shadowed."""
        before = self._folder.record().before
        if before is None:
            raise Failed("nothing_before: no good bundle before this one is known")
        bundle = self._try("bad_bundle", lambda: load_bundle(self._folder.path_of(before)))
        self._know(bundle)
        free = Gate(classes="any", grid="any", mounts="any")
        _pass_or_fail(gates.judge_facts(bundle.spec, self._before.bundle.spec, free))
        self._passed({}, self._judge_mounts(bundle, free).note)
        target, _ = self._open(bundle, Gate(memory_mib=0))
        self._passed({}, NOT_ASKED)
        why = _begin_empty(target)
        self._try("low_priority", self._threads.normal)
        self._folder.change(records.step_back)
        self._host.switch(target)
        self.rollout, line = steps.passed(self.rollout, {}, why)
        self._note_at_last(self.rollout, line)
        self._has_come_in({}, NOT_ASKED)

    # ---- waiting

    def _follow(self, shadow: Shadow, seconds: float, point: str, enough: Callable[[], bool]) -> None:
        """Until the time is over or `enough`; tells how it goes."""
        seen = False
        end = self._clock() + seconds
        while self._clock() < end and not enough():
            self._look()
            self._stop.wait(LOOK_S)
            findings = shadow.findings()
            if not seen and findings.seen:
                seen = True
                self._at(point)
            if time.monotonic() - self._told_at > TELL_S:
                self._say_findings(findings, shadow.plan.share)

    def _wait(self, true: Callable[[], bool], seconds: float) -> None:
        end = time.monotonic() + seconds
        while not true() and time.monotonic() < end:
            self._look()
            self._stop.wait(LOOK_S)

    def _look(self) -> None:
        if self._cancelled:
            raise Failed(self._cancelled)

    # ---- telling

    def _try(self, reason: str, work: Callable[[], T]) -> T:
        try:
            return work()
        except (ValueError, ImportError, OSError, RuntimeError) as error:
            text = str(error)
            if self._copy and not self._goal.rollback:  # people know it by the name that they gave, and the copy goes
                text = text.replace(self._copy, str(self._goal.source))
            raise Failed(f"{reason}: {text}") from error

    def _know(self, bundle: Bundle) -> None:
        self.rollout = replace(self.rollout, candidate=bundle.spec.onnx_sha256)
        self._copy = str(bundle.path)
        self._progress = replace(self._progress, candidate=self._copy, candidate_sha256=bundle.spec.onnx_sha256)

    def _passed(self, figures: Mapping[str, float] | None = None, reason: str = "") -> None:
        self._look()
        self._note(*steps.passed(self.rollout, figures, reason))

    def _fail(self, reason: str, figures: Mapping[str, float]) -> None:
        """Lead back, then say so; the record before the journal, as the record is what counts."""
        with contextlib.suppress(Failed):
            self._end_shadow()
        rollout, line = steps.failed(self.rollout, reason, figures)
        if rollout.step == steps.ROLLED_BACK:
            self._host.switch(self._before)
            self._at("back")
            try:
                self._folder.change(self._as_before)
            except OSError as error:  # the next start ends the trial
                line = replace(line, reason=f"{line.reason}; {RECORD} could not be written: {error}")
            self._at("rolled_back")
        self._note_at_last(rollout, line)

    def _as_before(self, record: Record) -> Record:
        """Whatever came of a write that failed halfway."""
        return records.end_trial(replace(self._record or record, starts=record.starts))

    def _end_shadow(self) -> None:
        """Nobody observes, and no engine is in use but the one in service."""
        self._host.observe(None)
        self._host.settle()
        shadow, self._shadow = self._shadow, None
        if shadow is not None and not shadow.stop():
            raise Failed("step_failed: a step in the shadow did not end, its engine was interrupted")

    def _note_at_last(self, rollout: Rollout, line: Line) -> None:
        """What has happened is not undone by a journal that cannot be written."""
        try:
            self._note(rollout, line)
        except OSError as error:
            self.rollout = rollout
            self._say(step=rollout.step, event=f"{line.text()}; the journal could not be written: {error}")

    def _note(self, rollout: Rollout, line: Line) -> None:
        self._folder.note(line)
        self.rollout = rollout
        self._say(step=rollout.step, event=line.text())

    def _say_findings(self, findings: Findings, share: float) -> None:
        self._say(
            share=share,
            frames=findings.agreement.frames,
            agreement=findings.agreement.total().share,
            p50_ms=findings.percentile(50),
            p99_ms=findings.percentile(99),
            scores=tuple(findings.scores[0].tolist()),
            scores_publishing=tuple(findings.scores[1].tolist()),
            not_finite=findings.not_finite,
            memory_mib=memory.resident() / memory.MIB,
        )

    def _say(self, **changes: object) -> None:
        self._told_at = time.monotonic()
        self._progress = replace(self._progress, **changes)  # type: ignore[arg-type]
        self._tell(self._progress)


def _begin_empty(serving: Serving) -> str:
    """States of one network mean nothing to another: they are left behind, which the first frame says."""
    serving.pipeline.memory.follow("model_switched")
    return "its memory begins empty (model_switched)"


def _pass_or_fail(judged: Judged) -> None:
    if judged.reason:
        raise Failed(judged.reason, judged.figures)
