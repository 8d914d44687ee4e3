"""Some seconds of a live system through a RigListener."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from bev_perception.model_spec import ModelSpec
from bev_perception.parameters import NodeConfig
from bev_perception.rig.listener import RigListener
from bev_perception.rig.summary import Offer, Summary
from bev_perception.rig.survey import SURVEYED, Survey, Surveyor
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
    return listener.finish("live", seconds, _offers(found), live=True)


def survey_live(seconds: float) -> Survey:
    """What is published within so many seconds. Raises ImportError without ROS."""
    from bev_perception.ros.listen import listen, topics_there

    surveyor = Surveyor()
    sources = [
        Source(topic, topic, kind, lambda message: None)
        for topic, offers in topics_there().items()
        for kind in sorted({offer.kind for offer in offers} & set(SURVEYED))
    ]

    def take(source: Source, raw: bytes, make: Callable[[], Any], now_ns: int) -> None:
        surveyor.take(source.topic, source.kind, make(), now_ns)

    return surveyor.finish(_offers(listen(sources, take, seconds)))


def _offers(found: Mapping[str, Sequence[Any]]) -> dict[str, tuple[Offer, ...]]:
    return {topic: tuple(Offer(p.kind, p.reliable, p.latched) for p in all_) for topic, all_ in found.items()}
