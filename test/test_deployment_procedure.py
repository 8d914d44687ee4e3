"""A deployment step by step without ROS: real pipelines on drawn frames, and whatever may go wrong at every point."""

from __future__ import annotations

import dataclasses
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

tiny_bundle = pytest.importorskip("tiny_bundle", reason="onnx is not installed")

from deployment_folder import Said, folder_with, named_bundle  # noqa: E402

from bev_perception.bundle import Bundle, load_bundle  # noqa: E402
from bev_perception.deployment import journal, procedure  # noqa: E402
from bev_perception.deployment.folder import BUNDLES, JOURNAL, VehicleFolder  # noqa: E402
from bev_perception.deployment.goal import Goal, Progress  # noqa: E402
from bev_perception.deployment.priority import EngineThreads  # noqa: E402
from bev_perception.deployment.procedure import POINTS, Deployment, nowhere  # noqa: E402
from bev_perception.deployment.record import Record  # noqa: E402
from bev_perception.deployment.serving import Observer, Serving, Stepped  # noqa: E402
from bev_perception.deployment.shadow import Findings, Pace, Plan, Shadow, plan  # noqa: E402
from bev_perception.deployment.start import START, start  # noqa: E402
from bev_perception.deployment.watch import Watch  # noqa: E402
from bev_perception.golden_pattern import pattern_frames  # noqa: E402
from bev_perception.inference.interface import InferenceBackend  # noqa: E402
from bev_perception.inference.onnxruntime_backend import OnnxRuntimeBackend  # noqa: E402
from bev_perception.model_spec import BundleError, ModelSpec  # noqa: E402
from bev_perception.pipeline import BevPipeline  # noqa: E402
from bev_perception.structures import SensorFrame  # noqa: E402

ROOT = Path(__file__).resolve().parent.parent
Fault = Callable[[dict[str, Any]], None]
BACKWARDS = ("breached", "back", "rolled_back")
STEP_NS = 100_000_000
GATE, IN_TIME = "frames: 1\nlatency_ratio: 100", "frames: 1"  # a busy machine is slow, which is no breach here
FRAME_S = 0.005  # of the time of shadow and watch, which is counted in frames here: a busy machine changes nothing


def later(frame: SensorFrame, ns: int) -> SensorFrame:
    """The same frame, all of it so much later."""

    def moved(value: Any) -> Any:
        return dataclasses.replace(value, stamp_ns=value.stamp_ns + ns)

    cameras = [v and dataclasses.replace(v, frame=moved(v.frame), ego=moved(v.ego)) for v in frame.cameras]
    radars = [
        tuple(dataclasses.replace(s, scan=moved(s.scan), ego=moved(s.ego)) for s in sweeps) for sweeps in frame.radars
    ]
    return dataclasses.replace(moved(frame), ego=moved(frame.ego), cameras=tuple(cameras), radars=tuple(radars))


class Engine(OnnxRuntimeBackend):
    """Notices use after its end and by two threads at once. From `good` answers on it does what `fault` does."""

    def __init__(self, bundle: Bundle, good: int = 10**9, fault: Fault = lambda outputs: None) -> None:
        super().__init__(bundle, threads=1)
        self._good, self._fault, self._busy = good, fault, threading.Lock()
        self.closed = False
        self.misused: list[str] = []

    def infer(self, inputs: Any) -> dict[str, Any]:
        if self.closed:
            self.misused.append("used after its end")
        if not self._busy.acquire(blocking=False):
            self.misused.append("used by two threads at once")
            raise RuntimeError("busy")
        try:
            outputs = dict(super().infer(inputs))
            self._good -= 1
            if self._good < 0:
                self._fault(outputs)
            return outputs
        finally:
            self._busy.release()

    def close(self) -> None:
        self.closed = True
        super().close()


