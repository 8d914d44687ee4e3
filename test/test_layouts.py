"""The RViz configuration and the Foxglove layout show topics and fields that are there. The programs are not run."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from bev_perception.evaluation.bag import SCENE_TOPIC, image_boxes_topic
from bev_perception.messages import DIAGNOSTICS_TOPIC, PUBLISHERS, STATUS_TOPIC
from bev_perception.parameters import SHIPPED_BUNDLE, SHIPPED_PARAMETERS, NodeConfig, load_config

ROOT = Path(__file__).resolve().parents[1]
CONFIG = ROOT / "bev_perception" / "config"
MESSAGES = ROOT / "bev_perception_msgs" / "msg"
PUBLISHED = {f"/{PUBLISHERS['detections'].topic}": "Detection3DArray", f"/{STATUS_TOPIC}": "PerceptionStatus"}
MARKERS = f"/{PUBLISHERS['markers'].topic}"


@pytest.fixture(scope="module")
def shipped() -> NodeConfig:
    return load_config(SHIPPED_BUNDLE, SHIPPED_PARAMETERS)


@pytest.fixture(scope="module")
def layout() -> dict[str, Any]:
    found: dict[str, Any] = json.loads((CONFIG / "foxglove_layout.json").read_text())
    return found


def test_rviz_shows_all_cameras_all_radars_and_the_boxes(shipped: NodeConfig) -> None:
    manager = yaml.safe_load((CONFIG / "bev_perception.rviz").read_text())["Visualization Manager"]
    shown = {(d["Class"].split("/")[1], d["Topic"]["Value"]) for d in manager["Displays"] if "Topic" in d}
    wanted = {("Camera", c.topic) for c in shipped.cameras.values()} | {("MarkerArray", MARKERS)}
    assert shown == wanted | {("PointCloud2", r.topic) for r in shipped.radars.values()}
    assert manager["Global Options"]["Fixed Frame"] == shipped.base_frame
    names = [d["Name"] for d in manager["Displays"]]
    assert len(set(names)) == len(names)
    for display in manager["Displays"]:
        if display["Class"].endswith("/Camera"):
            assert set(display["Visibility"]) <= set(names)
            # RViz takes the calibration from beside the image
            beside = {c.topic.rpartition("/")[0] + "/camera_info": c.info_topic for c in shipped.cameras.values()}
            assert beside[display["Topic"]["Value"].rpartition("/")[0] + "/camera_info"].endswith("/camera_info")
            assert all(key == value for key, value in beside.items())


def leaves(tree: Any) -> Iterator[str]:
    if isinstance(tree, str):
        yield tree
    else:
        assert set(tree) == {"first", "second", "direction", "splitPercentage"}
        assert tree["direction"] in ("row", "column") and 0 < tree["splitPercentage"] < 100
        yield from leaves(tree["first"])
        yield from leaves(tree["second"])


def test_foxglove_has_a_place_for_each_panel(layout: dict[str, Any]) -> None:
    placed = list(leaves(layout["layout"]))
    assert sorted(placed) == sorted(layout["configById"]) and len(set(placed)) == len(placed)
    assert all(re.fullmatch(r"\w+!\w+", name) for name in placed)


def test_foxglove_shows_all_cameras_all_radars_and_the_boxes(layout: dict[str, Any], shipped: NodeConfig) -> None:
    panels = layout["configById"]
    images = [p for name, p in panels.items() if name.startswith("Image!")]
    pairs = {(p["imageMode"]["imageTopic"], p["imageMode"]["calibrationTopic"]) for p in images}
    assert pairs == {(c.topic, c.info_topic) for c in shipped.cameras.values()}
    assert all(set(p["topics"]) == {MARKERS} for p in images)
    boxes = {c.topic: image_boxes_topic(name) for name, c in shipped.cameras.items()}
    assert {p["imageMode"]["imageTopic"]: p["imageMode"]["annotations"] for p in images} == {
        topic: {boxes_topic: {"visible": True}} for topic, boxes_topic in boxes.items()
    }
    scene = panels["3D!scene"]
    assert set(scene["topics"]) == {MARKERS, SCENE_TOPIC, *(r.topic for r in shipped.radars.values())}
    assert scene["followTf"] == shipped.base_frame
    assert panels["DiagnosticSummary!health"]["topicToRender"] == DIAGNOSTICS_TOPIC


def test_foxglove_plots_fields_that_messages_have(layout: dict[str, Any]) -> None:
    panels = layout["configById"].values()
    paths = [path["value"] for p in panels for path in p.get("paths", [])] + [
        p["topicPath"] for p in panels if "topicPath" in p
    ]
    assert len(paths) >= 6
    for path in paths:
        topic, *fields = re.sub(r"\[[^]]*\]", "", path).split(".")
        kind = PUBLISHED[topic]
        for field in fields:
            text = (MESSAGES / f"{kind}.msg").read_text()
            types = dict(line.split()[1::-1] for line in text.splitlines() if re.match(r"[\w/\[\]]+ \w+$", line))
            assert field in types, f"{path}: {kind} has {sorted(types)}"
            kind = types[field].removesuffix("[]")
            if not (MESSAGES / f"{kind}.msg").exists():
                break  # of ROS itself, or a number


def test_nobody_is_told_of_a_topic_that_is_of_this_machine() -> None:
    for name in ("bev_perception.rviz", "foxglove_layout.json"):
        assert not re.search(r"/(home|root|tmp)/", (CONFIG / name).read_text())
