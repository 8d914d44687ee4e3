"""H.264 and H.265 as cameras send them: pictures and their stamps, and nothing between a lost packet and a keyframe."""

from __future__ import annotations

import sys
from fractions import Fraction
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

pytest.importorskip("rosbags", reason="rosbags is part of the evaluation extra")
from intake_rig import MAKE, MOUNTS, NOW, Listening, info
from test_images import smooth_scene

from bev_perception.conversions import MessageError
from bev_perception.parameters import ParameterError
from bev_perception.sensors.video import VideoStream, codec_of, is_keyframe

ENCODERS = {"h264": "libx264", "hevc": "libx265"}
PERIOD, GOP = 83_333_333, 6
SCENE = smooth_scene(640, 64)


def picture(k: int) -> np.ndarray:
    """(64, 128, 3): the scene goes by."""
    return np.ascontiguousarray(SCENE[:, 8 * k : 8 * k + 128])


def packets(codec: str, count: int = 20, crop: tuple[int, int] = (64, 128), **options: str) -> list[bytes]:
    """One for each picture, a keyframe in every GOP."""
    av = pytest.importorskip("av", reason="PyAV is not installed")
    encoder = av.CodecContext.create(ENCODERS[codec], "w")
    encoder.height, encoder.width = crop
    encoder.pix_fmt, encoder.time_base, encoder.framerate, encoder.gop_size = "yuv420p", Fraction(1, 12), 12, GOP
    quiet = {"x265-params": "log-level=none"} if codec == "hevc" else {}
    encoder.options = {"tune": "zerolatency", "preset": "ultrafast", "crf": "10", **quiet, **options}
    found = []
    for k in range(count):
        frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(picture(k)[: crop[0], : crop[1]]), format="bgr24")
        frame.pts = k
        found += [bytes(packet) for packet in encoder.encode(frame)]
    return found + [bytes(packet) for packet in encoder.encode(None)]


def what_came(stream: VideoStream, given: list[tuple[int, bytes]], stamped: bool) -> dict[int, str]:
    """k -> "" for a good picture k, else the reason. Packets are numbered, or only stamped."""
    found = {}
    for k, data in given:
        stamp = NOW + k * PERIOD + (k % 3) * 4_000_000  # some jitter
        try:
            frame = stream.decode(data, stamp, stamp if stamped else k)
        except MessageError as error:
            assert error.detail
            found[k] = error.reason
            continue
        assert frame is not None and (frame.stamp_ns, frame.encoding) == (stamp, "bgr8")
        assert np.abs(frame.data.astype(int) - picture(k)).mean() < 6
        found[k] = ""
    return found


@pytest.mark.parametrize("stamped", [False, True])
@pytest.mark.parametrize("codec", ENCODERS)
def test_every_packet_gives_its_picture_at_its_stamp(codec: str, stamped: bool) -> None:
    data = packets(codec)
    assert [k for k, packet in enumerate(data) if is_keyframe(codec, packet)] == [0, 6, 12, 18]
    assert what_came(VideoStream("a", codec), list(enumerate(data)), stamped) == dict.fromkeys(range(20), "")


@pytest.mark.parametrize("stamped", [False, True])
@pytest.mark.parametrize("codec", ENCODERS)
def test_after_a_lost_packet_nothing_is_used_until_the_next_keyframe(codec: str, stamped: bool) -> None:
    given = [(k, packet) for k, packet in enumerate(packets(codec)) if k not in (8, 9, 17)]
    found = what_came(VideoStream("a", codec), given, stamped)
    lost = {10: "video_packet_lost", 11: "video_no_keyframe"}  # the keyframe 18 comes right after 17, which is lost
    assert found == dict.fromkeys((k for k, _ in given), "") | lost


@pytest.mark.parametrize("codec", ENCODERS)
def test_a_stream_is_joined_at_a_keyframe(codec: str) -> None:
    data = packets(codec)
    found = what_came(VideoStream("a", codec), list(enumerate(data))[3:], stamped=True)
    assert found == dict.fromkeys(range(3, 20), "") | dict.fromkeys(range(3, 6), "video_no_keyframe")


@pytest.mark.parametrize("codec", ENCODERS)
def test_a_stream_that_starts_over_begins_with_a_keyframe(codec: str) -> None:
    data, stream = list(enumerate(packets(codec))), VideoStream("a", codec)
    assert set(what_came(stream, data[:8], stamped=True).values()) == {""}
    assert what_came(stream, data[1:8], stamped=True)[1] == "video_packet_lost"
    assert set(what_came(stream, data[:8], stamped=True).values()) == {""}


@pytest.mark.parametrize("cut", range(4))
@pytest.mark.parametrize("codec", ENCODERS)
def test_a_packet_that_ends_before_its_unit_begins_is_no_keyframe(codec: str, cut: int) -> None:
    assert not is_keyframe(codec, b"\0\0\0\1"[: 4 - cut])


