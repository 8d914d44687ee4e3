"""Messages -> structures, with message classes of rosbags and rclpy alike; every malformed message has its reason."""

from __future__ import annotations

import array
import importlib
import struct
from types import SimpleNamespace

import numpy as np
import pytest

from bev_perception import conversions
from bev_perception.conversions import MessageError
from bev_perception.preprocess.encodings import RAW
from bev_perception.sensors.odometry_messages import to_ego_pose
from bev_perception.sensors.radar_messages import RadarFields, read_radar
from bev_perception.structures import RadarScan

# Bytes per pixel: of sensor_msgs/image_encodings.hpp by hand, of what it does not have by the table.
BYTES = {encoding: raw.channels for encoding, raw in RAW.items() if raw.dtype == np.uint8 and len(raw.planes) == 1} | {
    "mono8": 1, "8UC1": 1, "bayer_rggb8": 1, "bayer_bggr8": 1, "bayer_gbrg8": 1, "bayer_grbg8": 1,
    "uyvy": 2, "yuyv": 2, "yuv422": 2, "yuv422_yuy2": 2, "bgr8": 3, "rgb8": 3, "8UC3": 3, "bgra8": 4, "rgba8": 4,
}  # fmt: skip
NUSCENES = [
    ("x", 7, 1), ("y", 7, 1), ("z", 7, 1), ("dyn_prop", 1, 1), ("id", 3, 1), ("rcs", 7, 1), ("vx", 7, 1), ("vy", 7, 1),
    ("vx_comp", 7, 1), ("vy_comp", 7, 1),
]  # fmt: skip
SIZES = {1: 1, 2: 1, 3: 2, 4: 2, 5: 4, 6: 4, 7: 4, 8: 8}
CODES = {1: "b", 2: "B", 3: "h", 4: "H", 5: "i", 6: "I", 7: "f", 8: "d"}


class RosbagsTypes:
    """Message classes of rosbags, built like rclpy's: keywords, everything else zero."""

    def __init__(self) -> None:
        typesys = pytest.importorskip("rosbags.typesys")
        self.types = typesys.get_typestore(typesys.Stores.ROS2_JAZZY).types

    def make(self, kind: str, /, **values: object) -> object:
        blank = SimpleNamespace(sec=0, nanosec=0)
        cls = self.types[kind]
        defaults = {field: blank for field in cls.__dataclass_fields__ if field != "__msgtype__"}
        return cls(**{**defaults, **values})

    def image(self, **values: object) -> object:
        values["data"] = np.frombuffer(values["data"], np.uint8)
        return self.make("sensor_msgs/msg/Image", header=header(), **values)

    def cloud(self, fields: list, **values: object) -> object:
        fields = [
            self.make("sensor_msgs/msg/PointField", name=n, offset=o, datatype=d, count=c) for n, o, d, c in fields
        ]
        values["data"] = np.frombuffer(values["data"], np.uint8)
        return self.make("sensor_msgs/msg/PointCloud2", header=header(), fields=fields, **values)


class RclpyTypes:
    """The real ones."""

    def __init__(self) -> None:
        self.msg = pytest.importorskip("sensor_msgs.msg", reason="ROS 2 is not sourced")

    def image(self, **values: object) -> object:
        message = self.msg.Image(**{k: v for k, v in values.items() if k != "data"})
        message.data.frombytes(values["data"])
        message.header.stamp.sec, message.header.stamp.nanosec = 3, 5
        return message

    def cloud(self, fields: list, **values: object) -> object:
        message = self.msg.PointCloud2(**{k: v for k, v in values.items() if k != "data"})
        message.fields = [self.msg.PointField(name=n, offset=o, datatype=d, count=c) for n, o, d, c in fields]
        message.data.frombytes(values["data"])
        message.header.stamp.sec, message.header.stamp.nanosec = 3, 5
        return message


def header(frame_id: str = "") -> SimpleNamespace:
    return SimpleNamespace(stamp=SimpleNamespace(sec=3, nanosec=5), frame_id=frame_id)


@pytest.fixture(params=[RosbagsTypes, RclpyTypes])
def types(request: pytest.FixtureRequest):
    return request.param()