class Vehicle:
    """A host whose pipeline's thread steps on drawn frames without a pause to speak of."""

    def __init__(self, bundle: Bundle) -> None:
        self.engines: list[Engine] = []
        self.refuses = ""
        self.otherwise: dict[str, dict[str, str]] = {}  # name of a model -> cameras that it does not accept
        self.fault: tuple[int, Fault] = (10**9, lambda outputs: None)
        self._serving = Serving(bundle, self.pipeline(bundle, self.open(bundle)))
        self._observer: Observer | None = None
        self._stepping = threading.Lock()
        self._closing = threading.Event()
        self.served: list[str] = []  # names of the models, frame by frame
        self._thread = threading.Thread(target=self._drive, daemon=True)
        self._thread.start()

    def _drive(self) -> None:
        frame = pattern_frames(tiny_bundle.SPEC)[0]
        for number in range(10**6):
            with self._stepping:
                serving = self._serving
                sha, error, detections = serving.bundle.spec.onnx_sha256, "", None
                moved = later(frame, number * STEP_NS)
                before, started = serving.pipeline.counters["output/not_finite"], time.perf_counter()
                try:
                    detections = serving.pipeline.step(moved)
                except RuntimeError as failure:
                    error = str(failure)
                bad = serving.pipeline.counters["output/not_finite"] - before
                self.served.append(serving.bundle.spec.name)
                if (observer := self._observer) is not None:
                    observer(Stepped(moved, sha, (time.perf_counter() - started) * 1e3, detections, bad, error))
            if self._closing.wait(FRAME_S):
                return

    def close(self) -> None:
        self._closing.set()
        self._thread.join()

    def clock(self) -> float:
        return FRAME_S * len(self.served)

    def serving(self) -> Serving:
        return self._serving

    def period_ms(self) -> float:
        return STEP_NS / 1e6

    def check(self, bundle: Bundle) -> None:
        if self.refuses:
            raise ValueError(self.refuses)

    def unlike(self, spec: ModelSpec) -> dict[str, str]:
        return self.otherwise.get(spec.name, {})

    def open(self, bundle: Bundle, cancelled: Callable[[], bool] = lambda: False) -> InferenceBackend:
        self.engines.append(Engine(bundle, *self.fault) if self.engines else Engine(bundle))
        return self.engines[-1]

    def pipeline(self, bundle: Bundle, backend: InferenceBackend) -> BevPipeline:
        return BevPipeline(bundle.spec, backend)

    def observe(self, observer: Observer | None) -> None:
        self._observer = observer

    def switch(self, serving: Serving) -> None:
        self._serving = serving

    def settle(self) -> None:
        with self._stepping:
            pass


@pytest.fixture(scope="module")
def bundles(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Bundle]:
    folder = tmp_path_factory.mktemp("bundles")
    return {name: named_bundle(folder / name, name) for name in ("old", "new")}


@pytest.fixture
def folder(tmp_path: Path, bundles: dict[str, Bundle]) -> VehicleFolder:
    return folder_with(tmp_path / "vehicle", bundles["old"])


@pytest.mark.parametrize(
    ("made", "told"),
    [
        (lambda path: path.write_bytes(b"PK"), "is a file, expected the folder of a bundle; an archive is unpacked"),
        (lambda path: None, "there is no such folder on the node's machine"),
        (lambda path: (path / ".git").mkdir(parents=True), ".git is no regular file, as a bundle's are"),
        (lambda path: [path.mkdir(), *((path / str(n)).touch() for n in range(65))], "has 65 files, expected at most"),
    ],
    ids=["archive", "nothing", "folder", "files"],
)
def test_what_is_no_bundles_folder_is_said_as_it_is(
    folder: VehicleFolder, tmp_path: Path, made: Any, told: str
) -> None:
    made(tmp_path / "given")
    with pytest.raises(BundleError, match=told):
        folder.take(tmp_path / "given", nowhere)


