"""Some seconds of a live system through a RigListener."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from bev_perception.model_spec import ModelSpec
from bev_perception.parameters import NodeConfig
from bev_perception.rig.listener import RigListener
from bev_perception.rig.summary import Offer, Summary
from bev_perception.sensors.intake import Source


def listen_live(config: NodeConfig, spec: ModelSpec, seconds: float) -> Summary:
    """Everything that the node would hear for so long. Raises CalibrationError; ImportError without ROS."""
    from bev_perception.ros.listen import listen

    listener = RigListener(config, spec)

    def take(source: Source, raw: bytes, make: Callable[[], Any], now_ns: int) -> None:
        listener.taken.advance(now_ns)
        if listener.intake.is_too_large(source, raw):
            return
        try:
            listener.intake.take(source, make(), now_ns)
        except Exception as error:  # as in the node: what anybody publishes costs itself alone
            listener.intake.refuse(source.sensor, "conversion_failed", f"{source.topic}: {error}")
        listener.poll()

    found = listen(listener.sources, take, seconds)
    topics = {topic: tuple(Offer(p.kind, p.reliable, p.latched) for p in all_) for topic, all_ in found.items()}
    return listener.finish("live", seconds, topics, live=True)
