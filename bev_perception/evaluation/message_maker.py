"""Messages in the classes of rosbags: bags are written without ROS."""

from __future__ import annotations

import math
from typing import Any

from rosbags.typesys.store import Typestore


class MessageMaker:
    """Of the types that `store` knows. Stamps in integer nanoseconds, lengths in metres, angles in radians."""

    def __init__(self, store: Typestore) -> None:
        self.store = store

    def make(self, kind: str, **fields: Any) -> Any:
        """A message of the type `package/Name`; every field is given."""
        return self.store.types[kind.replace("/", "/msg/")](**fields)

    def time(self, stamp_ns: int, kind: str = "Time") -> Any:
        seconds, nanoseconds = divmod(stamp_ns, 1_000_000_000)
        return self.make(f"builtin_interfaces/{kind}", sec=seconds, nanosec=nanoseconds)

    def vector(self, x: float, y: float, z: float, kind: str = "Vector3") -> Any:
        return self.make(f"geometry_msgs/{kind}", x=x, y=y, z=z)

    def pose(self, x: float, y: float, z: float, yaw: float = 0.0) -> Any:
        turn = self.make("geometry_msgs/Quaternion", x=0.0, y=0.0, z=math.sin(yaw / 2), w=math.cos(yaw / 2))
        return self.make("geometry_msgs/Pose", position=self.vector(x, y, z, "Point"), orientation=turn)
