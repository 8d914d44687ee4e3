"""Images and radars read from their bytes are those that rclpy reads; what is too large is not read at all."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("rclpy", reason="ROS 2 is not sourced")

from builtin_interfaces.msg import Time
from rclpy.serialization import deserialize_message, serialize_message
from sensor_msgs.msg import Image, PointCloud2, PointField
from std_msgs.msg import Header

from bev_perception.sensors.radar_messages import RADAR_KINDS, RadarFields, read_radar
from bev_perception.sensors.serialised import MAX_FIELDS, READERS, count_returns, read_cloud, read_image

FIELDS = ("height", "width", "encoding", "is_bigendian", "step")


def some_image(rng: np.random.Generator) -> Image:
    """Texts of every length, so that every alignment comes."""
    letters = "".join(rng.choice(list("abcö_/8"), rng.integers(0, 12)))
    data = rng.integers(0, 256, rng.integers(0, 50), np.uint8)
    sec, nanosec = int(rng.integers(-(2**31), 2**31)), int(rng.integers(0, 10**9))
    return Image(
        header=Header(stamp=Time(sec=sec, nanosec=nanosec), frame_id=letters),
        height=int(rng.integers(0, 2**32)),
        width=int(rng.integers(0, 2**32)),
        encoding="bgr8"[: rng.integers(0, 5)] + letters[:3],
        is_bigendian=int(rng.integers(0, 256)),
        step=int(rng.integers(0, 2**32)),
        data=data.tobytes(),
    )


def test_every_field_of_every_alignment() -> None:
    rng = np.random.default_rng(3)
    for _ in range(300):
        serialised = serialize_message(some_image(rng))
        ours, theirs = read_image(serialised), deserialize_message(serialised, Image)
        assert {name: getattr(ours, name) for name in FIELDS} == {name: getattr(theirs, name) for name in FIELDS}
        assert (ours.header.stamp.sec, ours.header.stamp.nanosec, ours.header.frame_id) == (
            theirs.header.stamp.sec, theirs.header.stamp.nanosec, theirs.header.frame_id,
        )  # fmt: skip
        assert ours.data.tobytes() == theirs.data.tobytes()


def test_a_writer_with_the_high_bytes_first_is_read() -> None:
    typesys = pytest.importorskip("rosbags.typesys", reason="rosbags is part of the evaluation extra")
    typestore = typesys.get_typestore(typesys.Stores.ROS2_JAZZY)
    message = deserialize_message(serialize_message(some_image(np.random.default_rng(5))), Image)
    native = typestore.deserialize_cdr(serialize_message(message), "sensor_msgs/msg/Image")
    ours = read_image(bytes(typestore.serialize_cdr(native, "sensor_msgs/msg/Image", little_endian=False)))
    assert {name: getattr(ours, name) for name in FIELDS} == {name: getattr(message, name) for name in FIELDS}
    assert ours.header.stamp.sec == message.header.stamp.sec and ours.data.tobytes() == message.data.tobytes()


def test_pixels_are_not_copied() -> None:
    serialised = serialize_message(Image(data=bytes(1000)))
    assert np.shares_memory(read_image(serialised).data, np.frombuffer(serialised, np.uint8))


def test_what_is_cut_anywhere_is_an_error() -> None:
    rng = np.random.default_rng(4)
    for _ in range(20):
        serialised = serialize_message(some_image(rng))
        end = len(serialised) - -len(read_image(serialised).data) % 4  # padding may follow
        for cut in range(end - 3 if end > 3 else 0):
            with pytest.raises(ValueError, match="no serialised Image"):
                read_image(serialised[:cut])


def header(rng: np.random.Generator) -> Header:
    return Header(stamp=Time(sec=int(rng.integers(1, 9)), nanosec=5), frame_id="r" * int(rng.integers(0, 9)))


def some_cloud(rng: np.random.Generator) -> PointCloud2:
    names = ["".join(rng.choice(list("abc_"), rng.integers(1, 9))) for _ in range(rng.integers(0, 6))]
    fields = [
        PointField(name=name, offset=int(rng.integers(0, 2**32)), datatype=int(rng.integers(0, 256)), count=3)
        for name in names
    ]
    words = {n: int(rng.integers(0, 2**32)) for n in ("height", "width", "point_step", "row_step")}
    data = rng.integers(0, 256, rng.integers(0, 50), np.uint8).tobytes()
    flags = {n: bool(rng.integers(0, 2)) for n in ("is_bigendian", "is_dense")}
    return PointCloud2(header=header(rng), fields=fields, data=data, **words, **flags)


def test_clouds_of_every_alignment() -> None:
    rng = np.random.default_rng(5)
    for _ in range(300):
        serialised = serialize_message(some_cloud(rng))
        ours, theirs = read_cloud(serialised), deserialize_message(serialised, PointCloud2)
        for name in ("height", "width", "point_step", "row_step", "is_bigendian", "is_dense"):
            assert getattr(ours, name) == getattr(theirs, name), name
        assert [vars(f) for f in ours.fields] == [
            {"name": f.name, "offset": f.offset, "datatype": f.datatype, "count": f.count} for f in theirs.fields
        ]
        assert ours.data.tobytes() == theirs.data.tobytes() and ours.header.frame_id == theirs.header.frame_id
        assert count_returns("sensor_msgs/msg/PointCloud2", serialised) == theirs.height * theirs.width
    assert np.shares_memory(ours.data, np.frombuffer(serialised, np.uint8))


@pytest.mark.parametrize("kind", ["scan", "tracks"])
def test_radar_messages_of_every_alignment_make_the_same_scan(kind: str) -> None:
    """Bit for bit: a live run reads the bytes, a replay the objects."""
    msgs = pytest.importorskip("radar_msgs.msg", reason="radar_msgs is not built")
    rng = np.random.default_rng(6)
    fields = RADAR_KINDS[kind].fields or RadarFields()
    for _ in range(100):
        count = int(rng.integers(0, 7))
        if kind == "scan":
            rows = rng.uniform(-1.5, 90, (count, 5)) * (1, 0.01, 0.01, 1, 1)
            names = ("range", "azimuth", "elevation", "doppler_velocity", "amplitude")
            returns = [msgs.RadarReturn(**dict(zip(names, row.tolist()))) for row in rows]
            message = msgs.RadarScan(header=header(rng), returns=returns)
        else:
            message = msgs.RadarTracks(header=header(rng), tracks=[msgs.RadarTrack() for _ in range(count)])
            for track in message.tracks:
                for vector in (track.position, track.velocity, track.acceleration, track.size):
                    vector.x, vector.y, vector.z = rng.uniform(-50, 50, 3).tolist()
                track.classification = 7
        serialised = serialize_message(message)
        name = RADAR_KINDS[kind].message
        ours = read_radar(READERS[name](serialised), "R", fields, kind=kind)[0]
        theirs = read_radar(deserialize_message(serialised, type(message)), "R", fields, kind=kind)[0]
        assert ours.points.tobytes() == theirs.points.tobytes() and ours.stamp_ns == theirs.stamp_ns
        assert len(ours.points) == count == count_returns(name, serialised)
        if count:
            for cut in range(4, len(serialised) - 100, 7):
                with pytest.raises(ValueError, match="no serialised Radar"):
                    READERS[name](serialised[:cut])


def test_a_cloud_that_is_cut_or_has_fields_without_end_is_an_error() -> None:
    rng = np.random.default_rng(7)
    for _ in range(10):
        serialised = serialize_message(some_cloud(rng))
        for cut in range(len(serialised) - 8):
            with pytest.raises(ValueError, match="no serialised PointCloud2"):
                read_cloud(serialised[:cut])
    many = PointCloud2(fields=[PointField(name="x")] * (MAX_FIELDS + 1))
    with pytest.raises(ValueError, match="257 fields, at most 256"):
        read_cloud(serialize_message(many))


def test_what_has_no_returns_or_is_cut_has_none() -> None:
    assert count_returns("sensor_msgs/msg/Image", serialize_message(Image(height=9, width=9))) == 0
    assert count_returns("sensor_msgs/msg/PointCloud2", bytes(3)) == 0
