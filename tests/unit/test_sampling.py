"""Which frames of a video are asked for: exact, against an oracle that looks at each frame."""

from __future__ import annotations

from fractions import Fraction as F
from itertools import accumulate, count
from math import inf

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tasks.inputs import meant
from tasks.records import Sampling, Selection, Video
from tasks.videos import InputError, Part, VideoIndex, chosen, span_of, split_fragment

VIDEO = Video("", 64, 48, 25.0, 1.0, "h264")


def index_of(pts: list[int], end: int, base: F, start: F, keys: list[bool]) -> VideoIndex:
    groups = accumulate(
        zip(pts, keys, strict=True), lambda last, one: one if one[1] else last, initial=None
    )
    return VideoIndex(VIDEO, "v", pts, [each[0] for each in groups if each], end, base, start)


@st.composite
def indices(draw: st.DrawFn) -> VideoIndex:
    """Frames at odd distances in an odd time base, which may start late, with a few key frames."""
    steps = draw(st.lists(st.integers(1, 9), min_size=1, max_size=30))
    first = draw(st.integers(-20, 20))
    *pts, end = accumulate(steps, initial=first)
    keys = [True, *draw(st.lists(st.booleans(), min_size=len(pts) - 1, max_size=len(pts) - 1))]
    base = draw(st.sampled_from([F(1, 25), F(1001, 30000), F(1, 90000), F(1, 3), F(1, 1000)]))
    start = first * base - draw(st.sampled_from([F(0), F(1, 7), F(2)]))
    return index_of(pts, end, base, start, keys)


SECONDS = st.decimals(0, 4, places=3).map(str)
BOUNDS = st.tuples(st.one_of(st.just(""), SECONDS), st.one_of(st.just(""), SECONDS)).filter(
    lambda bounds: "" in bounds or F(bounds[0]) < F(bounds[1])
)
RATES = st.one_of(
    st.integers(1, 60).map(float), st.sampled_from([0.1, 0.3, 29.97, 1000.0, 12.5, 0.001])
)


def recorded(index: VideoIndex, frame: int) -> F:
    """The time of a frame as it is recorded."""
    exact = index.pts[frame] * index.time_base - index.start
    return F(round(exact * 10**6), 10**6)


def inside(index: VideoIndex, part: tuple[str, str], given: tuple[str, str]) -> list[int]:
    lowest = max(F(each) if each else -inf for each in (part[0], given[0]))
    highest = min(F(each) if each else inf for each in (part[1], given[1]))
    frames = range(len(index.pts))
    return [n for n in frames if lowest <= recorded(index, n) < highest]


@settings(deadline=None)  # the oracles are slow
@given(indices(), BOUNDS, BOUNDS, st.integers(1, 7), st.sets(st.integers(0, 40), min_size=1))
def test_parts_every_nth_key_frames_and_numbers(
    index: VideoIndex, part: tuple[str, str], bounds: tuple[str, str], step: int, numbers: set[int]
) -> None:
    word = "v.mp4" if part == ("", "") else f"v.mp4#t={','.join(part)}"
    asked = split_fragment(word)[1] or Part()
    expected = inside(index, part, bounds)

    def found(**how: object) -> list[int]:
        sampling = Sampling(from_=bounds[0], to=bounds[1], **how)
        return list(chosen(index, asked, span_of(sampling), sampling))

    assert found() == expected
    assert found(every=step) == expected[::step]
    keys = {n for n, pts in enumerate(index.pts) if index.groups[n] == pts}
    assert found(keyframes=True) == [n for n in expected if n in keys]
    past = [n for n in numbers if n >= len(index.pts)]
    assert found(frames=tuple(numbers)) == sorted([n for n in numbers if n in expected] + past)


@settings(deadline=None)  # the oracles are slow
@given(indices(), BOUNDS, RATES)
def test_a_rate_takes_the_frame_that_is_shown_at_each_tick(
    index: VideoIndex, bounds: tuple[str, str], rate: float
) -> None:
    span = inside(index, ("", ""), bounds)
    start, step = F(bounds[0] or 0), 1 / F(str(rate))
    over = index.end * index.time_base - index.start
    end = min(over, F(bounds[1])) if bounds[1] else over
    shown = set()
    for tick in count():
        moment = start + tick * step
        if moment >= end or not span:
            break
        before = [n for n in span if index.pts[n] * index.time_base - index.start <= moment]
        shown.add(max(before, default=span[0]))
    sampling = Sampling(fps=rate, from_=bounds[0], to=bounds[1])
    assert list(chosen(index, Part(), span_of(sampling), sampling)) == sorted(shown)


