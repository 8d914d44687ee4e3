"""The running node takes another model: over real DDS, from bundles that are good, bad, or bad once they serve."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("rclpy", reason="ROS 2 is not sourced")
pytest.importorskip("bev_perception_msgs", reason="bev_perception_msgs is not built")
tiny_bundle = pytest.importorskip("tiny_bundle", reason="onnx is not installed")

import kill_points  # noqa: E402
from action_msgs.msg import GoalStatus  # noqa: E402
from deploy_rig import Deployer, start_of  # noqa: E402
from deployment_folder import named_bundle  # noqa: E402
from lifecycle_msgs.msg import Transition  # noqa: E402
from node_rig import ROOT, Rig, running_node, stamp_ns  # noqa: E402
from std_srvs.srv import Trigger  # noqa: E402

from bev_perception.bundle import MODEL  # noqa: E402
from bev_perception.deployment import journal  # noqa: E402
from bev_perception.deployment.folder import JOURNAL, RECORD  # noqa: E402
from bev_perception.deployment.procedure import POINTS  # noqa: E402
from bev_perception.stated_scores import SCORES, scores_json  # noqa: E402

GATE, IN_TIME = "frames: 3\nlatency_ratio: 100", "frames: 3"  # a busy machine has few, and they take long


@dataclasses.dataclass
class Vehicle:
    """A node that keeps its bundles in `folder`, active, and who deploys to it."""

    rig: Rig
    deployer: Deployer
    folder: Path
    work: Path

    def serving(self) -> str:
        record = json.loads((self.folder / RECORD).read_text())
        assert record["trial"] is None
        return str(record["serving"]["name"])

    def ends(self) -> list[tuple[str, str, str]]:
        """(step, verdict, named reason) of the last line of each deployment."""
        lines = journal.read(self.folder / JOURNAL).lines
        last = {line.deployment: line for line in lines if line.step != "start"}
        return [(line.step, line.verdict, line.reason.split(":")[0]) for line in last.values()]

    def publishing(self) -> str:
        return str(self.rig.drive_until_detection().model_name)


@pytest.fixture(scope="module")
def vehicle(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Vehicle]:
    work = tmp_path_factory.mktemp("deploy")
    first = tiny_bundle.write_bundle(work / "first")
    with running_node(work, first.path, first.spec, start=start_of(), **{"deploy.folder": str(work / "vehicle")}) as (
        process,
        rig,
    ):
        assert rig.change_state(Transition.TRANSITION_CONFIGURE) and rig.change_state(Transition.TRANSITION_ACTIVATE)
        rig.drive_until_detection()
        yield Vehicle(rig, Deployer(rig), work / "vehicle", work)
        assert process.alive()


def with_scores(bundle: Any, score: float) -> Any:
    row = {"mean_ap": score, "nds": score, "frames": 9, "classes": {"car": {"ground_truth": 5, "ap": score}}}
    (bundle.path / SCORES).write_text(scores_json(row, bundle.spec.onnx_sha256))
    return bundle


def spoilt(path: Path) -> Path:
    bundle = named_bundle(path, "spoilt")
    data = bytearray((path / MODEL).read_bytes())
    data[len(data) // 2] ^= 1
    (path / MODEL).write_bytes(data)
    return bundle.path


# What is deployed -> (seconds of shadow, where it ends, how, reason). It serves well until it has been proven.
BAD = {
    "spoilt": (0.0, "checking", "refused", "bad_bundle"),
    "missing": (0.0, "checking", "refused", "bad_bundle"),
    "other_sensors": (0.0, "checking", "refused", "other_sensors"),
    "already": (0.0, "checking", "refused", "already_in_service"),
    "slow": (4.0, "shadowing", "refused", "too_slow"),
    "nan": (2.0, "shadowing", "refused", "not_finite_output"),
    "nan ": (0.0, "watching", "rolled_back", "not_finite_output"),
    "raising": (0.0, "watching", "rolled_back", "step_failed"),
    "empty": (0.0, "watching", "rolled_back", "empty_output"),
    "slower": (0.0, "watching", "rolled_back", "too_slow"),
}


def bad_bundle(vehicle: Vehicle, name: str) -> Path:
    path = vehicle.work / name.replace(" ", "_again")
    if name == "spoilt":
        return spoilt(path)
    if name == "other_sensors":
        return named_bundle(path, name, cameras=("cam_a", "cam_z")).path
    if name == "already":
        return vehicle.work / "first"
    return path if name == "missing" else named_bundle(path, name.strip()).path


@pytest.mark.parametrize("name", BAD)
def test_a_bad_bundle_never_stays(vehicle: Vehicle, name: str) -> None:
    shadow_s, step, verdict, reason = BAD[name]
    before, frames = vehicle.serving(), len(vehicle.rig.detections)
    gate = IN_TIME if reason == "too_slow" else GATE
    if name == "empty":  # before they are compared, it is seen that there are none
        gate = "frames: 1000\nlatency_ratio: 100"
    result = vehicle.deployer.deploy(bad_bundle(vehicle, name), shadow_s=shadow_s, watch_s=20.0, gate=gate)
    assert (result.verdict, result.reason.split(":")[0]) == (verdict, reason)
    assert vehicle.ends()[-1] == (step, verdict, reason)
    assert vehicle.publishing() == before == vehicle.serving() == "tiny"
    seen = {message.model_name for message in vehicle.rig.detections[frames:]}
    assert seen == {"tiny"} | ({name.strip()} if verdict == "rolled_back" else set())


def test_a_good_bundle_comes_in_without_a_lost_frame_and_back_again(vehicle: Vehicle) -> None:
    higher = dict.fromkeys(tiny_bundle.SPEC.classes, 0.3)
    better = named_bundle(vehicle.work / "better", "better", score_threshold=higher)
    vehicle.rig.drive_until(lambda: vehicle.rig.status, "a status")
    frames, dropped = len(vehicle.rig.detections), vehicle.rig.status.frames_dropped
    result = vehicle.deployer.deploy(better.path, gate=GATE)
    assert (result.verdict, result.in_service_sha256) == ("done", better.spec.onnx_sha256)
    assert vehicle.publishing() == "better" == vehicle.serving()
    messages = vehicle.rig.detections[frames:]
    hashes = [message.model_sha256 for message in messages]
    changes = [i for i, (one, other) in enumerate(pairwise(hashes), 1) if one != other]
    assert len(changes) == 1 and hashes[-1] == better.spec.onnx_sha256
    last, first = (stamp_ns(message.header) for message in messages[changes[0] - 1 : changes[0] + 1])
    vehicle.rig.drive_until_detection()
    vehicle.rig.drive_until(lambda: stamp_ns(vehicle.rig.status.header) > first, "a status of after the switch")
    lost = [stamp for stamp in vehicle.rig.cycles if last < stamp < first]
    assert len(lost) <= vehicle.rig.status.frames_dropped - dropped, "only what a busy machine drops and counts"
    (switching,) = [line for line in journal.read(vehicle.folder / JOURNAL).lines if line.step == "switching"][-1:]
    if not switching.figures["states"]:  # a shadow that saw next to nothing on a busy machine
        assert not messages[changes[0]].temporal_used
    # The thresholds of its own, as nobody chose any.
    assert min(d.score for message in messages[changes[0] :] for d in message.detections) >= 0.3
    states = {state.step for state in vehicle.deployer.states}
    assert {"checking", "opening", "shadowing", "watching"} <= states
    compared = [state for state in vehicle.deployer.states if state.frames]
    assert max(state.agreement for state in compared) > 0.5
    assert sum(compared[-1].scores) and sum(compared[-1].scores_publishing), "both models found boxes"
    for state in compared:
        row = state.scores if state.step == "shadowing" else state.scores_publishing  # of the new model
        assert not sum(row[:3]), "its threshold is 0.3"
    assert compared[-1].memory_mib > 20 and not compared[-1].not_finite
    vehicle.rig.drive_until(lambda: vehicle.rig.status.deployment.step == "done", "the status to say done")

    frames = len(vehicle.rig.detections)
    back = vehicle.deployer.deploy(rollback=True)
    assert back.verdict == "done" and vehicle.publishing() == "tiny" == vehicle.serving()
    first = next(message for message in vehicle.rig.detections[frames:] if message.model_name == "tiny")
    assert not first.temporal_used
    vehicle.rig.drive_until(lambda: "memory/model_switched" in vehicle.rig.counters(), "the reset to be counted")
    again = vehicle.deployer.deploy(rollback=True)
    assert (again.verdict, again.reason.split(":")[0]) == ("refused", "nothing_before")


def test_worse_scores_are_refused(vehicle: Vehicle) -> None:
    kept = vehicle.folder / json.loads((vehicle.folder / RECORD).read_text())["serving"]["path"]
    with_scores(tiny_bundle.load_bundle(kept), 0.5)
    worse = with_scores(named_bundle(vehicle.work / "worse", "worse"), 0.4)
    result = vehicle.deployer.deploy(worse.path, gate=GATE)
    assert result.reason.startswith("worse_scores: mAP -0.1000, allowed -0.01")
    assert vehicle.ends()[-1] == ("checking", "refused", "worse_scores")


def test_one_at_a_time_and_a_rollback_ends_it(vehicle: Vehicle) -> None:
    long = named_bundle(vehicle.work / "long", "long")
    handle = vehicle.deployer.ask(long.path, shadow_s=0.0, watch_s=60.0, gate=GATE)
    ended = handle.get_result_async()
    vehicle.rig.drive_until(lambda: vehicle.rig.detections[-1].model_name == "long", "the model on trial")
    busy = vehicle.deployer.deploy(long.path)
    assert (busy.verdict, busy.reason.split(":")[0]) == ("refused", "busy")
    back = vehicle.deployer.deploy(rollback=True)
    vehicle.rig.drive_until(ended.done, "the end of what ran")
    assert back == ended.result().result and back.reason.startswith("rollback_asked: by test")
    assert vehicle.publishing() == "tiny" and vehicle.ends()[-1][:2] == ("watching", "rolled_back")
    wrong = vehicle.deployer.deploy(long.path, gate="agrement: 1")
    assert wrong.reason.startswith("bad_gate: ") and "agrement" in wrong.reason


def test_a_goal_is_cancelled_and_the_service_leads_back(vehicle: Vehicle) -> None:
    for how in ("cancel", "service"):
        handle = vehicle.deployer.ask(vehicle.work / "long", shadow_s=0.0, watch_s=60.0, gate=GATE)
        ended = handle.get_result_async()
        vehicle.rig.drive_until(lambda: vehicle.rig.detections[-1].model_name == "long", "the model on trial")
        if how == "cancel":
            other = vehicle.deployer.ask(vehicle.work / "long")  # busy: its end is its own
            asked = other.cancel_goal_async()
            vehicle.rig.drive_until(asked.done, "an answer")
            assert vehicle.publishing() == "long"
            asked = handle.cancel_goal_async()
        else:
            client = vehicle.rig.node.create_client(Trigger, "bev_perception/rollback")
            asked = client.call_async(Trigger.Request())
        vehicle.rig.drive_until(lambda: asked.done() and ended.done(), "the end")  # noqa: B023
        status, reason = ended.result().status, ended.result().result.reason
        assert (status == GoalStatus.STATUS_CANCELED) == (how == "cancel")
        assert reason.startswith({"cancel": "cancelled", "service": "rollback_asked: by the service"}[how])
        assert vehicle.publishing() == "tiny"


def test_deactivating_leads_back_first(vehicle: Vehicle) -> None:
    handle = vehicle.deployer.ask(vehicle.work / "long", shadow_s=0.0, watch_s=60.0, gate=GATE)
    ended = handle.get_result_async()
    vehicle.rig.drive_until(lambda: vehicle.rig.detections[-1].model_name == "long", "the model on trial")
    assert vehicle.rig.change_state(Transition.TRANSITION_DEACTIVATE)
    vehicle.rig.wait_for(ended.done, "the end of what ran")
    assert ended.result().result.reason.startswith("node_stopped") and vehicle.serving() == "tiny"
    assert vehicle.deployer.deploy(vehicle.work / "long").reason.startswith("not_active")
    assert vehicle.rig.change_state(Transition.TRANSITION_ACTIVATE)
    assert vehicle.publishing() == "tiny"


@pytest.mark.parametrize("point", ["copied", "switched", "accepted"])
def test_a_killed_node_comes_up_with_the_last_good_bundle(point: str, tmp_path: Path) -> None:
    """Three rows of the table in docs/redeploy.md."""
    row = kill_points.try_point("node", point, tmp_path / "row")
    assert not row.wrong and row.messages > 0


def test_the_table_of_kills_has_every_point() -> None:
    assert tuple(sorted(kill_points.NODE_POINTS)) == tuple(sorted(POINTS))
    assert (ROOT / "docs" / "redeploy.md").read_text().count("| node | `") == len(POINTS)
