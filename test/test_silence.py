"""What is said of a sensor from which nothing has come."""

from __future__ import annotations

import pytest

from bev_perception.ros.silence import never_seen_warning, nothing_on

TOPIC = "/camera/cam_front/image_raw"


@pytest.mark.parametrize(("publishers", "text"), [(0, "0 publishers"), (1, "1 publisher"), (2, "2 publishers")])
def test_the_topic_is_named_and_who_publishes_there(publishers: int, text: str) -> None:
    assert nothing_on(TOPIC, publishers) == f"nothing on {TOPIC} ({text})"


def test_the_log_says_where_to_look() -> None:
    nobody = never_seen_warning("CAM_FRONT", TOPIC, 0, 5.2)
    assert nobody.startswith(f"CAM_FRONT: never_seen: nothing on {TOPIC} (0 publishers) for 5 s; look at the topic's")
    assert "`ros2 topic list`" in nobody
    somebody = never_seen_warning("CAM_FRONT", TOPIC, 1, 60.0)
    assert "(1 publisher) for 60 s; look at a driver that runs without sending, or a DDS profile" in somebody
