"""The node keeps what it heard: by the service and when a sensor fails, over DDS; the bag is trained on as it is."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("rclpy", reason="needs ROS 2")
pytest.importorskip("onnx", reason="the tiny bundle needs onnx")

import tiny_bundle
from lifecycle_msgs.msg import Transition
from node_rig import START, Rig, running_node
from std_srvs.srv import Trigger

from bev_perception.bags.metadata import read_metadata
from bev_perception.bags.recording import open_bag
from bev_perception.parameters import parse_yaml
from bev_perception.ring.bag import PARAMS

# Files of the node may have so many bytes: to it, that is a disk that is full.
LIMIT = 60_000
SMALL_DISK = (
    "-c",
    f"import resource, runpy; resource.setrlimit(resource.RLIMIT_FSIZE, ({LIMIT}, {LIMIT})); "
    "runpy.run_module('bev_perception.ros.node', run_name='__main__')",
)


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("bundle")
    tiny_bundle.write_bundle(path)
    return path


def active(rig: Rig) -> None:
    for transition in (Transition.TRANSITION_CONFIGURE, Transition.TRANSITION_ACTIVATE):
        assert rig.change_state(transition)
    rig.drive_until_detection()


def drive_for(rig: Rig, seconds: float, **keywords: Any) -> None:
    end = time.monotonic() + seconds
    rig.drive_until(lambda: time.monotonic() > end, "time to pass", **keywords)


def ask(rig: Rig) -> Trigger.Response:
    client = rig.node.create_client(Trigger, "/bev_perception/keep")
    assert client.wait_for_service(timeout_sec=60)
    future = client.call_async(Trigger.Request())
    rig.drive_until(future.done, "an answer of ~/keep")
    return future.result()


def bags(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if not path.name.startswith(".")) if folder.is_dir() else []


def test_a_bag_for_whoever_asks_and_for_a_sensor_that_fails(bundle: Path, tmp_path: Path) -> None:
    kept = tmp_path / "kept"
    values = {"ring.folder": str(kept), "ring.seconds": 4.0, "ring.after_s": 0.5, "ring.pause_s": 3600.0,
              "ring.triggers": ["asked", "sensor_fault"], "sync.silence_ms": 2000.0}  # fmt: skip
    with running_node(tmp_path, bundle, tiny_bundle.SPEC, **values) as (process, rig):
        active(rig)
        drive_for(rig, 4.0)
        assert bags(kept) == []
        drive_for(rig, 2.0, without=("cam_a",))
        rig.drive_until(lambda: bags(kept), "a bag of the fault", without=("cam_a",), timeout_s=120.0)
        (first,) = bags(kept)
        facts = read_metadata(first)["custom_data"]
        assert facts["trigger"] == "sensor_fault" and "cam_a" in facts["reason"]
        drive_for(rig, 1.0)
        rig.drive_until(lambda: rig.sensor("cam_a").state == 0, "the camera to be back")
        drive_for(rig, 2.0, without=("cam_a",))
        rig.drive_until(lambda: "ring_rate_limited" in rig.counters(), "the second to be too early", without=("cam_a",))
        assert bags(kept) == [first]
        drive_for(rig, 4.0)
        answer = ask(rig)
        assert answer.success, answer.message
        rig.drive_until(lambda: len(bags(kept)) == 2, "the bag that was asked for")
        second = max(bags(kept), key=lambda path: path.stat().st_mtime)
        assert read_metadata(second)["custom_data"]["trigger"] == "asked"
        rig.drive_until(lambda: rig.counters().get("ring_bag_written") == 2, "both to be counted")
        assert process.alive()
        assert [path.name for path in kept.iterdir() if path.name.startswith(".")] == []
    with open_bag(second) as recording:
        found = {channel.topic: 0 for channel in recording.connections}
        for channel, _, raw in recording.messages():
            found[channel.topic] += 1
            recording.deserialize(raw, channel)
        assert recording.end_ns - recording.start_ns < 5e9
    assert min(found[f"/{name}"] for name in ("camera/cam_a/image_raw", "odometry", "radar/radar_a/points")) > 5
    trained_on(kept, bundle, tmp_path / "pool")


def trained_on(kept: Path, bundle: Path, work: Path) -> None:
    """The folder of bags is a pool, without a word about topics."""
    pytest.importorskip("nuscenes", reason="needs nuscenes-devkit")
    pytest.importorskip("torch", reason="needs torch")
    from training.data.nuscenes import open_nuscenes
    from training.data_engine.opening import open_pool

    source, drives = open_pool(kept, "v1.0-trainval", "train", work, bundle=bundle)
    keyframes = open_nuscenes(source, drives, tiny_bundle.SPEC)
    assert len({drive.rpartition("-")[0] for drive in drives}) == 2 and len(keyframes) >= 8
    assert set(keyframes[0].cameras) == {"cam_a", "cam_b"} and np.isfinite(keyframes[0].global_from_ego).all()
    again, _ = open_pool(kept, "v1.0-trainval", "train", work, bundle=bundle)
    assert again == source


def test_raw_images_become_jpeg(bundle: Path, tmp_path: Path) -> None:
    kept = tmp_path / "kept"
    values = {"ring.folder": str(kept), "ring.after_s": 0.1, "ring.jpeg_quality": 90, "ring.triggers": ["asked"]}
    with running_node(tmp_path, bundle, tiny_bundle.SPEC, **values) as (_, rig):
        active(rig)
        drive_for(rig, 4.0)
        assert ask(rig).success
        rig.drive_until(lambda: bags(kept), "a bag")
    (bag,) = bags(kept)
    with open_bag(bag) as recording:
        topics = {channel.topic: channel for channel in recording.connections}
        assert "/camera/cam_a/image_raw" not in topics
        images = [(c, raw) for c, _, raw in recording.messages() if c.topic == "/camera/cam_a/image_raw/compressed"]
        assert len(images) >= 2 and bytes(recording.deserialize(images[0][1], images[0][0]).data[:2]) == b"\xff\xd8"
    params = parse_yaml(bag / PARAMS)
    assert params["cameras.cam_a.compressed"] is True and params["radar_fields.y"] == "y"
    assert params["cameras.cam_a.topic"] == "/camera/cam_a/image_raw/compressed"


@pytest.mark.parametrize(
    ("start", "more", "reason"),
    [(SMALL_DISK, {"ring.seconds": 30.0}, "ring_disk_full"), (START, {"ring.folder_mib": 1}, "ring_folder_full")],
)
def test_a_full_disk_has_a_name_and_costs_the_bag_alone(
    bundle: Path,
    tmp_path: Path,
    start: tuple[str, ...],
    more: dict[str, Any],
    reason: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("FASTDDS_BUILTIN_TRANSPORTS", "UDPv4")  # shared memory is a file as well
    kept = tmp_path / "kept"
    kept.mkdir()
    (kept / "others").write_bytes(bytes(2**20 if reason == "ring_folder_full" else 10))
    values = {"ring.folder": str(kept), "ring.after_s": 0.0, "ring.triggers": ["asked"], **more}
    with running_node(tmp_path, bundle, tiny_bundle.SPEC, start=start, **values) as (process, rig):
        active(rig)
        drive_for(rig, 3.0)
        ask(rig)
        said: Callable[[], bool] = lambda: reason in rig.diagnostic_text()  # noqa: E731
        rig.drive_until(said, reason)
        assert reason in rig.counters() and [path.name for path in kept.iterdir()] == ["others"]
        rig.drive_until_detection()
        assert process.alive()


def test_without_a_folder_there_is_no_ring(bundle: Path, tmp_path: Path) -> None:
    with running_node(tmp_path, bundle, tiny_bundle.SPEC) as (_, rig):
        active(rig)
        services = [name for name, _ in rig.node.get_service_names_and_types()]
        assert "/bev_perception/get_state" in services and "/bev_perception/keep" not in services
