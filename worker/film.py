"""A video that is open: its packets, its decoder, and what it says of itself.

FFmpeg is given nothing but a file object and may open nothing else, and reads only containers that
hold their frames themselves: no playlist leads anywhere.
"""

import os
from bisect import bisect_right
from collections import deque
from collections.abc import Iterator
from contextlib import suppress
from fractions import Fraction
from itertools import islice
from typing import cast

import av
from av.codec.context import ThreadType
from av.container import InputContainer
from av.packet import Packet
from av.stream import Discard, Disposition

from tasks.records import Video
from tasks.videos import MICROSECONDS, BadVideo
from worker.ranges import BOXES, Ranges, Whole, bytes_of

_OPTIONS = {
    "protocol_whitelist": "",
    "format_whitelist": "mov,matroska,avi,mpegts,mpeg,flv,asf,ogg",
}

_NO_VIDEO = (
    "it is no video that is read here (MP4, MOV, MKV, WebM, AVI, MPEG, MPEG-TS, FLV, WMV or Ogg),"
    " or its beginning is damaged"
)
_NO_TIMES = (
    "it is an AVI that stores its frames in another order than they are shown in, and does not say"
    " when they are: convert it (ffmpeg -i FILE.avi FILE.mp4)"
)
_OF_DECODERS = (
    *("extradata", "codec_tag", "width", "height", "pix_fmt", "bits_per_coded_sample"),
    *("color_range", "colorspace"),
)
_TRIED = 64  # packets at most until a frame says how it is turned
_VP8_SHOWN = 1 << 4  # in the first byte of a frame (RFC 6386, section 9.1)

Stamped = tuple[int, "Packet[av.VideoStream]"]  # with its presentation time stamp


class _File:
    """What FFmpeg reads. Errors of the store pass through it.

    While it is `blind`, the packets of an MP4 are zeros: its tables alone are read.
    """

    def __init__(self, source: Whole | Ranges) -> None:
        self._source, self.blind = source, False
        self.is_movie = source.get(0, 8)[4:] in BOXES
        self._position = 0
        self._edges, self.kinds = [0], [b""]  # where boxes, and their insides, begin; and which

    def read(self, most: int) -> bytes:
        start, end = self._position, min(self._position + most, self._source.size)
        kind = b""
        if self.is_movie and start < end:
            kind, edge = self._box(start)
            end = min(end, edge)
        is_hidden = self.blind and kind == b"mdat"
        data = bytes(end - start) if is_hidden else self._source.get(start, end)
        self._position += len(data)
        return data

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        base = {os.SEEK_SET: 0, os.SEEK_CUR: self._position, os.SEEK_END: self._source.size}
        self._position = base[whence] + offset
        return self._position

    def tell(self) -> int:
        return self._position

    def _box(self, position: int) -> tuple[bytes, int]:
        """The box inside which a position is, and where it ends, as told from the first box on."""
        size, get = self._source.size, self._source.get
        while (start := self._edges[-1]) <= position:
            head = get(start, start + 16)
            head += get(start + len(head), start + 16)  # the end of a piece may cut it
            length, header = int.from_bytes(head[:4], "big"), 8
            if length == 1:
                length, header = int.from_bytes(head[8:], "big"), 16
            fits = header <= length <= size - start
            self._edges += [start + header, start + length if fits else size + header]
            self.kinds += [head[4:8], b""]
        place = bisect_right(self._edges, position)
        return self.kinds[place - 1], self._edges[place]


