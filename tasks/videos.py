"""What is known of a video without looking at its pixels, and the choice of its frames.

A person names frames by fragments of words, and by a sampling of what these leave.

Time is that of a player's clock: presentation time since the start of the container. It is held
exactly; what is recorded or compared with what a person typed is rounded to a microsecond.
"""

import re
from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from math import ceil, floor, inf

from tasks.environment import as_set, whole_number
from tasks.records import Sampling, Video

MICROSECONDS = 10**6

_FRAGMENT = re.compile(r"(?=.*[0-9])(?:frame=([0-9]{1,15})|t=([0-9.:]*)(,?)([0-9.:]*))")
_CLOCK = re.compile(r"(?:(?:([0-9]{1,9}):)?([0-9]{1,9}):)?([0-9]{1,9}(?:\.[0-9]*)?)")


class InputError(Exception):
    """An INPUT that cannot be planned, in one sentence that names the first offender."""


@dataclass(frozen=True)
class Part:
    """Of a video: one frame, by its number or when it is shown, or those of a span of time."""

    fragment: str = ""  # as it was given, without the #; empty for the whole
    frame: int | None = None
    at: Fraction | None = None
    start: Fraction | float = -inf  # seconds: frames from here on …
    end: Fraction | float = inf  # … and before this


def split_fragment(word: str) -> tuple[str, Part | None]:
    """What stands before `#t=12.48`, `#t=10,20` or `#frame=374`, and the part that this is."""
    head, _, fragment = word.rpartition("#")
    found = _FRAGMENT.fullmatch(fragment)
    if not head or found is None:
        return word, None
    frame, start, comma, end = found.groups()
    if frame:
        return head, Part(fragment, frame=int(frame))
    if not comma:
        return head, Part(fragment, at=_clock(start))
    return head, _span(start, end, fragment)


def span_of(sampling: Sampling) -> Part:
    """From when to when; a sampling that cannot be is refused."""
    names = ("fps", "every", "keyframes", "frames")
    choices = [f"--{name}" for name in names if getattr(sampling, name)]
    if len(choices) > 1:
        raise InputError(f"{choices[0]} and {choices[1]} exclude each other; give one of them")
    if sampling.fps is not None and not 0 < sampling.fps < inf:
        raise InputError(f"--fps takes a number above 0, not {sampling.fps}")
    return _span(sampling.from_, sampling.to)


def _span(start: str | float, end: str | float, fragment: str = "") -> Part:
    first, last = -inf if start == "" else _clock(start), inf if end == "" else _clock(end)
    if first >= last:
        raise InputError(f"no frame of a video is both from {start} on and before {end}")
    return Part(fragment, start=first, end=last)


def _clock(text: str | float) -> Fraction:
    found = _CLOCK.fullmatch(str(text))
    if found is None:
        raise InputError(f"{text} is no time of a video: it takes seconds or h:mm:ss")
    hours, minutes, seconds = found.groups("0")
    return 3600 * int(hours) + 60 * int(minutes) + Fraction(seconds)


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