def test_another_rate_is_the_usual_one_when_most_steps_are_of_it() -> None:
    """Nine steps are remembered: the fifth of another rate turns their middle."""
    stream, position, found = VideoStream("a", "h264"), 0, []
    for step in [1] * 12 + [5] * 7:
        position += step
        with pytest.raises(MessageError) as refused:
            stream.decode(b"no keyframe", NOW, position)
        found.append(refused.value.reason)
    assert found == ["video_no_keyframe"] * 12 + ["video_packet_lost"] * 5 + ["video_no_keyframe"] * 2


def test_a_damaged_packet_is_named_and_the_next_keyframe_mends_it() -> None:
    data = packets("h264")
    data[6] = data[6][: len(data[6]) // 2]
    found = what_came(VideoStream("a", "h264"), list(enumerate(data)), stamped=True)
    assert found[6] == "video_undecodable" and set(found.values()) == {"", "video_undecodable", "video_no_keyframe"}
    assert all(found[k] == "" for k in (*range(6), *range(12, 20))) and found[7] == "video_no_keyframe"


def test_pictures_that_come_later_keep_their_own_stamps() -> None:
    """An encoder that looks ahead and back: B pictures, of which the decoder gives one per packet after a while."""
    data = packets("h264", bf="2", tune="fastdecode", preset="medium")
    stream = VideoStream("a", "h264")
    found = [stream.decode(packet, NOW + k, k) for k, packet in enumerate(data)]
    stamps = [frame.stamp_ns for frame in found if frame is not None]
    assert len(stamps) > 12 and len(set(stamps)) == len(stamps)


@pytest.mark.parametrize(
    ("said", "codec"),
    [
        ("h264", "h264"), ("H.264", "h264"), ("hevc", "hevc"), ("h265", "hevc"), ("h264;yuv420p;bgr8;bgr8", "h264"),
        ("jpeg", ""), ("", ""), ("bgr8; jpeg compressed bgr8", ""), ("mjpeg;yuvj420p;bgr8;bgr8", ""),
    ],
)  # fmt: skip
def test_codecs_by_the_names_that_drivers_use(said: str, codec: str) -> None:
    assert codec_of(said) == codec


def test_without_pyav_the_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(MessageError, match=r"video_no_decoder: cam_a sends h264, but PyAV .* pip install av"):
        VideoStream("cam_a", "h264")


def compressed(k: int, data: bytes) -> Any:
    message = MAKE.compressed_image(NOW + k * PERIOD, "cam_a", data)
    message.format = "h264"
    return message


def packet(k: int, data: bytes, encoding: str = "h264;yuv420p;bgr8;bgr8") -> Any:
    header = MAKE.header(NOW + k * PERIOD, "cam_a")
    return SimpleNamespace(header=header, width=32, height=16, encoding=encoding, pts=k, flags=0, data=data)


@pytest.mark.parametrize(("parameter", "message"), [("compressed", compressed), ("packets", packet)])
def test_the_intake_keeps_a_decoder_for_each_camera(tmp_path: Path, parameter: str, message: Any) -> None:
    listening = Listening(tmp_path, {f"cameras.cam_a.{parameter}": True})
    kinds = {"compressed": "sensor_msgs/msg/CompressedImage", "packets": "ffmpeg_image_transport_msgs/msg/FFMPEGPacket"}
    assert listening.sources["cam_a"].kind == kinds[parameter]
    data = packets("h264", crop=(16, 32))
    for k in range(8):
        if k != 3:
            listening.take("cam_a", message(k, data[k]), NOW + k * PERIOD)
    reasons = [told[1] for told in listening.told]
    assert reasons == ["video_packet_lost", "video_no_keyframe"]
    assert not listening.intake.faults and listening.newest_ns("cam_a") == NOW + 7 * PERIOD
    listening.take("tf_static", MAKE.transforms(NOW, "base_link", MOUNTS))
    listening.take("cam_a camera_info", info(lambda said: setattr(said, "width", 33)))
    listening.take("cam_a", message(8, data[8]), NOW + 8 * PERIOD)
    assert listening.told[-1][:2] == ("cam_a", "image_size_differs")


def test_other_codecs_and_both_kinds_of_message_are_refused(tmp_path: Path) -> None:
    listening = Listening(tmp_path, {"cameras.cam_a.packets": True})
    listening.take("cam_a", packet(0, b"", "av1;yuv420p;bgr8;bgr8"))
    assert listening.told[-1][:2] == ("cam_a", "image_encoding") and "h264" in listening.told[-1][2]
    with pytest.raises(ParameterError, match=r"cameras.cam_a: compressed and packets are two kinds of message"):
        Listening(tmp_path, {"cameras.cam_a.packets": True, "cameras.cam_a.compressed": True})
