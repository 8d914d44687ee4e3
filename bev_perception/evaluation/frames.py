"""A recording -> SensorFrames, through the intake and synchroniser of the node, with the node's rules for faults."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from bev_perception.bags.recording import Recording, UnreadableMessage, open_bag, warn
from bev_perception.bags.storage import BagError, Channel, Note
from bev_perception.measurements import Measurements
from bev_perception.model_spec import ModelSpec
from bev_perception.parameters import NodeConfig
from bev_perception.sensors.intake import SensorIntake, Source, other_type
from bev_perception.structures import ODOMETRY, SensorFrame
from bev_perception.sync import FrameSynchronizer


def read_frames(
    bag: str | Path, spec: ModelSpec, config: NodeConfig, note: Note = warn
) -> Iterator[tuple[int, SensorFrame]]:
    """(record time ns, frame) of every frame the synchroniser makes of a recording; see frames_of. Raises BagError."""
    taken = Measurements(config.sync_config(spec))
    with open_bag(bag, note) as recording:
        yield from frames_of(recording, config, SensorIntake(config, taken), FrameSynchronizer(taken))


def frames_of(
    recording: Recording,
    config: NodeConfig,
    intake: SensorIntake,
    synchronizer: FrameSynchronizer,
    watch: Callable[[float], None] = lambda share: None,
) -> Iterator[tuple[int, SensorFrame]]:
    """(record time ns, frame) of every frame of an open recording, in order; see `hear`.

    Raises BagError where the recording has none of the topics that the parameters name.
    """
    present = {c.topic for c in recording.connections}
    measured = {ODOMETRY, *config.cameras}
    needed = {source.topic for source in intake.sources if source.sensor in measured}
    if not needed & present:
        raise BagError(
            f"{recording.path} has none of the topics that the parameters name ({', '.join(sorted(needed))}); "
            f"it has {', '.join(sorted(present)) or 'no topics'}"
        )
    for record_ns in hear(recording, intake, intake.sources, synchronizer.taken, watch):
        for frame in synchronizer.poll():
            yield record_ns, frame


def hear(
    recording: Recording,
    intake: SensorIntake,
    sources: Sequence[Source],
    taken: Measurements,
    watch: Callable[[float], None] = lambda share: None,
) -> Iterator[int]:
    """Record time (ns) of each message of the sources' topics, after the intake was given it.

    Time ends with the last message, as it does for a node that listens to a player's /clock. What cannot be used is
    refused by the intake, counted and reported as in the node; a message of another type as `wrong_type`, a damaged one
    as `message_damaged`. watch(share) is told after each message how much of the recording's time has been read, 0
    where that is not known.
    """
    listeners: dict[str, list[Source]] = {}
    for source in sources:
        listeners.setdefault(source.topic, []).append(source)
    start_ns, length_ns = recording.start_ns, recording.end_ns - recording.start_ns
    for channel, record_ns, raw in recording.messages(set(listeners)):
        for source in listeners[channel.topic]:
            taken.advance(record_ns)
            _take(intake, source, recording, channel, record_ns, raw)
            yield record_ns
        watch((record_ns - start_ns) / length_ns if length_ns else 0.0)


def absent_topics(recording: Recording, sources: Sequence[Source]) -> dict[str, str]:
    """Sensor -> what to look at, of the sources whose topic the recording lacks."""
    kinds = {c.topic: c.msgtype for c in recording.connections}
    taken = {source.topic for source in sources}
    found = {}
    for source in sources:
        if source.topic not in kinds:
            alike = sorted(topic for topic, kind in kinds.items() if kind == source.kind and topic not in taken)
            instead = f"of its type, {source.kind}, it has {', '.join(alike) or 'no other'}"
            found[source.sensor] = f"{source.sensor}: {source.topic} is not in the recording; {instead}"
    return found


def _take(
    intake: SensorIntake, source: Source, recording: Recording, channel: Channel, record_ns: int, raw: bytes
) -> None:
    """One message to the intake. Whatever it holds, it costs itself alone."""
    if channel.msgtype != source.kind:
        intake.refuse(source.sensor, "wrong_type", other_type(source, f"{channel.msgtype} in the recording"))
        return
    if intake.is_too_large(source, raw):
        return
    try:
        message: Any = recording.deserialize(raw, channel)
    except UnreadableMessage as error:
        intake.refuse(source.sensor, "message_damaged", str(error))
        return
    try:
        intake.take(source, message, record_ns)
    except Exception as error:
        intake.refuse(source.sensor, "conversion_failed", f"{source.topic}: {type(error).__name__}: {error}")