def scan_of(message: object, fields: RadarFields | None = None, reader: str = "numpy") -> RadarScan:
    return read_radar(message, "RADAR", fields or RadarFields(), reader)[0]


def image_values(encoding: str = "bgr8", width: int = 6, height: int = 4, padding: int = 0, seed: int = 0) -> dict:
    step = width * BYTES[encoding] + padding
    data = np.random.default_rng(seed).integers(0, 256, step * height, dtype=np.uint8).tobytes()
    return dict(encoding=encoding, width=width, height=height, step=step, data=data)


@pytest.mark.parametrize("padding", [0, 7])
@pytest.mark.parametrize("encoding", sorted(BYTES))
def test_pixels_are_where_the_definition_puts_them(types, encoding: str, padding: int) -> None:
    values = image_values(encoding, padding=padding)
    frame = conversions.to_camera_frame(types.image(**values), "CAM")
    channels = BYTES[encoding]
    assert (frame.sensor, frame.stamp_ns) == ("CAM", 3_000_000_005)
    assert frame.data.shape == ((4, 6) if channels == 1 else (4, 6, channels))
    pixels = frame.data.reshape(4, 6, channels)
    for row in range(4):
        for column in range(6):
            for channel in range(channels):
                assert (
                    pixels[row, column, channel] == values["data"][row * values["step"] + column * channels + channel]
                )


def test_pixels_are_a_view(types) -> None:
    message = types.image(**image_values())
    frame = conversions.to_camera_frame(message, "CAM")
    assert np.shares_memory(frame.data, np.frombuffer(message.data, np.uint8))


@pytest.mark.parametrize(
    "change, reason",
    [
        ({"encoding": "32FC1"}, "image_encoding"),
        ({"width": 0}, "image_size"),
        ({"height": 0}, "image_size"),
        ({"step": 17}, "image_step"),
        ({"data": bytes(71)}, "image_truncated"),
        ({"data": b""}, "image_truncated"),
        ({"height": 2**31}, "image_truncated"),
        ({"data": bytes(73)}, "image_bytes"),
        ({"data": bytes(144)}, "image_bytes"),
        ({"encoding": "nv12", "step": 6, "data": bytes(37)}, "image_bytes"),
        ({"encoding": "mono8", "width": 600, "step": 1800, "data": bytes(7200)}, "image_step"),
        ({"step": 18 + 512, "data": bytes(530 * 4)}, "image_step"),
    ],
)
def test_bad_images(types, change: dict, reason: str) -> None:
    with pytest.raises(MessageError) as error:
        conversions.to_camera_frame(types.image(**{**image_values(), **change}), "CAM")
    assert error.value.reason == reason and error.value.detail


@pytest.mark.parametrize(("encoding", "width", "step"), [("bgr8", 33, 100), ("mono8", 6, 517), ("mono8", 600, 1199)])
def test_rows_may_be_padded_to_what_memory_is_aligned_to(types, encoding: str, width: int, step: int) -> None:
    values = image_values(encoding, width, padding=step - width * BYTES[encoding])
    assert conversions.to_camera_frame(types.image(**values), "CAM").data.shape[:2] == (4, width)


def test_the_last_row_needs_no_padding(types) -> None:
    values = image_values(padding=7)
    whole = conversions.to_camera_frame(types.image(**values), "CAM").data.copy()
    cut = conversions.to_camera_frame(types.image(**{**values, "data": values["data"][:-7]}), "CAM").data
    assert np.array_equal(whole, cut)


@pytest.mark.parametrize("encoding", ["bgr8", "rgb8", "bgra8", "mono8", "bayer_rggb8"])
def test_cv_bridge_reads_the_same(encoding: str) -> None:
    pytest.importorskip("cv_bridge", reason="cv_bridge is not installed")
    message = RclpyTypes().image(**image_values(encoding, width=6))
    ours = conversions.to_camera_frame(message, "CAM", "numpy").data
    theirs = conversions.to_camera_frame(message, "CAM", "cv_bridge").data
    assert ours.shape == theirs.shape and np.array_equal(ours, theirs)