def test_a_damaged_copy_is_replaced_by_the_whole_one(folder: VehicleFolder, bundles: dict[str, Bundle]) -> None:
    kept = folder.take(bundles["new"].path, nowhere)
    data = bytearray(kept.onnx_path.read_bytes())
    data[len(data) // 2] ^= 1
    kept.onnx_path.write_bytes(data)
    again = folder.take(bundles["new"].path, nowhere)
    assert again.path == kept.path and again.onnx_path.read_bytes() == bundles["new"].onnx_path.read_bytes()
    assert len(list((folder.path / BUNDLES).iterdir())) == 2, "nothing but the two copies is left"


@pytest.fixture
def vehicle(folder: VehicleFolder) -> Iterator[Vehicle]:
    serving = folder.record().serving
    assert serving is not None
    vehicle = Vehicle(load_bundle(folder.path_of(serving)))
    yield vehicle
    vehicle.close()
    assert not [engine.misused for engine in vehicle.engines if engine.misused]


def deployment(
    vehicle: Vehicle,
    folder: VehicleFolder,
    source: Path,
    at: Callable[[str], None] = nowhere,
    tell: Callable[[Progress], None] = lambda progress: None,
    clock: Callable[[], float] | None = None,
    **goal: Any,
) -> Deployment:
    wanted = {"shadow_s": 0.2, "watch_s": 0.2, "gate": GATE, "asked_by": "test"} | goal
    return Deployment(Goal(source, **wanted), vehicle, folder, tell, at, clock or vehicle.clock)


def all_is_as_before(vehicle: Vehicle, folder: VehicleFolder) -> None:
    record = folder.record()
    assert record.serving is not None and record.serving.name == "old" and record.trial is None
    assert vehicle.serving().bundle.spec.name == "old"
    old, *others = vehicle.engines
    assert not old.closed and all(engine.closed for engine in others)
    count = len(vehicle.served)
    while len(vehicle.served) < count + 3:
        time.sleep(0.005)
    assert set(vehicle.served[-2:]) == {"old"}


def test_a_good_bundle_passes_every_point_and_comes_in(
    vehicle: Vehicle, folder: VehicleFolder, bundles: dict[str, Bundle]
) -> None:
    seen: list[str] = []
    told: list[Progress] = []
    ended = deployment(vehicle, folder, bundles["new"].path, seen.append, told.append).run()
    assert (ended.step, ended.in_service) == ("done", bundles["new"].spec.onnx_sha256)
    order = list(dict.fromkeys(seen))
    assert order == [point for point in POINTS if point not in BACKWARDS]
    record, old, new = folder.record(), *vehicle.engines
    assert record.serving is not None and record.before is not None and record.trial is None
    assert (record.serving.name, record.before.name) == ("new", "old")
    assert old.closed and not new.closed and vehicle.serving().bundle.spec.name == "new"
    lines = journal.read(folder.path / JOURNAL).lines
    assert [(line.step, line.verdict) for line in lines] == [
        ("deployment", "begun"), ("checking", "passed"), ("opening", "passed"), ("shadowing", "passed"),
        ("switching", "passed"), ("watching", "done"),
    ]  # fmt: skip
    assert {line.asked_by for line in lines} == {"test"} and len({line.deployment for line in lines}) == 1
    changes = [i for i, (one, other) in enumerate(pairwise(vehicle.served), 1) if one != other]
    assert len(changes) == 1, "every frame was served, by the old model and then by the new one"
    assert lines[3].figures["agreement"] > 0.5 and lines[4].figures["states"] > 0
    assert [progress.step for progress in told][-1] == "done"
    back = deployment(vehicle, folder, Path(), rollback=True).run()
    assert back.step == "done" and vehicle.serving().bundle.spec.name == "old"
    assert new.closed and not vehicle.engines[-1].closed and folder.record().before is None


def test_a_slow_replay_is_waited_for_and_one_that_has_ended_is_not(
    vehicle: Vehicle, folder: VehicleFolder, bundles: dict[str, Bundle], monkeypatch: pytest.MonkeyPatch
) -> None:
    frames: list[None] = []
    monkeypatch.setattr(procedure.Listening, "__len__", lambda heard: len(frames))

    def wait(run: Deployment, true: Callable[[], bool], seconds: float) -> None:
        assert seconds == procedure.SILENCE_S and not true()
        if len(frames) < last:
            frames.append(None)  # each of them just in time
            assert true()

    monkeypatch.setattr(Deployment, "_wait", wait)
    last = 9
    ended = deployment(vehicle, folder, bundles["new"].path).run()
    assert ended.reason.startswith("too_few_frames: the model in service had 9 frames of 10, and then none in 30 s")
    all_is_as_before(vehicle, folder)
    last = 10
    assert "had 9 frames" not in deployment(vehicle, folder, bundles["new"].path).run().reason


@pytest.mark.parametrize("point", [p for p in POINTS if p not in ("accepted", "done", *BACKWARDS)])
def test_whatever_is_raised_before_the_end_leads_back(
    point: str, vehicle: Vehicle, folder: VehicleFolder, bundles: dict[str, Bundle]
) -> None:
    def at(reached: str) -> None:
        if reached == point:
            raise MemoryError("no more")

    ended = deployment(vehicle, folder, bundles["new"].path, at).run()
    switched = POINTS.index(point) > POINTS.index("passed")
    assert ended.step == ("rolled_back" if switched else "refused") and "MemoryError: no more" in ended.reason
    all_is_as_before(vehicle, folder)
    assert not list((folder.path / BUNDLES).glob(".*"))


@pytest.mark.parametrize("point", ["copied", "opened", "shadowed", "on_trial", "watched"])
def test_a_deployment_that_is_cancelled_leads_back(
    point: str, vehicle: Vehicle, folder: VehicleFolder, bundles: dict[str, Bundle]
) -> None:
    running = deployment(vehicle, folder, bundles["new"].path, shadow_s=5.0, watch_s=60.0, at=lambda p: at(p))
    if point in ("on_trial", "watched"):
        running = deployment(vehicle, folder, bundles["new"].path, shadow_s=0.0, watch_s=60.0, at=lambda p: at(p))

    def at(reached: str) -> None:
        if reached == point:
            running.cancel("cancelled: by the test")

    ended = running.run()
    assert ended.reason == "cancelled: by the test" and ended.step in ("refused", "rolled_back")
    all_is_as_before(vehicle, folder)


class FullDisk(VehicleFolder):
    """Refuses to write what `refuses` says: a rule's name, or the verdict of a line."""

    refuses: tuple[str, ...] = ()

    def change(self, rule: Any) -> Record:
        changed = rule(self.record())
        kinds = {
            "trial": changed.trial is not None, "accept": changed.before is not None,
            "end": changed.trial is None and changed.before is None,
        }  # fmt: skip
        if any(kinds[name] for name in self.refuses if name in kinds):
            raise OSError(28, "No space left on device")
        return super().change(rule)

    def note(self, line: journal.Line) -> None:
        if line.verdict in self.refuses:
            raise OSError(28, "No space left on device")
        super().note(line)


@pytest.mark.parametrize(
    ("refuses", "step"),
    [(("begun",), "refused"), (("passed",), "refused"), (("trial",), "rolled_back"), (("accept",), "rolled_back")],
)
def test_a_full_disk_leads_back(
    refuses: tuple[str, ...], step: str, vehicle: Vehicle, folder: VehicleFolder, bundles: dict[str, Bundle]
) -> None:
    full = FullDisk(folder.path)
    full.refuses = refuses
    ended = deployment(vehicle, full, bundles["new"].path).run()
    assert ended.step == step and "No space left" in ended.reason
    all_is_as_before(vehicle, folder)


def test_what_is_in_service_stays_so_where_the_journal_cannot_say_it(
    vehicle: Vehicle, folder: VehicleFolder, bundles: dict[str, Bundle]
) -> None:
    told: list[Progress] = []
    full = FullDisk(folder.path)
    full.refuses = ("done",)
    ended = deployment(vehicle, full, bundles["new"].path, tell=told.append).run()
    assert ended.step == "done" and vehicle.serving().bundle.spec.name == "new"
    assert "the journal could not be written" in told[-1].event
    # The next start finds the deployment without its end, and gives it the right one.
    said = Said()
    start(folder, bundles["old"].path, lambda bundle: bundle, said)
    assert said.told[0].startswith("the last deployment was done: node_ended")


def test_where_even_the_way_back_cannot_be_written_the_old_model_serves(
    vehicle: Vehicle, folder: VehicleFolder, bundles: dict[str, Bundle]
) -> None:
    full = FullDisk(folder.path)
    full.refuses = ("accept", "end", "rolled_back")
    ended = deployment(vehicle, full, bundles["new"].path).run()
    assert ended.step == "rolled_back" and vehicle.serving().bundle.spec.name == "old"
    assert folder.record().trial is not None
    found = start(folder, bundles["old"].path, lambda bundle: bundle, Said())
    assert found.spec.name == "old" and folder.record().trial is None
    last = [line for line in journal.read(folder.path / JOURNAL).lines if line.step != START][-1]
    assert last.verdict == "rolled_back" and last.reason.startswith("node_ended")


def test_a_record_that_was_written_after_all_is_taken_back(
    vehicle: Vehicle, folder: VehicleFolder, bundles: dict[str, Bundle]
) -> None:
    class Halfway(VehicleFolder):
        def write(self, record: Record) -> None:
            super().write(record)
            if record.before is not None:
                raise OSError(5, "Input/output error")  # of the sync, after the name was there

    ended = deployment(vehicle, Halfway(folder.path), bundles["new"].path).run()
    assert ended.step == "rolled_back" and folder.record().before is None
    all_is_as_before(vehicle, folder)


def test_a_breach_at_the_last_moment_counts(
    vehicle: Vehicle, folder: VehicleFolder, bundles: dict[str, Bundle], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The watch is over while its last frame is looked at, and that one is bad."""
    entered, go_on = threading.Event(), threading.Event()

    def note(watch: Watch, stepped: Stepped, other: Findings) -> str:
        watch.frames += 1
        entered.set()
        go_on.wait(20)
        return "late: the last word"

    monkeypatch.setattr(Watch, "note", note)
    path = bundles["new"].path
    running = deployment(vehicle, folder, path, shadow_s=0.0, watch_s=0.2, clock=time.monotonic)
    thread = threading.Thread(target=running.run)
    thread.start()
    assert entered.wait(20)
    time.sleep(0.5)  # the watch is over by now
    go_on.set()
    thread.join(20)
    assert running.rollout.step == "rolled_back" and running.rollout.reason.startswith("late")
    all_is_as_before(vehicle, folder)


def broken(outputs: dict[str, Any]) -> None:
    raise RuntimeError("broken")


def slowly(outputs: dict[str, Any]) -> None:
    time.sleep(0.03)


def without_numbers(outputs: dict[str, Any]) -> None:
    outputs["boxes"] = outputs["boxes"] * float("nan")


@pytest.mark.parametrize(
    ("fault", "reason"),
    [(broken, "step_failed: broken"), (without_numbers, "not_finite_output"), (slowly, "too_slow")],
)
def test_a_breach_leads_back_within_a_frame(
    fault: Fault, reason: str, vehicle: Vehicle, folder: VehicleFolder, bundles: Any
) -> None:
    vehicle.fault = (8, fault)  # of which engine_ms takes five
    seen: list[str] = []
    how: dict[str, Any] = dict(shadow_s=0.0, watch_s=20.0, gate=IN_TIME if fault is slowly else GATE)
    ended = deployment(vehicle, folder, bundles["new"].path, seen.append, **how).run()
    assert ended.step == "rolled_back" and ended.reason.startswith(reason)
    assert seen[-3:] == [*BACKWARDS]
    if fault is not slowly:
        assert vehicle.served.count("new") == 4, "three good frames, and the one"
    all_is_as_before(vehicle, folder)


def test_a_bundle_that_needs_more_memory_than_there_is(
    vehicle: Vehicle, folder: VehicleFolder, bundles: dict[str, Bundle]
) -> None:
    ended = deployment(vehicle, folder, bundles["new"].path, gate="memory_mib: 1000000").run()
    assert ended.step == "refused" and ended.reason.startswith("no_memory") and len(vehicle.engines) == 1
    assert vehicle.serving().bundle.spec.name == "old"


class Priorities(EngineThreads):
    """What is asked of the threads of the new engine, among the points that are reached."""

    def __init__(self, events: list[str], refused: bool) -> None:
        super().__init__()
        self.events, self.refused = events, refused

    def low(self) -> None:
        self.events.append("low")

    def normal(self) -> None:
        self.events.append("normal")
        if self.refused and "shadowed" in self.events:
            raise PermissionError(1, "Operation not permitted")


@pytest.mark.parametrize("refused", [False, True])
def test_the_new_engines_threads_are_low_in_the_shadow_and_normal_when_it_serves(
    vehicle: Vehicle,
    folder: VehicleFolder,
    bundles: dict[str, Bundle],
    monkeypatch: pytest.MonkeyPatch,
    refused: bool,
) -> None:
    events: list[str] = []
    monkeypatch.setattr(procedure, "EngineThreads", lambda: Priorities(events, refused))
    ended = deployment(vehicle, folder, bundles["new"].path, events.append).run()
    told = [event for event in events if event in ("opening", "opened", "low", "normal", "shadowing", "switched")]
    if refused:
        assert ended.reason.startswith("low_priority: ") and "switched" not in told
        return all_is_as_before(vehicle, folder)
    assert told == ["opening", "opened", "normal", "low", "shadowing", "normal", "switched"]
    assert ended.step == "done", ended.reason


def test_a_bundle_of_somebody_else(vehicle: Vehicle, folder: VehicleFolder, bundles: dict[str, Bundle]) -> None:
    vehicle.refuses = "is not signed"
    ended = deployment(vehicle, folder, bundles["new"].path).run()
    assert (ended.step, ended.reason) == ("refused", "bad_signature: is not signed")
    all_is_as_before(vehicle, folder)


def test_a_model_that_does_not_accept_how_cameras_are_mounted(
    vehicle: Vehicle, folder: VehicleFolder, bundles: dict[str, Bundle]
) -> None:
    vehicle.otherwise = {"new": {"cam_a": "cam_a stands 2.30 m above the ground, the model accepts 1.3 to 1.7"}}
    ended = deployment(vehicle, folder, bundles["new"].path).run()
    assert ended.step == "refused" and ended.reason.startswith("other_mounts: cam_a stands 2.30 m above the ground")
    assert len(vehicle.engines) == 1, "named before anything is opened"
    all_is_as_before(vehicle, folder)
    allowed = deployment(vehicle, folder, bundles["new"].path, gate=f"{GATE}\nmounts: any").run()
    (checked,) = [line for line in journal.read(folder.path / JOURNAL).lines if line.step == "checking"][1:]
    assert allowed.step == "done" and checked.reason.startswith("other_mounts: cam_a stands")
    vehicle.otherwise = {"old": {"cam_a": "cam_a is rolled"}}
    back = deployment(vehicle, folder, Path(), rollback=True).run()
    assert back.step == "done" and vehicle.serving().bundle.spec.name == "old"
    checked = [line for line in journal.read(folder.path / JOURNAL).lines if line.step == "checking"][-1]
    assert checked.reason == "other_mounts: cam_a is rolled", "nothing keeps the model before from coming back"


@pytest.mark.parametrize("step", ["check", "open"])
def test_a_copy_is_told_by_the_name_that_was_given(
    step: str, vehicle: Vehicle, folder: VehicleFolder, bundles: dict[str, Bundle], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(bundle: Bundle, cancelled: object = None) -> None:
        raise ValueError(f"{bundle.path / 'model.onnx'} is not as it should be")

    monkeypatch.setattr(vehicle, step, refuse)
    ended = deployment(vehicle, folder, bundles["new"].path).run()
    assert ended.reason.endswith(f": {bundles['new'].path / 'model.onnx'} is not as it should be")
    assert str(folder.path) not in ended.reason


def test_the_node_asks_for_a_signature_where_it_has_a_key(tmp_path: Path, bundles: dict[str, Bundle]) -> None:
    pytest.importorskip("rclpy", reason="ROS 2 is not sourced")
    pytest.importorskip("model_signing", reason="model-signing is not installed")
    from bev_perception.ros.active_node import ActiveNode

    run: Any = SimpleNamespace(serving=None, settle=None, unlike=None)
    config: Any = None
    node = ActiveNode(run, config, lambda spec: {}, lambda model: None, print, None)
    node.check(bundles["new"])
    key = tmp_path / "key.pem"
    subprocess.run(["openssl", "ecparam", "-name", "prime256v1", "-genkey", "-noout", "-out", str(key)], check=True)
    public = tmp_path / "public.pem"
    subprocess.run(["openssl", "ec", "-in", str(key), "-pubout", "-out", str(public)], check=True, capture_output=True)
    node = ActiveNode(run, config, lambda spec: {}, lambda model: None, print, public)
    with pytest.raises(ValueError, match="is not signed"):
        node.check(bundles["new"])
    node = ActiveNode(run, config, lambda spec: {}, lambda model: None, print, tmp_path / "none.pem")
    with pytest.raises(FileNotFoundError, match=r"`deploy.public_key` names .*none\.pem, and no such file"):
        node.check(bundles["new"])


# ---- the shadow alone


def test_the_shadow_says_what_its_model_did_and_never_keeps_the_other_waiting(bundles: dict[str, Bundle]) -> None:
    old, new = (BevPipeline(b.spec, Engine(b)) for b in bundles.values())
    every = plan(Pace(100.0, 0.1), 1.0, 1.0, tiny_bundle.SPEC.temporal)
    shadow = Shadow(new, every, tiny_bundle.SPEC.classes)
    shadow.start()
    frame = pattern_frames(tiny_bundle.SPEC)[0]
    for number in range(12):
        moved = later(frame, number * STEP_NS)
        shadow.offer(moved, old.step(moved))
        deadline = time.monotonic() + 20
        while shadow.findings().seen <= number and time.monotonic() < deadline:
            time.sleep(0.002)
    assert shadow.stop()
    found = shadow.findings()
    whole = found.agreement.total()
    assert found.seen == found.agreement.frames == 12 and whole.share == 1.0 and whole.distance_m == 0.0
    assert found.boxes == (whole.both, whole.both) and (found.scores[0] == found.scores[1]).all()
    assert found.scores.sum() == 2 * whole.both and len(found.ms) == 12 and not found.errors

    class Stuck:
        spec = tiny_bundle.SPEC
        counters: dict[str, int] = {"output/not_finite": 0}  # noqa: RUF012
        entered, freed = threading.Event(), threading.Event()

        def step(self, frame: SensorFrame) -> Any:
            self.entered.set()
            self.freed.wait(30)
            raise RuntimeError("late")

    stuck: Any = Stuck()
    stuck.memory = old.memory
    shadow = Shadow(stuck, Plan(1, frozenset({0}), ""), tiny_bundle.SPEC.classes)
    shadow.start()
    detections = old.step(later(frame, 20 * STEP_NS))
    started = time.monotonic()
    for _ in range(1000):  # nobody answers, and nobody waits
        shadow.offer(frame, detections)
    assert time.monotonic() - started < 5.0
    assert stuck.entered.wait(20)
    stuck.freed.set()
    assert shadow.stop()
    assert shadow.findings().first_error == "RuntimeError: late"
    assert isinstance(shadow.findings(), Findings)