class Film:
    def __init__(self, uri: str, version: str, max_bytes: int, max_pixels: int) -> None:
        """Of any version where it is "". Raises BadVideo, or the error of a store."""
        self._source = bytes_of(uri, version, max_bytes)
        self.version, self._max_pixels = self._source.version, max_pixels
        try:
            self.file = _File(self._source)
            self.rewind()
            self.rotation = self._rotation()
            self.rewind()
        except av.FFmpegError as exc:
            self._source.close()
            raise BadVideo("decode", "not-a-video", _NO_VIDEO) from exc
        except BaseException:
            self._source.close()
            raise

    def rewind(self) -> None:
        """Open it once more: not all containers can be sought in."""
        options = _OPTIONS | {"max_pixels": str(self._max_pixels)}
        if self.file.is_movie:  # its tables say which frames are key frames
            options["fflags"] = "noparse"
        self.file.seek(0)
        self._container: InputContainer = av.open(
            self.file, "r", options=options, metadata_errors="replace"
        )
        streams = self._container.streams
        shown = (each for each in streams.video if not each.disposition & Disposition.attached_pic)
        stream = next((each for each in shown if each.codec_context is not None), None)
        if stream is None:
            raise BadVideo("decode", "no-frames", "it holds no pictures that can be decoded")
        for each in streams:
            each.discard = Discard.default if each is stream else Discard.all
        timed = (each for each in (*streams.video, *streams.audio) if each.start_time is not None)
        starts = (Fraction(each.start_time or 0) * (each.time_base or 1) for each in timed)
        self.start = min(starts, default=Fraction(0))
        self.time_base, self._stream = stream.time_base or Fraction(1), stream
        self._check()

    def _check(self) -> None:
        context = self._stream.codec_context
        if context.width * context.height > self._max_pixels:
            sides = f"{context.width}×{context.height} pixels"
            limit = f"more than the limit of {self._max_pixels:,}"
            raise BadVideo("decode", "too-many-pixels", f"its frames have {sides}, {limit}")
        in_disorder = context.has_b_frames and context.name in ("h264", "hevc")
        if in_disorder and self._container.format.name == "avi":
            raise BadVideo("decode", "no-times", _NO_TIMES)

    def _rotation(self) -> int:
        """Degrees counter-clockwise; the first frame says it, if one of the first packets does."""
        for _, packet in islice(self.packets(), _TRIED):
            with suppress(av.FFmpegError):
                for frame in self._stream.codec_context.decode(packet):
                    return frame.rotation
        return 0

    def video(self, name: str = "") -> Video:
        """What it says of itself."""
        stream, context = self._stream, self._stream.codec_context
        width, height = context.width, context.height
        if self.rotation % 180:
            width, height = height, width
        seconds = Fraction(self._container.duration or 0, MICROSECONDS)
        if stream.duration is not None:
            seconds = stream.duration * self.time_base
        fps = round(float(stream.average_rate or stream.guessed_rate or 0), 6)
        codec = context.codec.canonical_name
        return Video(name, width, height, fps, round(float(seconds), 6), codec)

    def decoder(self) -> av.VideoCodecContext:
        """A new one, which errs rather than makes pixels up, and gives frames in their order.

        It has one thread, so that what is damaged is the same each time.
        """
        seen = self._stream.codec_context
        made = cast(av.VideoCodecContext, av.CodecContext.create(seen.codec, "r"))
        for name in _OF_DECODERS:
            if (value := getattr(seen, name)) is not None:
                setattr(made, name, value)
        made.thread_type, made.thread_count = ThreadType.NONE, 1
        pixels = str(self._max_pixels)
        made.options = {"err_detect": "explode", "strict": "strict", "max_pixels": pixels}
        return made

    def packets(self) -> Iterator[Stamped]:
        """In decode order, from where it stands to the end of what is there."""
        with suppress(av.FFmpegError):
            for packet in self._container.demux(self._stream):
                pts = packet.dts if packet.pts is None else packet.pts
                if packet.size and pts is not None:
                    packet.pts = pts
                    yield pts, packet

    def seek(self, pts: int) -> None:
        """To a key frame at or before a time, where one is found."""
        with suppress(av.FFmpegError):
            self._container.seek(pts, stream=self._stream)

    def shows(self, packet: "Packet[av.VideoStream]") -> bool:
        """Whether a player shows what a packet holds."""
        is_vp8 = self._stream.codec_context.name == "vp8" and not self.file.is_movie
        return not packet.is_discard and not (is_vp8 and not bytes(packet)[0] & _VP8_SHOWN)

    def fetch_groups(self) -> None:
        """Have a store asked for groups of pictures from now on."""
        if isinstance(self._source, Ranges):
            if b"moof" in self.file.kinds:  # only going through all fragments tells where they lie
                self.file.blind = True
                deque(self.packets(), maxlen=0)
                self.file.blind = False
            entries = self._stream.index_entries
            end = max((each.pos + each.size for each in entries), default=0)
            self._source.groups = [*sorted(each.pos for each in entries if each.is_keyframe), end]

    def close(self) -> None:
        self._container.close()
        self._source.close()
