"""What is known of a video without looking at its pixels, and the choice of its frames.

Time is that of a player's clock: presentation time since the start of the container. It is held
exactly; what is recorded or compared with what a person typed is rounded to a microsecond.
"""

from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from math import ceil, floor

from tasks.environment import as_set, whole_number
from tasks.fragments import Part
from tasks.records import Sampling, Video

MICROSECONDS = 10**6


@dataclass(frozen=True)
class VideoLimits:
    """What is looked at of a video, at most; more of it is an `ItemError`. As the environment says
    where nothing else is given."""

    max_bytes: int = as_set(
        whole_number, "MASKMILL_MAX_VIDEO_BYTES", 2 << 30, 1
    )  # if downloaded whole
    max_seconds: int = as_set(whole_number, "MASKMILL_MAX_VIDEO_S", 86_400, 1)
    max_frames: int = as_set(whole_number, "MASKMILL_MAX_FRAMES", 2_000_000, 1)
    max_pixels: int = as_set(whole_number, "MASKMILL_MAX_PIXELS", 100_000_000, 1)  # of each frame


@dataclass(frozen=True, eq=False)
class VideoIndex:
    """The frames of a video as its container tells them, all those that a player would show."""

    video: Video  # whose name is still empty
    version: str  # of the object that was read
    pts: Sequence[int]  # of each frame, in presentation order
    groups: Sequence[int]  # of each frame: the time stamp of its key frame
    end: int  # when the last frame ends, as a time stamp
    time_base: Fraction  # seconds
    start: Fraction  # seconds: the presentation time at which a player's clock stands at 0

    def time(self, frame: int) -> Fraction:
        """When it begins on a player's clock, in seconds; the one past the last where that ends."""
        stamp = self.pts[frame] if frame < len(self.pts) else self.end
        return stamp * self.time_base - self.start

    def microseconds(self, frame: int) -> int:
        """`time`, rounded as it is recorded."""
        return round(self.time(frame) * MICROSECONDS)


def chosen(index: VideoIndex, part: Part, span: Part, sampling: Sampling) -> Iterable[int]:
    """The frames asked for, in order; those asked for by number whether they are there or not."""
    if part.frame is not None:
        return [part.frame]
    frames = range(len(index.pts))
    if part.at is not None:
        moment = floor(part.at * MICROSECONDS)
        shown = bisect_right(frames, moment, key=index.microseconds) - 1
        return [max(shown, 0)] if moment <= index.microseconds(len(frames)) else []
    start, end = max(part.start, span.start), min(part.end, span.end)
    first, after = (
        bisect_left(frames, t * MICROSECONDS, key=index.microseconds) for t in (start, end)
    )
    inside = range(first, after)
    if sampling.frames:
        return [n for n in sorted(set(sampling.frames)) if n in inside or n not in frames]
    if sampling.keyframes:
        return [n for n in inside if index.groups[n] == index.pts[n]]
    if sampling.fps is not None:
        return _at_rate(index, inside, Fraction(str(sampling.fps)), Fraction(max(start, 0)), end)
    return inside[:: sampling.every or 1]


def _at_rate(
    index: VideoIndex, frames: range, rate: Fraction, start: Fraction, end: Fraction | float
) -> Iterator[int]:
    """The frame that is shown at `start` and every 1/rate seconds on; before the first, that."""
    ticks = (min(end, index.time(len(index.pts))) - start) * rate
    tick = 0
    while frames and tick < ticks:
        stamp = floor((start + tick / rate + index.start) / index.time_base)
        shown = bisect_right(index.pts, stamp) - 1
        frame = min(max(shown, frames[0]), frames[-1])
        yield frame
        frames = range(frame + 1, frames.stop)
        tick = ceil((index.time(frame + 1) - start) * rate)
