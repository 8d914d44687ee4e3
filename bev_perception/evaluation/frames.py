"""A recording -> SensorFrames, through the intake and the synchroniser of the node."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from bev_perception.evaluation.bag import BagError, bag_topics, read_bag
from bev_perception.intake import SensorIntake, Source
from bev_perception.measurements import Measurements
from bev_perception.model_spec import ModelSpec
from bev_perception.parameters import NodeConfig
from bev_perception.structures import Composition, SensorFrame
from bev_perception.sync import FrameSynchronizer


def read_frames(
    bag: str | Path,
    spec: ModelSpec,
    config: NodeConfig,
    taken: Measurements | None = None,
    again: Mapping[int, Composition] | None = None,
    tell: Callable[[str, str, str], None] = lambda sensor, reason, detail: None,
) -> Iterator[tuple[int, SensorFrame]]:
    """(record time ns, frame) of every frame the synchroniser makes of a recording, in order.

    again: stamp -> composition of the frames of another run over the same drive, which are made again as they were.
    Time ends with the last message, as it does for a node that listens to a player's /clock. Raises BagError where
    the recording has none of the topics that the parameters name.
    """
    taken = taken or Measurements(config.sync_config(spec))
    intake, synchronizer = SensorIntake(config, taken, tell), FrameSynchronizer(taken, again)
    present = set(bag_topics(bag))
    needed = {config.odometry_topic} | {c.topic for c in config.cameras.values()}
    if not needed & present:
        raise BagError(
            f"{bag} has none of the topics that the parameters name ({', '.join(sorted(needed))}); "
            f"it has {', '.join(sorted(present)) or 'no topics'}"
        )
    listeners: dict[str, list[Source]] = {}
    for source in intake.sources:
        listeners.setdefault(source.topic, []).append(source)
    for message in read_bag(bag, set(listeners)):
        for source in listeners[message.topic]:
            intake.take(source, message.message, message.record_ns)
            for frame in synchronizer.poll():
                yield message.record_ns, frame
