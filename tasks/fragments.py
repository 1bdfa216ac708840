"""How a person names frames of a video: fragments of words, and a sampling of what they leave."""

import re
from dataclasses import dataclass
from fractions import Fraction
from math import inf

from tasks.records import Sampling

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
