"""A recording, once, in the order in which it was recorded: listened to, surveyed, or looked at."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from bev_perception.bags.recording import Recording, UnreadableMessage, open_bag
from bev_perception.evaluation.bag import GROUND_TRUTH_TOPIC
from bev_perception.evaluation.frames import hear
from bev_perception.model_spec import ModelSpec
from bev_perception.parameters import NodeConfig
from bev_perception.rig.listener import RigListener
from bev_perception.rig.summary import Offer, Summary
from bev_perception.rig.survey import SURVEYED, Survey, Surveyor
from bev_perception.rig.views import Viewer, Views
from bev_perception.sync_config import NS

NOTES_KEPT = 20


def offers_of(recording: Recording) -> dict[str, tuple[Offer, ...]]:
    """Topic -> what was recorded there."""
    found: dict[str, tuple[Offer, ...]] = {}
    for channel in recording.connections:
        found[channel.topic] = (*found.get(channel.topic, ()), Offer(channel.msgtype, latched=channel.latched))
    return found


def listen_to_bag(
    bag: str | Path,
    config: NodeConfig,
    spec: ModelSpec,
    watch: Callable[[float], None] = lambda share: None,
    boxes: str = GROUND_TRUTH_TOPIC,
) -> Summary:
    """Everything that the node would hear of a recording, and the boxes of a topic. watch(share): as in frames_of.
    Raises BagError, CalibrationError."""
    notes: list[str] = []

    def note(text: str) -> None:
        if text not in notes and len(notes) < NOTES_KEPT:
            notes.append(text)

    listener = RigListener(config, spec, boxes)
    with open_bag(bag, note) as recording:
        first_ns = last_ns = 0
        for record_ns in hear(recording, listener.intake, listener.sources, listener.taken, watch):
            first_ns, last_ns = first_ns or record_ns, record_ns
            listener.poll()
        return listener.finish(str(bag), (last_ns - first_ns) / NS, offers_of(recording), notes)


def survey_bag(bag: str | Path, seconds: float) -> Survey:
    """What the first `seconds` of a recording have. Raises BagError."""
    surveyor = Surveyor()
    with open_bag(bag) as recording:
        wanted = {channel.topic for channel in recording.connections if channel.msgtype in SURVEYED}
        end_ns = None
        for channel, record_ns, raw in recording.messages(wanted):
            end_ns = end_ns or record_ns + round(seconds * NS)
            if record_ns > end_ns:
                break
            if channel.msgtype not in SURVEYED:
                continue
            try:
                surveyor.take(channel.topic, channel.msgtype, recording.deserialize(raw, channel), record_ns)
            except UnreadableMessage:
                continue  # the doctor tells of it
        return surveyor.finish(offers_of(recording))


def view_bag(
    bag: str | Path,
    config: NodeConfig,
    spec: ModelSpec,
    count: int,
    watch: Callable[[float], None] = lambda share: None,
) -> Views:
    """`count` moments of a recording, and what moves in its images. Raises BagError, CalibrationError."""
    with open_bag(bag) as recording:
        viewer = Viewer(config, spec, count, {channel.topic: channel.msgtype for channel in recording.connections})
        for _ in hear(recording, viewer.intake, viewer.sources, viewer.taken, watch):
            viewer.poll()
        return viewer.finish()
