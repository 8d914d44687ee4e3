"""Some seconds of a live system: listened to, surveyed, or looked at."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from bev_perception.evaluation.bag import GROUND_TRUTH_TOPIC
from bev_perception.measurements import Measurements
from bev_perception.model_spec import ModelSpec
from bev_perception.parameters import NodeConfig
from bev_perception.rig.listener import RigListener
from bev_perception.rig.summary import Offer, Summary
from bev_perception.rig.survey import SURVEYED, Survey, Surveyor
from bev_perception.rig.views import Viewer, Views
from bev_perception.sensors.intake import SensorIntake, Source


def listen_live(
    config: NodeConfig,
    spec: ModelSpec,
    seconds: float,
    use_sim_time: bool = False,
    boxes: str = GROUND_TRUTH_TOPIC,
) -> Summary:
    """Everything that the node would hear for so long, and the boxes of a topic. use_sim_time: the time is that of
    /clock, as of a bag that is played with it; here and below. Raises CalibrationError; ImportError without ROS."""
    from bev_perception.ros.listen import listen

    listener = RigListener(config, spec, boxes)
    take = _to_intake(listener.intake, listener.taken, listener.poll)
    with _ends_as_ctrl_c():
        found = listen(listener.sources, take, seconds, use_sim_time)
    return listener.finish("live", seconds, _offers(found), live=True)


def survey_live(seconds: float, use_sim_time: bool = False) -> Survey:
    """What is published within so many seconds. Raises ImportError without ROS."""
    from bev_perception.ros.listen import listen, topics_there

    surveyor = Surveyor()

    def take(source: Source, raw: bytes, make: Callable[[], Any], now_ns: int) -> None:
        surveyor.take(source.topic, source.kind, make(), now_ns)

    with _ends_as_ctrl_c():
        sources = [
            Source(topic, topic, kind, lambda message: None)
            for topic, offers in topics_there().items()
            for kind in sorted({offer.kind for offer in offers} & set(SURVEYED))
        ]
        return surveyor.finish(_offers(listen(sources, take, seconds, use_sim_time)))


@contextmanager
def _ends_as_ctrl_c() -> Iterator[None]:
    """A signal ends ROS first, and says so by an error of its own."""
    from bev_perception.ros.start import EndedEarly

    try:
        yield
    except EndedEarly:
        raise KeyboardInterrupt from None


def _offers(found: Mapping[str, Sequence[Any]]) -> dict[str, tuple[Offer, ...]]:
    return {topic: tuple(Offer(p.kind, p.reliable, p.latched) for p in all_) for topic, all_ in found.items()}


def view_live(config: NodeConfig, spec: ModelSpec, count: int, seconds: float, use_sim_time: bool = False) -> Views:
    """`count` moments of so many seconds. Raises CalibrationError; ImportError without ROS."""
    from bev_perception.ros.listen import listen, topics_there

    with _ends_as_ctrl_c():
        viewer = Viewer(config, spec, count, {topic: offers[0].kind for topic, offers in topics_there().items()})
        listen(viewer.sources, _to_intake(viewer.intake, viewer.taken, viewer.poll), seconds, use_sim_time)
    return viewer.finish()


def _to_intake(
    intake: SensorIntake, taken: Measurements, poll: Callable[[], None]
) -> Callable[[Source, bytes, Callable[[], Any], int], None]:
    """Gives what comes to the intake as the node does: what anybody publishes costs itself alone."""

    def take(source: Source, raw: bytes, make: Callable[[], Any], now_ns: int) -> None:
        taken.advance(now_ns)
        if intake.is_too_large(source, raw):
            return
        try:
            intake.take(source, make(), now_ns)
        except Exception as error:
            intake.refuse(source.sensor, "conversion_failed", f"{source.topic}: {error}")
        poll()

    return take
