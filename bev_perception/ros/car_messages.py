"""The messages of bev_perception.ros.car: pictures, returns and ego motion in the kinds that the node takes."""

from __future__ import annotations

import array
from collections.abc import Callable, Mapping, Sequence
from fractions import Fraction
from typing import Any

import cv2
import numpy as np
from geometry_msgs.msg import PoseStamped, TransformStamped, TwistStamped
from nav_msgs.msg import Odometry
from sensor_msgs.msg import CameraInfo, CompressedImage, Image, PointCloud2, PointField
from tf2_msgs.msg import TFMessage

from bev_perception.geometry import quaternion_from_rotation
from bev_perception.parameters import NodeConfig
from bev_perception.sensors.odometry_messages import TF_TOPIC
from bev_perception.structures import ODOMETRY

RETURNS = 125
FIELDS = ("x", "y", "z", "rcs", "vx_comp", "vy_comp")
KEYFRAMES = 4


def scenery(width: int, height: int, phase: float) -> np.ndarray:
    """(height, width, 3) uint8: a sky, a road and some things on it, which move with the phase (rad)."""
    v, u = np.mgrid[0:height, 0:width]
    sky = np.stack([200 - 60 * v / height, 170 - 40 * v / height, 140 - 20 * v / height], axis=-1)
    road = np.stack([90 + 30 * np.sin(u / width * 40 + v / height * 25 + phase + k) for k in range(3)], axis=-1)
    image = np.where((v > height * 0.45)[..., None], road, sky)
    for k in range(5):
        x = int(width * (0.5 + 0.45 * np.sin(phase + 1.3 * k)))
        corner = (x, int(height * (0.4 + 0.05 * k)))
        far = (x + width // 14, int(height * (0.52 + 0.06 * k)))
        cv2.rectangle(image, corner, far, (40.0 * k, 200.0 - 30 * k, 60.0 + 35 * k), -1)
    return np.asarray(image, dtype=np.uint8)


def camera_info(width: int, height: int, frame_id: str) -> CameraInfo:
    focal = 0.8 * width
    message = CameraInfo(width=width, height=height, distortion_model="plumb_bob", d=[0.0] * 5)
    message.k = [focal, 0.0, width / 2 - 0.5, 0.0, focal, height / 2 - 0.5, 0.0, 0.0, 1.0]
    message.r = np.eye(3).ravel()
    message.p = np.insert(np.reshape(message.k, (3, 3)), 3, 0.0, axis=1).ravel()
    message.header.frame_id = frame_id
    return message


def returns(seed: int) -> np.ndarray:
    """(RETURNS, 6) float32 of FIELDS: in front of the radar, most of them standing."""
    rng = np.random.default_rng(seed)
    points = rng.normal(0, 1, (RETURNS, len(FIELDS))).astype(np.float32)
    points[:, 0] = rng.uniform(2, 80, RETURNS)
    points[:, 1] *= 10
    points[:, 2:3] *= 0.2
    points[:, 3] *= 8
    points[:, 4:] *= 0.5
    return points


def to_cloud(points: np.ndarray, frame_id: str) -> PointCloud2:
    """(P, 6) float32 of FIELDS -> message."""
    step = 4 * len(FIELDS)
    message = PointCloud2(width=len(points), height=1, point_step=step, row_step=step * len(points), is_dense=True)
    message.fields = [
        PointField(name=name, offset=4 * i, datatype=PointField.FLOAT32, count=1) for i, name in enumerate(FIELDS)
    ]
    message.data = array.array("B", np.ascontiguousarray(points, np.float32).tobytes())
    message.header.frame_id = frame_id
    return message


def to_image(bgr: np.ndarray, frame_id: str) -> Image:
    """(H, W, 3) uint8 -> message."""
    height, width = bgr.shape[:2]
    message = Image(width=width, height=height, encoding="bgr8", step=3 * width)
    message.data = array.array("B", np.ascontiguousarray(bgr).tobytes())
    message.header.frame_id = frame_id
    return message


def to_jpeg(bgr: np.ndarray, frame_id: str) -> CompressedImage:
    """(H, W, 3) uint8 -> message."""
    return _compressed("bgr8; jpeg compressed bgr8", cv2.imencode(".jpg", bgr)[1].tobytes(), frame_id)


def to_png(bgr: np.ndarray, frame_id: str) -> CompressedImage:
    """(H, W, 3) uint8 -> message."""
    return _compressed("bgr8; png compressed bgr8", cv2.imencode(".png", bgr)[1].tobytes(), frame_id)


def to_nv12(bgr: np.ndarray, frame_id: str) -> Image:
    """(H, W, 3) uint8, both even -> message: a plane of luma, one of both chromas at half the size."""
    height, width = bgr.shape[:2]
    luma, u, v = np.split(cv2.cvtColor(bgr, cv2.COLOR_BGR2YUV_I420).ravel(), [width * height, width * height * 5 // 4])
    message = Image(width=width, height=height, encoding="nv12", step=width)
    message.data = array.array("B", np.concatenate([luma, np.stack([u, v], axis=1).ravel()]).tobytes())
    message.header.frame_id = frame_id
    return message


def to_h264(views: Sequence[np.ndarray], frame_id: str) -> list[CompressedImage]:
    """A stream that can begin again after its end; a keyframe in every KEYFRAMES. Raises ImportError without PyAV."""
    import av

    encoder: Any = av.CodecContext.create("libx264", "w")
    encoder.height, encoder.width = views[0].shape[:2]
    encoder.pix_fmt, encoder.time_base, encoder.framerate = "yuv420p", Fraction(1, 12), 12
    encoder.gop_size, encoder.options = KEYFRAMES, {"tune": "zerolatency", "preset": "ultrafast", "crf": "10"}
    packets = []
    for k, view in enumerate(views):
        frame = av.VideoFrame.from_ndarray(view, format="bgr24")
        frame.pts = k
        packets += [bytes(packet) for packet in encoder.encode(frame)]
    packets += [bytes(packet) for packet in encoder.encode(None)]
    return [_compressed("h264", packet, frame_id) for packet in packets]


def _compressed(format_: str, data: bytes, frame_id: str) -> CompressedImage:
    message = CompressedImage(format=format_)
    message.data = array.array("B", data)
    message.header.frame_id = frame_id
    return message


def _each(make: Callable[[np.ndarray, str], Any]) -> Callable[[Sequence[np.ndarray], str], list[Any]]:
    return lambda views, frame_id: [make(view, frame_id) for view in views]


# How a camera may send its images -> what makes the messages of (H, W, 3) views, one after the other.
PICTURES: dict[str, Callable[[Sequence[np.ndarray], str], list[Any]]] = {
    "bgr8": _each(to_image),
    "jpeg": _each(to_jpeg),
    "png": _each(to_png),
    "nv12": _each(to_nv12),
    "h264": to_h264,
}


def to_scan(points: np.ndarray, frame_id: str) -> Any:
    """(P, 6) float32 of FIELDS -> radar_msgs/RadarScan of a radar that moves with the car's speed along x."""
    from radar_msgs.msg import RadarReturn, RadarScan

    message = RadarScan()
    message.header.frame_id = frame_id
    for x, y, z, rcs, vx, vy in points.astype(float):
        distance = float(np.sqrt(x * x + y * y + z * z))
        item = RadarReturn(range=distance, azimuth=float(np.arctan2(y, x)), elevation=float(np.arcsin(z / distance)))
        item.doppler_velocity, item.amplitude = float((x * vx + y * vy) / distance), rcs
        message.returns.append(item)
    return message


# A radar's kind, of RADAR_KINDS -> what makes its message of (P, 6) returns.
SCANS: dict[str, Callable[[np.ndarray, str], Any]] = {"cloud": to_cloud, "scan": to_scan}


def motion(config: NodeConfig, speed_mps: float) -> list[tuple[str, str, Any]]:
    """(kind, topic, message) of what the parameters want to hear the ego motion from, at the start, straight ahead."""
    odometry, base = config.odometry, config.base_frame
    if odometry.source == "odometry":
        whole = Odometry(child_frame_id=base)
        whole.header.frame_id = odometry.frame
        whole.pose.pose.orientation.w, whole.twist.twist.linear.x = 1.0, speed_mps
        return [(ODOMETRY, odometry.topic, whole)]
    if odometry.source == "tf":
        return [("tf", TF_TOPIC, to_transforms(odometry.frame, {base: np.eye(4)}))]
    pose, twist = PoseStamped(), TwistStamped()
    pose.header.frame_id, twist.header.frame_id = odometry.frame, base
    pose.pose.orientation.w, twist.twist.linear.x = 1.0, speed_mps
    return [("pose", odometry.pose_topic, pose), ("twist", odometry.twist_topic, twist)]


def move(message: Any, x: float) -> None:
    """The car is at x (m) now; a message that says nothing of that stays as it is."""
    if isinstance(message, Odometry):
        message.pose.pose.position.x = x
    elif isinstance(message, PoseStamped):
        message.pose.position.x = x
    elif isinstance(message, TFMessage):
        message.transforms[0].transform.translation.x = x


def to_transforms(parent: str, poses: Mapping[str, np.ndarray]) -> TFMessage:
    """{child frame: parent_from_child (4, 4)} -> message."""
    message = TFMessage()
    for child, pose in poses.items():
        transform = TransformStamped(child_frame_id=child)
        transform.header.frame_id = parent
        body, (w, x, y, z) = transform.transform, quaternion_from_rotation(pose[:3, :3])
        body.translation.x, body.translation.y, body.translation.z = (float(value) for value in pose[:3, 3])
        body.rotation.w, body.rotation.x, body.rotation.y, body.rotation.z = float(w), float(x), float(y), float(z)
        message.transforms.append(transform)
    return message
