"""H.264 and H.265 of a camera -> pictures, by PyAV where it is installed. The only conversion that has a memory.

A picture refers to those before it. So after a packet that was lost, or that cannot be decoded, nothing is used until
the next keyframe: a decoder would go on and show a world that never was. (FFmpeg's decoder of H.265 takes a packet
that ends too early for whole. DDS brings packets whole or not at all, so that is damage from before.)
"""

from __future__ import annotations

from collections import deque
from statistics import median
from typing import Any

import numpy as np

from bev_perception.conversions import MessageError
from bev_perception.structures import CameraFrame

# What drivers call a stream -> the decoder's name.
CODECS = {"h264": "h264", "avc": "h264", "avc1": "h264", "h265": "hevc", "hevc": "hevc", "hvc1": "hevc"}
GAP = 1.6  # times the usual step from packet to packet: one is missing
STEPS = 9  # over which it is the usual one


def codec_of(said: str) -> str:
    """The codec that `format` (CompressedImage: `h264`) or `encoding` (FFMPEGPacket: `h264;yuv420p;bgr8;bgr8`) names
    first, or "" where it is none of video."""
    return CODECS.get(said.partition(";")[0].strip().lower().replace(".", ""), "")


def is_keyframe(codec: str, data: bytes) -> bool:
    """Whether a packet (Annex B: units after 0 0 1) can be decoded without any before it."""
    position = data.find(b"\0\0\1")
    while 0 <= position < len(data) - 3:
        first = data[position + 3]
        if codec == "h264" and first & 0x1F == 5:  # IDR (ITU-T H.264, table 7-1)
            return True
        if codec == "hevc" and 16 <= first >> 1 & 0x3F <= 21:  # IRAP (ITU-T H.265, table 7-1)
            return True
        position = data.find(b"\0\0\1", position + 3)
    return False


class VideoStream:
    """The packets of one camera, in their order. Raises MessageError where PyAV is missing (`video_no_decoder`)."""

    def __init__(self, sensor: str, codec: str) -> None:
        try:
            import av
        except ImportError as error:
            raise MessageError(
                "video_no_decoder", f"{sensor} sends {codec}, but PyAV is not installed ({error}): pip install av"
            ) from error
        self.codec = codec
        self._av: Any = av
        self._sensor = sensor
        self._decoder: Any = None  # None while a keyframe is awaited
        self._last: int | None = None
        self._steps: deque[int] = deque(maxlen=STEPS)

    def decode(self, data: bytes, stamp_ns: int, position: int) -> CameraFrame | None:
        """One packet -> the picture that it completes (bgr8), or None where the decoder needs more packets first.

        position: something that grows evenly from packet to packet: its number, or its stamp. Raises MessageError:
        video_packet_lost, video_no_keyframe, video_undecodable.
        """
        keyframe = is_keyframe(self.codec, data)
        gap = self._gap(position)
        if gap and not keyframe:
            self._decoder = None
            raise MessageError("video_packet_lost", f"{gap}; the camera is used again from the next keyframe on")
        if gap or self._decoder is None:
            if not keyframe:
                raise MessageError("video_no_keyframe", "pictures refer to a keyframe that has not come (again) yet")
            self._decoder = self._open()
        packet = self._av.Packet(data)
        packet.pts = stamp_ns
        try:
            pictures = self._decoder.decode(packet)
        except self._av.error.FFmpegError as error:
            self._decoder = None
            raise MessageError("video_undecodable", f"{self.codec} packet of {len(data)} bytes: {error}") from error
        if not pictures:
            return None
        picture = pictures[-1]
        if picture.is_corrupt:
            self._decoder = None
            raise MessageError("video_undecodable", f"a damaged {self.codec} packet of {len(data)} bytes")
        pixels: np.ndarray = picture.to_ndarray(format="bgr24")
        return CameraFrame(self._sensor, int(picture.pts), "bgr8", pixels)

    def _open(self) -> Any:
        decoder = self._av.CodecContext.create(self.codec, "r")
        decoder.thread_count = 1  # frames in several threads come later by as many
        decoder.flags |= self._av.codec.context.Flags.low_delay
        decoder.options = {"err_detect": "crccheck+bitstream+buffer+explode"}  # nothing is concealed
        return decoder

    def _gap(self, position: int) -> str:
        """What is missing between the last packet and this one, or "". A stream that starts anew has a gap, too."""
        step = position - self._last if self._last is not None else 0
        first, self._last = self._last is None, position
        if first:
            return ""
        if step <= 0:
            self._steps.clear()
            return f"packet {position} comes after {position - step}"
        usual = median(self._steps) if self._steps else step
        self._steps.append(step)
        return f"{step} from the last packet to this one, {usual:g} is usual" if step > GAP * usual else ""
