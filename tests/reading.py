"""Reading videos in tests: the plain way, which is the oracle, and ours."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import closing

import av
import numpy as np

from storage.uris import of_frame
from tasks.records import Item, ItemError, VideoFrame
from tasks.videos import VideoIndex, VideoLimits
from tests.videos import number_of
from worker.film import look
from worker.frames import FrameReader

LIMITS = VideoLimits(max_bytes=1 << 30, max_seconds=86_400, max_frames=10**6, max_pixels=10**8)


def plain(path: object) -> list[tuple[int, int]]:
    """Time stamp and number of every frame, decoded from the beginning to the end."""
    with av.open(str(path)) as container:
        return [
            (frame.pts, number_of(np.rot90(frame.to_ndarray(format="rgb24"), frame.rotation // 90)))
            for frame in container.decode(video=0)
            if frame.pts is not None
        ]


def indexed(uri: object) -> VideoIndex:
    return look(str(uri), None, LIMITS)


def items_of(uri: object, index: VideoIndex, frames: Iterable[int] | None = None) -> list[Item]:
    chosen = range(len(index.pts)) if frames is None else frames
    return [
        Item(
            number + 1,
            of_frame(str(uri), number),
            f"clip/frame_{number:06d}.jpg",
            index.version,
            VideoFrame(
                number, index.pts[number], index.microseconds(number) / 1e6, index.groups[number]
            ),
        )
        for number in chosen
    ]


def read(items: Iterable[Item], reader: FrameReader | None = None) -> dict[int, int | str]:
    """Of each frame its number, or how it failed."""
    found: dict[int, int | str] = {}
    with closing(reader or FrameReader(LIMITS.max_bytes, LIMITS.max_pixels)) as reader:
        for item in items:
            assert item.frame is not None
            try:
                found[item.frame.index] = number_of(reader.read(item).pixels())
            except ItemError as exc:
                found[item.frame.index] = f"{exc.stage}/{exc.kind}"
    return found


def in_shards(items: list[Item], size: int) -> dict[int, int | str]:
    """As `read`, with a reader for every so many."""
    found: dict[int, int | str] = {}
    for start in range(0, len(items), size):
        found |= read(items[start : start + size])
    return found
