"""The frames of videos, found by their presentation time stamps.

A frame depends on nothing but its group of pictures, as if that were sought and decoded afresh from
the key frame on: it is the same, and as damaged, whatever else its worker decodes.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain

import av
import numpy as np

from storage.errors import StorageError
from storage.uris import without_frame
from tasks.records import Item, Video, VideoFrame
from tasks.videos import BadVideo
from worker.film import Film, Stamped
from worker.images import Pixels

_BACK_S = (0, 1, 10, 100, 1_000_000)  # seconds before a key frame from which it is looked for
_UNSPECIFIED = 2  # of a frame's colour space
_HD_ROWS = 720  # from which on that is taken for BT.709


@dataclass(frozen=True)
class Shot:
    """A frame as it was stored, and its video."""

    frame: av.VideoFrame
    video: Video

    def pixels(self) -> Pixels:
        """Upright RGB, (height, width, 3), by the matrix and the range that the video names."""
        frame = self.frame
        usual = "ITU709" if frame.height >= _HD_ROWS else "ITU601"
        matrix = usual if frame.colorspace == _UNSPECIFIED else None
        rgb = frame.to_ndarray(
            format="rgb24", src_colorspace=matrix, dst_color_range="JPEG", threads=1
        )
        return np.ascontiguousarray(np.rot90(rgb, frame.rotation // 90), np.uint8)


class FrameReader:
    """Reads the frames of a shard, for one thread. In their order no packet is decoded twice."""

    def __init__(self, max_bytes: int, max_pixels: int) -> None:
        self.decoded = 0  # packets
        self._limits = max_bytes, max_pixels
        self._of = ("", "")
        self._film: Film | None = None
        self._wrong: BadVideo | None = None
        self._keys: set[int] = set()  # of the groups that the decoder has gone through, or begun
        self._frames: Iterator[av.VideoFrame] = iter(())
        self._asked = 0

    def read(self, item: Item) -> Shot:
        """Raises BadVideo, or the error of a store."""
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
                    name = item.file_name.rpartition("/")[0]
                    return Shot(frame, self._film.video(frame, name))
            except BadVideo as exc:
                self._wrong = exc
            except StorageError:
                self.close()
                raise
        damaged = "the video is damaged there, or does not have this frame"
        raise self._wrong or BadVideo("decode", "damaged", damaged)

    def close(self) -> None:
        if self._film is not None:
            self._film.close()
        self._of, self._film, self._wrong, self._keys = ("", ""), None, None, set()

    def _found(self, film: Film, wanted: VideoFrame) -> av.VideoFrame | None:
        if wanted.group not in self._keys or wanted.pts <= self._asked:
            self._keys = {wanted.group}
            self._frames = self._decode(film, wanted.group)
        self._asked = wanted.pts
        for frame in self._frames:
            if frame.pts == wanted.pts:
                return frame
            if (frame.pts or 0) > wanted.pts:
                self._frames = chain([frame], self._frames)
                break
        return None

    def _decode(self, film: Film, group: int, before: bool = False) -> Iterator[av.VideoFrame]:
        """The frames from a key frame on, but none at or behind a bad packet in decode order.

        Leading pictures need what is not decoded, and where they are missing H.264 may take what
        later pictures say of them for damage: then the group before is decoded as well.
        """
        sound: set[int | None] = set()
        leads = False
        film.context.flush_buffers()
        for pts, packet in _packets_from(film, group, before):
            self.decoded += 1
            frames = film.decoded(packet)
            if pts < group:
                leads = True
            elif frames is not None:
                sound.add(pts)
                self._keys |= {pts} if packet.is_keyframe else set()
            elif leads and not before and self._keys == {group}:
                yield from self._decode(film, group, before=True)
                return
            else:
                self._keys = {each for each in self._keys if each <= pts}
                break
            yield from (each for each in frames or () if each.pts in sound)
        yield from (each for each in film.decoded(None) or () if each.pts in sound)


def _packets_from(film: Film, group: int, before: bool) -> Iterator[Stamped]:
    """From a key frame on, or from one before it; none where it is not found."""
    for back in _BACK_S:
        film.seek(group - before - round(back / film.time_base))
        packets = film.packets()
        for pts, packet in packets:
            if packet.is_keyframe and (pts < group if before else pts == group):
                return chain([(pts, packet)], packets)
            if packet.is_keyframe and pts >= group:
                break
    return iter(())