def cloud_values(
    rows: list[list[float]], fields=NUSCENES, gap: int = 3, big: bool = False, height: int = 1, pad: int = 0
):
    """PointCloud2 parts written byte by byte: `gap` bytes before every field, `pad` after every row."""
    layout, offset = [], 0
    for name, datatype, count in fields:
        offset += gap
        layout.append((name, offset, datatype, count))
        offset += SIZES[datatype] * count
    point_step = offset + gap
    order = ">" if big else "<"
    width = len(rows) // height
    data = bytearray()
    for i, row in enumerate(rows):
        point = bytearray(b"\xab" * point_step)
        for (_, at, datatype, _), value in zip(layout, row):
            struct.pack_into(order + CODES[datatype], point, at, value if datatype > 6 else int(value))
        data += point
        if width and (i + 1) % width == 0:
            data += b"\xcd" * pad
    values = dict(width=width, height=height, point_step=point_step, row_step=width * point_step + pad)
    return layout, dict(is_bigendian=big, is_dense=True, data=bytes(data), **values)


ROWS = [
    [10.0, 1.5, 0.25, 3, 7, -5.5, 1.0, 0.5, 2.0, 0.25],
    [20.0, -3.5, 0.5, 1, 8, 12.0, -4.0, 1.5, -3.0, 0.75],
    [30.5, 4.0, 0.75, 0, 9, 2.5, 0.0, 0.0, 0.5, 0.125],
    [40.0, -4.0, 1.0, 2, 300, 4.5, 3.0, 2.0, 1.5, 1.0],
]
EXPECTED = np.array([[r[0], r[1], r[2], r[5], r[8], r[9]] for r in ROWS], dtype=np.float32)


@pytest.mark.parametrize("big", [False, True])
@pytest.mark.parametrize("height, pad", [(1, 0), (2, 0), (2, 5)])
@pytest.mark.parametrize("gap", [0, 3])
def test_radar_points_of_any_layout(types, big: bool, height: int, pad: int, gap: int) -> None:
    layout, values = cloud_values(ROWS, gap=gap, big=big, height=height, pad=pad)
    scan = scan_of(types.cloud(layout, **values))
    assert scan.points.dtype == np.float32 and scan.compensated and scan.stamp_ns == 3_000_000_005
    assert np.array_equal(scan.points, EXPECTED)


@pytest.mark.parametrize("big", [False, True])
def test_of_a_field_of_many_values_the_first_is_used(types, big: bool) -> None:
    fields = [(name, datatype, 2 if name == "x" else 1) for name, datatype, _ in NUSCENES]
    layout, values = cloud_values(ROWS, fields, big=big)
    scan = scan_of(types.cloud(layout, **values))
    assert np.array_equal(scan.points, EXPECTED)


@pytest.mark.parametrize("big", [False, True])
@pytest.mark.parametrize("height, pad", [(1, 0), (2, 5)])
def test_sensor_msgs_py_reads_the_same(big: bool, height: int, pad: int) -> None:
    pytest.importorskip("sensor_msgs_py", reason="sensor_msgs_py is not installed")
    layout, values = cloud_values(ROWS, big=big, height=height, pad=pad)
    message = RclpyTypes().cloud(layout, **values)
    ours, theirs = (scan_of(message, reader=r).points for r in ("numpy", "sensor_msgs_py"))
    assert np.array_equal(ours, theirs)


def test_points_are_a_view_where_no_padding_is_between_the_rows(types) -> None:
    for height in (1, 2):
        layout, values = cloud_values(ROWS, height=height)
        message = types.cloud(layout, **values)
        assert np.shares_memory(conversions.read_points(message), np.frombuffer(message.data, np.uint8))


def test_relative_velocity_and_missing_z(types) -> None:
    layout, values = cloud_values(
        [[r[0], r[1], r[5], r[6], r[7]] for r in ROWS], [NUSCENES[i] for i in (0, 1, 5, 6, 7)]
    )
    fields = RadarFields(velocity="relative", vx="vx", vy="vy")
    scan = scan_of(types.cloud(layout, **values), fields)
    assert not scan.compensated
    assert np.array_equal(scan.points[:, 2], np.zeros(4))
    assert np.array_equal(scan.points[:, 4:], [[r[6], r[7]] for r in ROWS])


