"""Videos among the inputs: what is known of one, and which of its frames are asked for.

Time is that of a player's clock: presentation time since the start of the container. It is held
exactly; what is recorded or compared with what a person typed is rounded to a microsecond.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Literal

from tasks.records import Video

MICROSECONDS = 10**6


class BadVideo(Exception):
    """What is wrong with one video: its frames end as failures. A store that is away is not."""

    def __init__(self, stage: Literal["fetch", "decode"], kind: str, message: str) -> None:
        super().__init__(message)
        self.stage, self.kind, self.message = stage, kind, message


@dataclass(frozen=True)
class VideoLimits:
    """What is looked at of a video, at most; more of it makes it a `BadVideo`."""

    max_bytes: int  # of what has to be downloaded whole
    max_seconds: int
    max_frames: int
    max_pixels: int  # of each frame


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
        """On a player's clock, in seconds."""
        return self.pts[frame] * self.time_base - self.start

    def microseconds(self, frame: int) -> int:
        """`time`, rounded as it is recorded."""
        return round(self.time(frame) * MICROSECONDS)

    def is_key(self, frame: int) -> bool:
        return self.groups[frame] == self.pts[frame]


@dataclass(frozen=True)
class Sampling:
    """Which frames of a part of a video: at most one of `fps` to `frames`; none means all."""

    fps: Fraction | None = None
    every: int | None = None
    keyframes: bool = False
    frames: tuple[int, ...] = ()
    start: Fraction | None = None  # seconds: frames from here on …
    end: Fraction | None = None  # … and before this
