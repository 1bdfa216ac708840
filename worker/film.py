"""A video that is open: its frames, its packets, its decoder, and what it says of itself.

FFmpeg is given nothing but a file object and may open nothing else, and reads only containers that
hold their frames themselves: no playlist leads anywhere.
"""

from array import array
from bisect import bisect_right
from collections.abc import Iterator
from contextlib import closing, suppress
from fractions import Fraction
from itertools import chain, islice
from typing import cast

import av
from av.codec.context import ThreadType
from av.container import InputContainer
from av.packet import Packet
from av.stream import Discard, Disposition

from tasks.records import ItemError, Video
from tasks.videos import MICROSECONDS, VideoIndex, VideoLimits
from worker.images import check_pixels
from worker.ranges import BOXES, Ranges, bytes_of

_OPTIONS = {
    "protocol_whitelist": "",
    "format_whitelist": "mov,matroska,avi,mpegts,mpeg,flv,asf,ogg",
}

_NO_VIDEO = "it is no MP4, MOV, MKV, WebM, AVI, MPEG, TS, FLV, WMV or Ogg, or it begins with damage"
_NO_TIMES = "it is an AVI that does not say when each frame is shown: convert it to MP4"
_OF_DECODERS = (
    *("extradata", "codec_tag", "width", "height", "bits_per_coded_sample"),
    *("color_range", "colorspace"),
)
_TRIED = 64  # packets at most until a frame says how it is turned
_VP8_SHOWN = 1 << 4  # in the first byte of a frame (RFC 6386, section 9.1)

Stamped = tuple[int, "Packet[av.VideoStream]"]  # with its presentation time stamp


class Film:
    def __init__(self, uri: str, version: str, max_bytes: int, max_pixels: int) -> None:
        """Of any version where it is "". Raises ItemError, or the error of a store."""
        self.source = bytes_of(uri, version, max_bytes)
        self._max_pixels = max_pixels
        try:
            self.rewind()
            self.rotation = self._rotation()
            self.rewind()
        except av.FFmpegError as exc:
            self.source.close()
            raise ItemError("decode", "not-a-video", _NO_VIDEO) from exc
        except BaseException:
            self.source.close()
            raise

    def rewind(self) -> None:
        """Open it once more: not all containers can be sought in."""
        options = _OPTIONS | {"max_pixels": str(self._max_pixels)}
        self.source.seek(0)
        self.is_movie = self.source.read(8)[4:] in BOXES
        if self.is_movie:  # its tables say which frames are key frames
            options["fflags"] = "noparse"
        self.source.seek(0)
        self._container: InputContainer = av.open(
            self.source, "r", options=options, metadata_errors="replace"
        )
        streams = self._container.streams
        shown = (each for each in streams.video if not each.disposition & Disposition.attached_pic)
        stream = next((each for each in shown if each.codec_context is not None), None)
        if stream is None:
            raise ItemError("decode", "no-frames", "it holds no pictures that can be decoded")
        for each in streams:
            each.discard = Discard.default if each is stream else Discard.all
        timed = (each for each in (*streams.video, *streams.audio) if each.start_time is not None)
        starts = (Fraction(each.start_time or 0) * (each.time_base or 1) for each in timed)
        self.start = min(starts, default=Fraction(0))
        self.time_base, self._stream = stream.time_base or Fraction(1), stream
        self._check()

    def _check(self) -> None:
        context = self._stream.codec_context
        if context.width and context.height:  # not every stream says so ahead of its frames
            check_pixels(context.width, context.height, self._max_pixels)
        in_disorder = context.has_b_frames and context.name in ("h264", "hevc")
        if in_disorder and self._container.format.name == "avi":
            raise ItemError("decode", "no-times", _NO_TIMES)

    def _rotation(self) -> int:
        """Degrees counter-clockwise; the first frame says it, if one of the first packets does."""
        tried = (packet for _, packet in islice(self.packets(), _TRIED))
        for packet in chain(tried, [None]):  # those of a short video wait for its end
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
        if seen.format is not None:  # PyAV 17 does not survive asking for an unknown pix_fmt
            made.pix_fmt = seen.format.name
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
        is_vp8 = self._stream.codec_context.name == "vp8" and not self.is_movie
        return not packet.is_discard and not (is_vp8 and not bytes(packet)[0] & _VP8_SHOWN)

    def fetch_groups(self) -> None:
        """Have a store asked for groups of pictures from now on."""
        if isinstance(self.source, Ranges):
            entries = self._stream.index_entries
            end = max((each.pos + each.size for each in entries), default=0)
            self.source.groups = [*sorted(each.pos for each in entries if each.is_keyframe), end]

    def close(self) -> None:
        self._container.close()
        self.source.close()


def look(uri: str, version: str | None, limits: VideoLimits) -> VideoIndex:
    """Which frames a video has and when each is shown, told from its packets and not its pixels.

    Raises ItemError for what is wrong with the video; a store that is away passes through.
    """
    with closing(Film(uri, version or "", limits.max_bytes, limits.max_pixels)) as film:
        times, keys, end = array("q"), array("q"), 0
        latest = (limits.max_seconds + film.start) / film.time_base
        film.source.blind = film.is_movie and not film.source.in_fragments
        for pts, packet in film.packets():
            if packet.is_keyframe:
                keys.append(pts)
            if film.shows(packet):
                times.append(pts)
                end = max(end, pts + (packet.duration or 1))
            if len(times) > limits.max_frames or end > latest:
                most = f"{limits.max_frames:,} frames (MASKMILL_MAX_FRAMES)"
                longest = f"{limits.max_seconds:,} seconds (MASKMILL_MAX_VIDEO_S)"
                raise ItemError("decode", "too-long", f"it has more than {most} or {longest}")
        groups = _groups(sorted(keys), sorted(set(times)))
        if not groups:
            raise ItemError("decode", "no-frames", "it holds no frame that can be decoded")
        frames = array("q", groups), array("q", groups.values())
        return VideoIndex(
            film.video(), film.source.version, *frames, end, film.time_base, film.start
        )


def _groups(keys: list[int], times: list[int]) -> dict[int, int]:
    """The key frame of each time; frames before all key frames cannot be decoded."""
    places = ((time, bisect_right(keys, time)) for time in times)
    return {time: keys[place - 1] for time, place in places if place}