@pytest.mark.parametrize("unit", ["rad", "deg"])
def test_polar_returns_with_doppler(types, unit: str) -> None:
    """Against the definition, point by point."""
    rng = np.random.default_rng(1)
    truth = [(rng.uniform(1, 80), rng.uniform(-1, 1), rng.uniform(-0.3, 0.3), rng.uniform(-20, 20)) for _ in range(20)]
    factor = 180 / np.pi if unit == "deg" else 1.0
    fields = [("range", 8, 1), ("azimuth", 8, 1), ("elevation", 8, 1), ("doppler", 7, 1)]
    layout, values = cloud_values([[r, a * factor, e * factor, d] for r, a, e, d in truth], fields)
    map_ = RadarFields(layout="polar", angle_unit=unit, velocity="relative", vx="", vy="", doppler="doppler", rcs="")
    points = scan_of(types.cloud(layout, **values), map_).points
    for point, (r, a, e, doppler) in zip(points, truth):
        ray = np.array([np.cos(e) * np.cos(a), np.cos(e) * np.sin(a), np.sin(e)])
        assert point[:3] == pytest.approx(r * ray, rel=1e-4, abs=1e-4)
        assert point[3] == 0
        assert point[4:] == pytest.approx(doppler * ray[:2], rel=1e-3, abs=1e-4)


@pytest.mark.parametrize(("unit", "circle"), [("rad", 2 * np.pi), ("deg", 360.0)])
@pytest.mark.parametrize("angle", ["azimuth", "elevation"])
def test_angles_beyond_every_circle_are_of_another_unit(types, unit: str, circle: float, angle: str) -> None:
    """One among many is enough; what is not finite says nothing, and is left out."""
    limit = circle if angle == "azimuth" else circle / 4
    map_ = RadarFields("polar", angle_unit=unit, velocity="relative", vx="", vy="", doppler="doppler", rcs="")
    names = ["range", "azimuth", "elevation", "doppler"]

    def read(*values: float) -> RadarScan:
        rows = [[10.0, *((v, 0.0) if angle == "azimuth" else (0.0, v)), 1.0] for v in (0.0, *values)]
        layout, parts = cloud_values(rows, [(name, 7, 1) for name in names])
        return scan_of(types.cloud(layout, **parts), map_)

    assert len(read(limit, -limit, float("nan"), float("inf")).points) == 3
    for beyond in (limit * 1.01, -limit * 1.01, 1e6):
        with pytest.raises(MessageError, match=f"1 of 3 returns have an {angle} beyond") as error:
            read(0.1, beyond)
        assert error.value.reason == "return_angle" and "radars.RADAR.fields.angle_unit" in error.value.detail


def test_a_scan_in_degrees_that_is_read_as_radians_is_refused(types) -> None:
    """As a corner radar sends it: every return within 60 degrees of its axis."""
    rng = np.random.default_rng(4)
    rows = [[rng.uniform(1, 80), a, rng.uniform(-10, 10), 0.0] for a in np.linspace(-60, 60, 50)]
    layout, values = cloud_values(rows, [(n, 7, 1) for n in ("range", "azimuth", "elevation", "doppler")])
    map_ = RadarFields("polar", velocity="relative", vx="", vy="", doppler="doppler", rcs="")
    with pytest.raises(MessageError, match="return_angle: 44 of 50 returns"):
        scan_of(types.cloud(layout, **values), map_)


def test_radial_speed_of_returns_close_to_the_radar(types) -> None:
    """From a millimetre on it lies along the ray; at the radar itself there is no ray."""
    layout, values = cloud_values([[0.0, 0.0, 8.0], [0.0006, 0.0008, 5.0]], [(n, 7, 1) for n in ("x", "y", "doppler")])
    map_ = RadarFields(velocity="relative", vx="", vy="", doppler="doppler", rcs="")
    points = scan_of(types.cloud(layout, **values), map_).points
    assert points[0, 4:].tolist() == [0, 0]
    assert points[1, 4:] == pytest.approx([3.0, 4.0], rel=1e-4)


def test_empty_clouds_are_scans_that_saw_nothing(types) -> None:
    layout, values = cloud_values([])
    scan = scan_of(types.cloud(layout, **values))
    assert scan.points.shape == (0, 6)