@settings(deadline=None)  # the oracles are slow
@given(indices(), SECONDS)
def test_a_moment_is_the_frame_that_is_shown_then(index: VideoIndex, moment: str) -> None:
    begun = [n for n in range(len(index.pts)) if recorded(index, n) <= F(moment)]
    over = F(round((index.end * index.time_base - index.start) * 10**6), 10**6) < F(moment)
    found = chosen(index, split_fragment(f"v.mp4#t={moment}")[1], Part(), Sampling(every=3))
    assert list(found) == ([] if over else [max(begun, default=0)])


@settings(deadline=None)  # the oracles are slow
@given(indices())
def test_a_recorded_time_finds_its_frame_again(index: VideoIndex) -> None:
    for frame in range(len(index.pts)):
        time = index.microseconds(frame) / 10**6
        if time >= 0:
            part = split_fragment(f"v.mp4#t={time:.6f}")[1]
            assert chosen(index, part, Part(), Sampling()) == [frame]


@pytest.mark.parametrize(
    ("word", "head", "part"),
    [
        ("clip.mp4", "clip.mp4", None),
        ("clip.mp4#frame=374", "clip.mp4", Part("frame=374", frame=374)),
        ("clip.mp4#t=12.48", "clip.mp4", Part("t=12.48", at=F("12.48"))),
        ("a#b#t=1:02:03.5", "a#b", Part("t=1:02:03.5", at=F("3723.5"))),
        ("clip.mp4#t=10,20", "clip.mp4", Part("t=10,20", start=F(10), end=F(20))),
        ("clip.mp4#t=,1:10", "clip.mp4", Part("t=,1:10", end=F(70))),
        ("clip.mp4#t=10,", "clip.mp4", Part("t=10,", start=F(10))),
        ("https://h/c?sig=a#t=3", "https://h/c?sig=a", Part("t=3", at=F(3))),
        ("a#frame=x", "a#frame=x", None),
        ("a#frame=1.jpg", "a#frame=1.jpg", None),
        ("a#t=", "a#t=", None),
        ("a#t=,", "a#t=,", None),
        ("#t=3", "#t=3", None),
    ],
)
def test_fragments(word: str, head: str, part: Part | None) -> None:
    assert split_fragment(word) == (head, part)


@pytest.mark.parametrize(
    ("fragment", "words"),
    [
        ("t=20,10", "no frame of a video is both from 20 on and before 10"),
        ("t=10,10", "from 10 on and before 10"),
        ("t=1.2.3", "1.2.3 is no time"),
        ("t=1:2:3:4", "1:2:3:4 is no time"),
        ("t=:3", ":3 is no time"),
        ("t=3,4:", "4: is no time"),
        ("t=" + "9" * 12, "is no time"),
    ],
)
def test_a_wrong_fragment_is_refused_in_one_sentence(fragment: str, words: str) -> None:
    with pytest.raises(InputError) as refused:
        meant(f"s3://b/clip.mp4#{fragment}")
    assert f"s3://b/clip.mp4#{fragment}: " in str(refused.value)
    assert words in str(refused.value)


@pytest.mark.parametrize(
    ("how", "words"),
    [
        ({"fps": 2.0, "every": 3}, "--fps and --every exclude"),
        ({"keyframes": True, "frames": (1,)}, "--keyframes and --frames exclude"),
        ({"fps": 0.0}, "--fps takes a number above 0, not 0.0"),
        ({"fps": -1.0}, "--fps takes"),
        ({"fps": inf}, "--fps takes"),
        ({"from_": "0:10", "to": "9"}, "from 0:10 on and before 9"),
        ({"from_": "ten"}, "ten is no time"),
        ({"to": "-3"}, "-3 is no time"),
        ({"to": "3/4"}, "3/4 is no time"),
    ],
)
def test_a_wrong_sampling_is_refused_in_one_sentence(how: dict[str, object], words: str) -> None:
    with pytest.raises(InputError) as refused:
        span_of(Sampling(**how))
    assert words in str(refused.value)


def test_a_selection_is_written_by_the_names_of_the_options() -> None:
    told = {"fps": 0.5, "from": "1:00", "to": 90, "limit": 3}
    selection = msgspec.convert(told, Selection)
    assert selection == Selection(fps=0.5, from_="1:00", to=90, limit=3)
    assert told.items() <= msgspec.to_builtins(selection).items()
    assert span_of(selection) == Part(start=F(60), end=F(90))
