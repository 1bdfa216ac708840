"""The frames of videos, found by their presentation time stamps.

A frame depends on nothing but its group of pictures, sought and decoded afresh from the key frame
on: it is the same, and as damaged, whichever worker decodes it and whatever else it decodes.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain

import av
import numpy as np
from av.packet import Packet

from storage import StorageError, without_frame
from tasks.records import Item, ItemError, Video, VideoFrame
from worker.film import Film, Stamped
from worker.images import Pixels

_BACK_S = (0, 1, 10, 100)  # seconds before a key frame from which it is looked for
_UNSPECIFIED = 2  # of a frame's colour space
_RENEWED = ("h264", "hevc")  # whose key frames may be a point from which all is renewed in time
_HD_ROWS = 720  # from which on that is taken for BT.709


@dataclass(frozen=True)
class Shot:
    """A frame as it is stored, its video, and the degrees counter-clockwise to turn it by."""

    frame: av.VideoFrame
    video: Video
    rotation: int

    def pixels(self) -> Pixels:
        """Upright RGB, (height, width, 3), by the matrix and the range that the video names."""
        frame = self.frame
        usual = "ITU709" if frame.height >= _HD_ROWS else "ITU601"
        matrix = usual if frame.colorspace == _UNSPECIFIED else None
        rgb = frame.to_ndarray(
            format="rgb24", src_colorspace=matrix, dst_color_range="JPEG", threads=1
        )
        return np.ascontiguousarray(np.rot90(rgb, self.rotation // 90), np.uint8)


class _NotAlone(Exception):
    """A group of pictures cannot be decoded without the one before it."""


class FrameReader:
    """Reads the frames of a shard, in one thread; in their order it decodes no group twice."""

    def __init__(self, max_bytes: int, max_pixels: int) -> None:
        self.decoded = 0  # packets
        self._limits = max_bytes, max_pixels
        self._of = ("", "")
        self._film: Film | None = None
        self._wrong: ItemError | None = None
        self._groups: set[int] = set()  # that the decoder has gone through, or begun
        self._asked = 0
        self._frames: Iterator[av.VideoFrame] = iter(())

    def read(self, item: Item) -> Shot:
        """Raises ItemError, or the error of a store."""
        assert item.frame is not None
        of = (without_frame(item.uri), item.version or "")
        if of != self._of:
            self.close()
            self._of = of
        if self._wrong is None:
            try:
                if self._film is None:
                    self._film = Film(*of, *self._limits)
                    self._film.fetch_groups()
                if frame := self._found(self._film, item.frame):
                    name = item.frame.video or item.file_name.rpartition("/")[0]
                    return Shot(frame, self._film.video(name), self._film.rotation)
            except ItemError as exc:
                self._wrong = exc
            except StorageError:
                self.close()
                raise
        damaged = "the video is damaged there, or does not have this frame"
        raise self._wrong or ItemError("decode", "damaged", damaged)

    def close(self) -> None:
        if self._film is not None:
            self._film.close()
        self._of, self._film, self._wrong, self._groups = ("", ""), None, None, set()

    def _found(self, film: Film, wanted: VideoFrame) -> av.VideoFrame | None:
        if wanted.group not in self._groups or wanted.pts <= self._asked:
            self._groups = {wanted.group}
            self._frames = self._decode(film, wanted.group)
        self._asked = wanted.pts
        for frame in self._frames:
            if frame.pts == wanted.pts:
                return frame
            if (frame.pts or 0) > wanted.pts:
                self._frames = chain([frame], self._frames)
                break
        return None

    def _decode(self, film: Film, group: int) -> Iterator[av.VideoFrame]:
        """The frames from a key frame on.

        Where leading pictures refer to the group before, or all pictures are renewed little by
        little, it is decoded behind that: without, a decoder takes sound pictures for damaged.
        """
        try:
            yield from self._sound(film, group, False)
        except _NotAlone:
            yield from self._sound(film, group, True)

    def _sound(self, film: Film, group: int, before: bool) -> Iterator[av.VideoFrame]:
        """None at or behind a bad packet in decode order, and none if the key frame is not."""
        decoder = film.decoder()
        begun = decoder.name not in _RENEWED
        sound: set[int | None] = set()
        for pts, packet in chain(_packets_of(film, group, before), [(group, None)]):
            frames = _fed(decoder, packet)
            self.decoded += packet is not None
            is_bad = frames is None and pts >= group
            if is_bad:
                self._groups = {each for each in self._groups if each <= pts}
                frames, packet = _fed(decoder, None), None
            elif packet is not None:
                sound |= {pts} if pts >= group else set()
                self._groups |= {pts} if packet.is_keyframe else set()
            shown = [each for each in frames or () if each.pts in sound]
            is_begin = not begun and bool(shown or packet is None)
            alone = not is_begin or [each.pts for each in shown[:1]] == [group]
            if not before and (pts < group or not alone):
                raise _NotAlone
            if not alone:
                return
            begun |= is_begin
            yield from shown
            if is_bad:
                return


def _fed(
    decoder: av.VideoCodecContext, packet: "Packet[av.VideoStream] | None"
) -> list[av.VideoFrame] | None:
    """The frames that a packet completes, or None the last ones; None for what is bad."""
    try:
        frames = decoder.decode(packet)
    except av.FFmpegError:
        return None
    is_bad = packet is not None and packet.is_corrupt
    return None if is_bad else [each for each in frames if not each.is_corrupt]


def _packets_of(film: Film, group: int, before: bool) -> Iterator[Stamped]:
    """In decode order to the end of the group, and of those that go on from it."""
    following: list[Stamped] = []
    for pts, packet in _packets_from(film, group, before):
        if following and pts > following[0][0]:
            return
        yield from following
        following = [(pts, packet)] if packet.is_keyframe and pts > group else []
        if not following:
            yield pts, packet


def _packets_from(film: Film, group: int, before: bool) -> Iterator[Stamped]:
    """From a key frame on, or from one before it; none where it is not found."""
    for back in (*_BACK_S, None):
        if back is None:
            film.rewind()
        else:
            film.seek(group - before - round(back / film.time_base))
        packets = film.packets()
        for pts, packet in packets:
            is_before = pts < group or back is None
            if packet.is_keyframe and (is_before if before else pts == group):
                return chain([(pts, packet)], packets)
            if packet.is_keyframe and pts >= group:
                break
    return iter(())
