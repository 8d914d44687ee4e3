"""ROS 2 messages of a synthetic drive, made with rosbags' typestore: no ROS installation is needed to write a bag."""

from __future__ import annotations

from typing import Any

import numpy as np
from rosbags.typesys.store import Typestore

from bev_perception.geometry import invert, quaternion_from_rotation, rotation_from_yaw, transform_points
from training.world.actors import ActorState

DETECTION_ARRAY = "bev_perception_msgs/msg/Detection3DArray"
# numpy kind and size -> sensor_msgs/PointField datatype
_POINT_FIELD = {"i1": 1, "u1": 2, "i2": 3, "u2": 4, "i4": 5, "u4": 6, "f4": 7, "f8": 8}


class Messages:
    """Builds messages. Stamps are integer nanoseconds, transforms (4, 4), lengths metres, angles radians."""

    def __init__(self, store: Typestore) -> None:
        self.store = store

    def make(self, kind: str, **fields: Any) -> Any:
        """A message of the type `pkg/Name`."""
        package, name = kind.split("/")
        return self.store.types[f"{package}/msg/{name}"](**fields)

    def header(self, stamp_ns: int, frame_id: str) -> Any:
        time = self.make("builtin_interfaces/Time", sec=stamp_ns // 10**9, nanosec=stamp_ns % 10**9)
        return self.make("std_msgs/Header", stamp=time, frame_id=frame_id)

    def vector(self, xyz: Any, kind: str = "Vector3") -> Any:
        x, y, z = (float(v) for v in xyz)
        return self.make(f"geometry_msgs/{kind}", x=x, y=y, z=z)

    def quaternion(self, rotation: np.ndarray) -> Any:
        w, x, y, z = (float(v) for v in quaternion_from_rotation(rotation))
        return self.make("geometry_msgs/Quaternion", x=x, y=y, z=z, w=w)

    def pose(self, a_from_b: np.ndarray) -> Any:
        position = self.vector(a_from_b[:3, 3], "Point")
        return self.make("geometry_msgs/Pose", position=position, orientation=self.quaternion(a_from_b[:3, :3]))

    def transforms(self, stamp_ns: int, parent: str, parent_from: dict[str, np.ndarray]) -> Any:
        """tf2_msgs/TFMessage with parent -> child for every child frame."""
        stamped = [
            self.make(
                "geometry_msgs/TransformStamped",
                header=self.header(stamp_ns, parent),
                child_frame_id=child,
                transform=self.make(
                    "geometry_msgs/Transform",
                    translation=self.vector(parent_from_child[:3, 3]),
                    rotation=self.quaternion(parent_from_child[:3, :3]),
                ),
            )
            for child, parent_from_child in parent_from.items()
        ]
        return self.make("tf2_msgs/TFMessage", transforms=stamped)

    def image(self, stamp_ns: int, frame_id: str, bgr: np.ndarray) -> Any:
        height, width = bgr.shape[:2]
        return self.make(
            "sensor_msgs/Image",
            header=self.header(stamp_ns, frame_id),
            height=height,
            width=width,
            encoding="bgr8",
            is_bigendian=0,
            step=3 * width,
            data=np.ascontiguousarray(bgr).reshape(-1),
        )

    def compressed_image(
        self, stamp_ns: int, frame_id: str, encoded: bytes, kind: str = "bgr8; jpeg compressed bgr8"
    ) -> Any:
        data = np.frombuffer(encoded, np.uint8)
        return self.make("sensor_msgs/CompressedImage", header=self.header(stamp_ns, frame_id), format=kind, data=data)

    def camera_info(self, stamp_ns: int, frame_id: str, K: np.ndarray, width: int, height: int) -> Any:
        return self.make(
            "sensor_msgs/CameraInfo",
            header=self.header(stamp_ns, frame_id),
            height=height,
            width=width,
            distortion_model="plumb_bob",
            d=np.zeros(5),
            k=np.asarray(K, dtype=np.float64).reshape(-1),
            r=np.eye(3).reshape(-1),
            p=np.hstack([K, np.zeros((3, 1))]).astype(np.float64).reshape(-1),
            binning_x=0,
            binning_y=0,
            roi=self.make("sensor_msgs/RegionOfInterest", x_offset=0, y_offset=0, height=0, width=0, do_rectify=False),
        )

    def cloud(self, stamp_ns: int, frame_id: str, points: np.ndarray) -> Any:
        """PointCloud2 from a packed structured array (P,): its fields, dtypes and record size as they are."""
        dtype = points.dtype
        fields = [
            self.make("sensor_msgs/PointField", name=name, offset=offset, datatype=_POINT_FIELD[kind.str[1:]], count=1)
            for name, (kind, offset, *_) in (dtype.fields or {}).items()
        ]
        return self.make(
            "sensor_msgs/PointCloud2",
            header=self.header(stamp_ns, frame_id),
            height=1,
            width=len(points),
            fields=fields,
            is_bigendian=False,
            point_step=dtype.itemsize,
            row_step=dtype.itemsize * len(points),
            data=np.frombuffer(points.tobytes(), np.uint8),
            is_dense=True,
        )

    def odometry(self, stamp_ns: int, odom_from_ego: np.ndarray, twist: tuple[float, float, float]) -> Any:
        """Pose of base_link in odom; twist (vx, vy m/s, yaw rate rad/s) in base_link."""
        vx, vy, yaw_rate = twist
        diagonal = np.diag([1e-4, 1e-4, 1e-4, 1e-6, 1e-6, 1e-6]).reshape(-1)
        pose = self.make("geometry_msgs/PoseWithCovariance", pose=self.pose(odom_from_ego), covariance=diagonal)
        linear, angular = self.vector((vx, vy, 0.0)), self.vector((0.0, 0.0, yaw_rate))
        return self.make(
            "nav_msgs/Odometry",
            header=self.header(stamp_ns, "odom"),
            child_frame_id="base_link",
            pose=pose,
            twist=self.make(
                "geometry_msgs/TwistWithCovariance",
                twist=self.make("geometry_msgs/Twist", linear=linear, angular=angular),
                covariance=diagonal,
            ),
        )

    def ground_truth(self, stamp_ns: int, boxes: list[Any]) -> Any:
        return self.make(
            "bev_perception_msgs/Detection3DArray",
            header=self.header(stamp_ns, "base_link"),
            model_name="",
            model_sha256="",
            sensors_used=[],
            sensors_missing=[],
            temporal_used=False,
            closed_by="",
            inputs=[],
            pose_stamp=self.make("builtin_interfaces/Time", sec=0, nanosec=0),
            poses_crc32=0,
            detections=boxes,
        )

    def true_box(self, state: ActorState, label: int, world_from_ego: np.ndarray, sensor_points: int) -> Any:
        """Detection3D of one actor, in base_link at the stamp of world_from_ego; known exactly: covariances are 0."""
        ego_from_world = invert(world_from_ego)
        ego_from_box = np.eye(4)
        ego_from_box[:3, :3] = ego_from_world[:3, :3] @ rotation_from_yaw(state.yaw)
        ego_from_box[:3, 3] = transform_points(ego_from_world, np.asarray(state.center)[None])[0]
        exact = np.zeros(36)
        linear = self.vector(ego_from_world[:3, :3] @ state.velocity)
        return self.make(
            "bev_perception_msgs/Detection3D",
            class_name=state.name,
            label=label,
            score=1.0,
            existence_probability=1.0,
            pose=self.make("geometry_msgs/PoseWithCovariance", pose=self.pose(ego_from_box), covariance=exact),
            dimensions=self.vector(state.size_lwh),
            twist=self.make(
                "geometry_msgs/TwistWithCovariance",
                twist=self.make("geometry_msgs/Twist", linear=linear, angular=self.vector((0, 0, 0))),
                covariance=exact,
            ),
            id=str(state.track_id),
            attribute=state.attribute,
            num_sensor_points=sensor_points,
        )