def test_returns_that_are_not_finite_are_left_out(types) -> None:
    rows = [list(r) for r in ROWS]
    rows[1][0], rows[2][8] = float("nan"), float("inf")
    rows[3][6] = float("nan")  # vx is not used: vx_comp is
    layout, values = cloud_values(rows)
    scan, bad = read_radar(types.cloud(layout, **values), "RADAR", RadarFields())
    assert bad == 2 and np.array_equal(scan.points, EXPECTED[[0, 3]])
    layout, values = cloud_values([[float("nan")] + r[1:] for r in ROWS])
    with pytest.raises(MessageError) as error:
        scan_of(types.cloud(layout, **values))
    assert error.value.reason == "cloud_not_finite"


def test_bad_clouds(types) -> None:
    layout, values = cloud_values(ROWS)
    cases = [
        ([f for f in layout if f[0] != "vx_comp"], values, "cloud_fields"),
        ([f for f in layout if f[0] != "rcs"], values, "cloud_fields"),
        (layout + [("x", 0, 7, 1)], values, "cloud_fields"),
        ([("x", values["point_step"] - 2, 7, 1)], values, "cloud_fields"),
        ([("x", 0, 99, 1)], values, "cloud_fields"),
        (layout, {**values, "data": values["data"][:-1]}, "cloud_truncated"),
        (layout, {**values, "data": b""}, "cloud_truncated"),
        (layout, {**values, "width": 5}, "cloud_truncated"),
        (layout, {**values, "row_step": 3}, "cloud_truncated"),
        (layout, {**values, "height": 2**31}, "cloud_truncated"),
        (layout, {**values, "row_step": values["row_step"] + 1}, "cloud_truncated"),
        (layout, {**values, "data": values["data"] + bytes(1)}, "cloud_bytes"),
        (layout, {**values, "data": 2 * values["data"]}, "cloud_bytes"),
        (layout, {**values, "width": 0}, "cloud_bytes"),
        (layout, {**values, "height": 0}, "cloud_bytes"),
        ([("y", layout[0][1], 7, 1) if f[0] == "y" else f for f in layout], values, "cloud_fields"),
        ([("y", layout[0][1] + 3, 7, 1) if f[0] == "y" else f for f in layout], values, "cloud_fields"),
        ([("x", layout[0][1], 7, 3) if f[0] == "x" else f for f in layout], values, "cloud_fields"),
    ]
    for fields, parts, reason in cases:
        with pytest.raises(MessageError) as error:
            scan_of(types.cloud(fields, **parts))
        assert error.value.reason == reason


def odometry(**change: object) -> SimpleNamespace:
    def xyz(x: float, y: float, z: float) -> SimpleNamespace:
        return SimpleNamespace(x=x, y=y, z=z)

    q = change.pop("q", SimpleNamespace(w=np.cos(0.25), x=0.0, y=0.0, z=np.sin(0.25)))
    position, linear = change.pop("position", xyz(1, 2, 3)), change.pop("linear", xyz(4, 5, 6))
    return SimpleNamespace(
        header=change.pop("header", header("odom")),
        child_frame_id=change.pop("child", "base_link"),
        pose=SimpleNamespace(pose=SimpleNamespace(position=position, orientation=q)),
        twist=SimpleNamespace(twist=SimpleNamespace(linear=linear, angular=xyz(0.1, 0.2, 0.3))),
    )


def test_odometry() -> None:
    pose = to_ego_pose(odometry(), "odom", "base_link")
    c, s = np.cos(0.5), np.sin(0.5)
    assert pose.odom_from_ego == pytest.approx(np.array([[c, -s, 0, 1], [s, c, 0, 2], [0, 0, 1, 3], [0, 0, 0, 1]]))
    assert pose.linear.tolist() == [4, 5, 6] and pose.angular.tolist() == [0.1, 0.2, 0.3]
    nan = SimpleNamespace(x=float("nan"), y=0.0, z=0.0)
    zero = SimpleNamespace(w=0.0, x=0.0, y=0.0, z=0.0)
    unset = SimpleNamespace(stamp=SimpleNamespace(sec=0, nanosec=0), frame_id="odom")
    cases = [
        (odometry(header=header("map")), "wrong_frame"),
        (odometry(child="imu"), "wrong_frame"),
        (odometry(position=nan), "pose_not_finite"),
        (odometry(linear=nan), "pose_not_finite"),
        (odometry(q=zero), "pose_rotation"),
        (odometry(header=unset), "stamp_not_set"),
    ]
    for message, reason in cases:
        with pytest.raises(MessageError) as error:
            to_ego_pose(message, "odom", "base_link")
        assert error.value.reason == reason


def test_stamps_and_frames() -> None:
    assert conversions.stamp_ns(SimpleNamespace(sec=0, nanosec=1)) == 1
    for ours, theirs in (("odom", "/odom"), ("/odom", "odom"), ("", "odom")):
        conversions.check_frame(theirs, ours, "the frame")
    for ours, theirs in (("odom", "map"), ("odom", ""), ("odom", "odo")):
        with pytest.raises(MessageError, match=f"wrong_frame: the frame is '{theirs}', expected '{ours}'"):
            conversions.check_frame(theirs, ours, "the frame")


@pytest.mark.parametrize("name", ["conversions", "sensors.odometry_messages", "sensors.radar_messages"])
def test_no_ros_is_imported_by_the_conversions(name: str) -> None:
    """The offline tools use them where ROS is not installed."""
    module = f"bev_perception.{name}"
    source = importlib.util.find_spec(module).loader.get_source(module)
    for package in ("rclpy", "sensor_msgs", "nav_msgs"):
        assert f"\nimport {package}" not in source and f"\nfrom {package}" not in source


class Buffer:
    """As rosidl_buffer.Buffer of ROS 2 Lyrical is: a length and `to_bytes`, no buffer protocol, no items."""

    __hash__ = None  # type: ignore[assignment]

    def __init__(self, data: bytes) -> None:
        self._native = data

    backend_type = "cuda"

    def to_bytes(self) -> bytes:
        return self._native

    def __len__(self) -> int:
        return len(self._native)


HOLDERS = {
    "array.array": lambda data: array.array("B", data),
    "bytes": bytes,
    "bytearray": bytearray,
    "memoryview": memoryview,
    "ndarray": lambda data: np.frombuffer(data, np.uint8),
    "list": list,
    "rosidl_buffer.Buffer": Buffer,
}


@pytest.mark.parametrize("holder", HOLDERS)
def test_pixels_and_points_are_the_same_in_whatever_holds_them(holder: str) -> None:
    """What distributions of ROS 2 and readers of recordings make of a field uint8[]."""
    pixels = np.arange(4 * 24, dtype=np.uint8)
    about = {"header": header(), "is_bigendian": 0, "data": HOLDERS[holder](pixels.tobytes())}
    image = SimpleNamespace(**about, width=8, height=4, step=24, encoding="bgr8")
    np.testing.assert_array_equal(conversions.to_camera_frame(image, "CAM").data, pixels.reshape(4, 8, 3))
    planes = SimpleNamespace(**about, width=8, height=8, step=8, encoding="nv12")
    np.testing.assert_array_equal(conversions.to_camera_frame(planes, "CAM").data, pixels.reshape(12, 8))
    field = SimpleNamespace(name="x", offset=0, datatype=7, count=1)
    cloud = SimpleNamespace(**about, fields=[field], width=6, height=1, point_step=16, row_step=96)
    np.testing.assert_array_equal(conversions.read_points(cloud)["x"], pixels.view("<f4")[::4])
    jpeg = b"\xff\xd8" + bytes(20)
    short = SimpleNamespace(header=header(), format="jpeg", data=HOLDERS[holder](jpeg))
    with pytest.raises(MessageError, match="image_truncated: jpeg of 22 bytes has no header or no end"):
        conversions.to_compressed_frame(short, "CAM")


@pytest.mark.parametrize("holder", ["array.array", "bytes", "bytearray", "memoryview", "ndarray"])
def test_memory_is_looked_at_and_not_copied(holder: str) -> None:
    held = HOLDERS[holder](bytes(96))
    assert np.shares_memory(conversions.byte_view(held), np.frombuffer(held, np.uint8))
