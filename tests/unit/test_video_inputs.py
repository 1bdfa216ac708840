"""Videos among the inputs: their names, and what a plan has of them. Their index is made up."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from fractions import Fraction
from itertools import islice, pairwise
from pathlib import Path
from threading import Barrier, Lock
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from storage import put
from storage.errors import NotFound, Unavailable
from storage.uris import without_frame
from tasks.annotate import _done
from tasks.broker import AnnotateMessage, SubmitMessage
from tasks.folder import Folder, JobError
from tasks.frames import AHEAD, frames_of
from tasks.inputs import Found, InputError, absolute, find
from tasks.open_jobs import _named, _once
from tasks.plan import shards_of, survey, write_plan
from tasks.records import (
    Counts,
    Item,
    ItemError,
    Sampling,
    Selection,
    Video,
    VideoFrame,
    Wishes,
    encode_lines,
)
from tasks.submit import options_as
from tasks.videos import Part, VideoIndex, VideoLimits
from worker.limits import Limits

WHOLE = Part()
COUNT, GOP = 50, 20  # frames of the videos here, at 25 a second


class Reader:
    """In the place of what reads containers."""

    def __init__(self) -> None:
        self.looked: list[tuple[str, str | None]] = []
        self._lock = Lock()

    def look(self, uri: str, version: str | None, limits: VideoLimits) -> VideoIndex:
        with self._lock:
            self.looked.append((uri, version))
        if "away" in uri:
            raise Unavailable(uri, "is away")
        if "gone" in uri:
            raise NotFound(uri)
        if "broken" in uri:
            raise ItemError("decode", "no-video", "The file holds no video.")
        pts = [1000 + 40 * n for n in range(COUNT)]
        groups = [pts[n - n % GOP] for n in range(COUNT)]
        thousandth = Fraction(1, 1000)
        video = Video("", 64, 48, 25.0, 2.0, "h264")
        return VideoIndex(video, "read", pts, groups, 3000, thousandth, Fraction(1))


@pytest.fixture
def reader(monkeypatch: pytest.MonkeyPatch) -> Reader:
    made = Reader()
    monkeypatch.setitem(sys.modules, "worker.film", SimpleNamespace(look=made.look))
    return made


def named(found: Iterable[Found]) -> list[tuple[str, str, Part | None]]:
    return [(each.uri, each.file_name, each.part) for each in found]


T3 = Part("t=3", at=Fraction(3))


def test_words_on_disk(tmp_path: Path) -> None:
    names = ("clip.mp4", "b#c.MKV", "d%23e.jpg", "odd#t=3", "p.jpg", "notes.md", "plain")
    for name in names:
        (tmp_path / name).write_bytes(b"\xff\xd8\xff")
    at = f"{tmp_path}/"

    def one(word: str) -> tuple[str, str, Part | None]:
        (found,) = named(find([at + word]))
        return (found[0].removeprefix(at), *found[1:])

    assert one("clip.mp4") == ("clip.mp4", "clip.mp4", WHOLE)
    assert one("clip.mp4#t=3") == ("clip.mp4", "clip.mp4", T3)
    assert one("plain#t=3") == ("plain", "plain", T3)
    assert one("b%23c.MKV#t=3") == ("b#c.MKV", "b#c.MKV", T3)
    assert one("b#c.MKV") == ("b#c.MKV", "b#c.MKV", WHOLE)
    # What is there under just this name is meant.
    assert one("d%23e.jpg") == ("d%23e.jpg", "d%23e.jpg", None)
    assert one("odd#t=3") == ("odd#t=3", "odd#t=3", None)
    assert one("cl*.mp4#t=3") == ("clip.mp4", "clip.mp4", T3)
    assert next(iter(find([f"file://{at}b%23c.MKV#t=3"]))).uri == f"file://{at}b%23c.MKV"
    with pytest.raises(InputError, match=r"no inputs match .*gone.mp4"):
        list(find([f"{at}gone.mp4#t=3"]))
    parts = {each.file_name: each.part for each in find([f"{at}#t=3"])}
    assert (parts["clip.mp4"], parts["p.jpg"]) == (T3, None), "photographs stay what they are"
    folder = {each.file_name: (each.part, each.is_image) for each in find([str(tmp_path)])}
    assert {name for name, (part, _) in folder.items() if part} == {"clip.mp4", "b#c.MKV"}
    assert not folder["notes.md"][1] or folder["notes.md"][0] is None
    assert all(is_image for part, is_image in folder.values() if part)


@pytest.mark.parametrize(
    ("word", "uri", "name", "part"),
    [
        ("s3://b/a/x%23y.mp4#t=3", "s3://b/a/x#y.mp4", "x#y.mp4", T3),
        ("s3://b/x#y.mp4", "s3://b/x#y.mp4", "x#y.mp4", WHOLE),
        ("s3://b/x?y#t=3", "s3://b/x?y", "x?y", T3),
        ("https://h/v.MP4?sig=a%23b", "https://h/v.MP4?sig=a%23b", "v.MP4", WHOLE),
        ("https://h/a%23v.mp4?sig=a#t=3", "https://h/a%23v.mp4?sig=a", "a#v.mp4", T3),
        ("https://h/snap?id=3", "https://h/snap?id=3", "snap", None),
    ],
)
def test_words_elsewhere(word: str, uri: str, name: str, part: Part | None) -> None:
    glob = word.startswith("s3") and "?" in word
    if not glob:
        assert named(find([word])) == [(uri, name, part)]
    item = _named(word)
    assert (item.uri, item.part) == (uri, part)


def test_lines_of_lists(tmp_path: Path) -> None:
    (tmp_path / "x#t=3").touch()
    lines = [
        ("clip.mp4", f"{tmp_path}/clip.mp4", "clip.mp4", WHOLE, ""),
        ("sub/clip.mp4#t=3", f"{tmp_path}/sub/clip.mp4", "sub/clip.mp4", T3, ""),
        ("a%23b.jpg", f"{tmp_path}/a#b.jpg", "a#b.jpg", None, ""),
        ("x#t=3", f"{tmp_path}/x#t=3", "x#t=3", None, ""),
        ("s3://b/v%23.mov#t=3", "s3://b/v#.mov", "v#.mov", T3, ""),
        ("https://h/v.mp4?s=1#t=3", "https://h/v.mp4?s=1", "v.mp4", T3, ""),
        ("gs://b/v.mp4#t=3", "gs://b/v.mp4", "b/v.mp4", T3, ""),
        ('{"uri": "c.mp4#t=3", "file_name": "n.jpg"}', f"{tmp_path}/c.mp4", "n.jpg", T3, "c.mp4"),
    ]
    (tmp_path / "list.jsonl").write_text("\n".join(line for line, *_ in lines))
    found = list(find([str(tmp_path / "list.jsonl")]))
    assert [(*one, each.path) for one, each in zip(named(found), found, strict=True)] == [
        tuple(rest) for _, *rest in lines
    ]


def test_a_relative_word_means_the_same_from_anywhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert absolute("clip.mp4#t=3") == f"{tmp_path}/clip.mp4#t=3"
    assert absolute("a%23b/") == f"{tmp_path}/a#b/"
    assert absolute("\udcff.mp4#t=3") == f"file://{tmp_path}/%FF.mp4#t=3"
    assert absolute("s3://b/x#t=3") == "s3://b/x#t=3"
    with pytest.raises(InputError, match=r"clip.mp4#t=9,3: no frame"):
        absolute("clip.mp4#t=9,3")


def frames(found: Iterable[Found], **how: Any) -> list[Found]:
    return list(frames_of(iter(found), Sampling(**how)))


def test_frames_stand_in_their_videos_place(reader: Reader) -> None:
    given = [
        Found("s3://b/a.jpg", "a.jpg", "1", size=5),
        Found("s3://b/v.mp4", "v.mp4", "2", size=700, part=WHOLE),
        Found("s3://b/z.jpg", "z.jpg", "3"),
    ]
    first, *middle, last = frames(given, every=20)
    assert (first, last) == (given[0], given[2])
    assert middle == [
        Found(
            f"s3://b/v.mp4#frame={n}",
            f"v.mp4/frame_{n:06d}.jpg",
            "2",
            size=700 if n == 0 else 0,
            frame=VideoFrame(n, 1000 + 40 * n, n / 25, 1000 + 800 * (n // 20)),
        )
        for n in (0, 20, 40)
    ]
    assert reader.looked == [("s3://b/v.mp4", "2")]


@pytest.mark.parametrize(
    ("how", "numbers"),
    [
        ({}, list(range(COUNT))),
        ({"fps": 5.0}, list(range(0, COUNT, 5))),
        ({"keyframes": True}, [0, 20, 40]),
        ({"frames": (3, 1, 3)}, [1, 3]),
        ({"from_": "0.5", "to": 1.0, "every": 4}, [13, 17, 21]),
    ],
)
def test_each_way_to_choose(reader: Reader, how: dict[str, Any], numbers: list[int]) -> None:
    found = frames([Found("v.mp4", "v.mp4", part=WHOLE)], **how)
    assert [each.frame.index for each in found if each.frame] == numbers
    assert {each.version for each in found} == {"read"}


def test_one_frame_is_not_sampled_and_may_have_a_name(reader: Reader) -> None:
    one, other = Part("frame=7", frame=7), Part("t=0.3", at=Fraction("0.3"))
    given = [
        Found("v.mp4", "v.mp4", part=one),
        Found("v.mp4", "mine.jpg", part=other, path="v.mp4"),
        Found("v.mp4", "all", part=Part("t=1.9,", start=Fraction("1.9")), path="v.mp4"),
    ]
    found = frames(given, every=2)
    assert [(each.uri, each.file_name, each.frame and each.frame.video) for each in found] == [
        ("v.mp4#frame=7", "v.mp4/frame_000007.jpg", ""),
        ("v.mp4#frame=7", "mine.jpg", "v.mp4"),
        ("v.mp4#frame=48", "all/frame_000048.jpg", ""),
    ]
    assert len(reader.looked) == 1


@pytest.mark.parametrize(
    ("found", "how", "uris", "why"),
    [
        (Found("broken.mp4", "n", part=WHOLE), {}, ["broken.mp4"], "The file holds no video."),
        (Found("broken.mp4", "n", part=T3), {}, ["broken.mp4#t=3"], "The file holds no video."),
        (Found("s3://b/gone", "n", part=T3), {}, ["s3://b/gone#t=3"], "s3://b/gone does not exist"),
        (Found("v.mp4", "n", part=T3), {}, ["v.mp4#t=3"], "has 50 frames, and ends at 2.000 s"),
        (Found("v.mp4", "n", part=WHOLE), {"from_": "9"}, ["v.mp4"], "has 50 frames"),
        (
            Found("v.mp4", "n", part=WHOLE),
            {"frames": (60, 50)},
            ["v.mp4#frame=50", "v.mp4#frame=60"],
            "has 50 frames",
        ),
    ],
    ids=[
        "no video",
        "a part of none",
        "not there",
        "after its end",
        "nothing chosen",
        "no such numbers",
    ],
)
def test_what_has_no_frame_is_an_item_that_says_why(
    reader: Reader, found: Found, how: dict[str, Any], uris: list[str], why: str
) -> None:
    ended = frames([found], **how)
    assert [each.uri for each in ended] == uris
    assert len({each.file_name for each in ended}) == len(uris)
    for each in ended:
        assert each.problem
        assert why in each.problem.message
        assert (each.frame, each.is_image) == (None, True)


def test_a_store_that_is_away_ends_the_planning(reader: Reader) -> None:
    with pytest.raises(Unavailable):
        frames([Found("s3://b/away.mp4", "v", part=WHOLE)])


def test_a_machine_without_the_reader_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "worker.film", None)
    assert frames([Found("a.jpg", "a")]) == [Found("a.jpg", "a")]
    with pytest.raises(InputError, match=r"^http://h/v.mp4 is a video, .*maskmill\[worker\]"):
        frames([Found("http://h/v.mp4?sig=1", "v", part=WHOLE)])


def test_no_video_is_looked_at_that_may_not_be_read(reader: Reader) -> None:
    limits = Limits(input_roots=("s3://mine/",))
    given = [Found(f"s3://{b}/v.mp4", f"{b}/v.mp4", part=T3) for b in ("mine", "other", "n o")]
    mine, other, none = frames_of(iter(given), Sampling(), limits.refused_input)
    assert reader.looked == [("s3://mine/v.mp4", None)]
    assert mine.problem
    assert mine.problem.kind == "no-frame"
    assert other.problem
    assert (other.problem.stage, other.problem.kind) == ("fetch", "refused")
    assert "MASKMILL_INPUT_ROOTS" in other.problem.message
    assert none.problem
    assert none.problem.kind == "bad-uri"


@settings(deadline=None)
@given(st.lists(st.tuples(st.sampled_from("abcde"), st.booleans()), max_size=60), st.integers(1, 9))
def test_order_stays_whatever_is_looked_at(given: list[tuple[str, bool]], step: int) -> None:
    made = Reader()
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "worker.film", SimpleNamespace(look=made.look))
        found = [
            Found(f"{v}.mp4", f"{n}", part=Part("frame=1", frame=1))
            if is_video
            else Found(v, f"{n}")
            for n, (v, is_video) in enumerate(given)
        ]
        names = [each.file_name.partition("/")[0] for each in frames(found)]
    assert names == [str(n) for n in range(len(given))]


def test_a_video_whose_frames_are_listed_is_looked_at_once(reader: Reader) -> None:
    parts = [Part(f"frame={n}", frame=n) for n in range(COUNT)]
    given = [Found(f"{v}.mp4", v, part=part) for part in parts for v in "ab"]
    assert len(frames(given)) == len(given) > 2 * AHEAD
    assert sorted(reader.looked) == [("a.mp4", None), ("b.mp4", None)]


def test_videos_are_looked_at_side_by_side(reader: Reader) -> None:
    meeting, look = Barrier(3), reader.look

    def slow(*asked: Any) -> VideoIndex:
        meeting.wait(timeout=30)
        return look(*asked)

    sys.modules["worker.film"].look = slow
    given = [Found(f"{n}.mp4", str(n), part=Part("frame=0", frame=0)) for n in range(3)]
    assert [each.uri for each in frames(given)] == [f"{n}.mp4#frame=0" for n in range(3)]


def test_no_more_is_read_ahead_than_may_be(reader: Reader) -> None:
    taken = 0

    def stream() -> Iterator[Found]:
        nonlocal taken
        for taken in range(10**9):
            yield Found(f"{taken}.mp4", str(taken), part=Part("frame=0", frame=0))

    for n, _ in enumerate(islice(frames_of(stream(), Sampling()), 100)):
        assert taken - n <= AHEAD
    assert len(reader.looked) <= 100 + AHEAD


def plan(tmp_path: Path, found: Iterable[Found], size: int = 8, **how: Any) -> list[list[Item]]:
    selection = Selection(**how)
    expanded = frames_of(iter(found), selection)
    folder, counts = write_plan(str(tmp_path), b"", expanded, selection, size)
    parts = [list(folder.read_plan(n)) for n in range(counts.shards)]
    assert sum(map(len, parts)) == counts.items
    return parts


def test_a_plan_has_frames_problems_and_images(tmp_path: Path, reader: Reader) -> None:
    found = [
        Found("s3://b/v.mp4", "v.mp4", "2", part=WHOLE),
        Found("s3://b/broken.mp4", "broken.mp4", part=WHOLE),
        Found("s3://b/z.jpg", "z.jpg"),
    ]
    (items,) = plan(tmp_path, found, keyframes=True)
    assert [each.id for each in items] == [1, 2, 3, 4, 5]
    assert [each.frame and each.frame.index for each in items] == [0, 20, 40, None, None]
    assert items[1].frame == VideoFrame(20, 1800, 0.8, 1800)
    assert [each.problem and each.problem.kind for each in items] == [*[None] * 3, "no-video", None]


def test_a_frame_that_is_named_twice_runs_once(tmp_path: Path, reader: Reader) -> None:
    words = ["s3://b/v.mp4#t=0.3", "s3://b/v.mp4#frame=7", "s3://b/v.mp4", "s3://b/v.mp4#t=0,1"]
    selection = Selection(every=7)
    tally = survey(frames_of(find(words), selection), selection, 4)
    numbers = {7} | set(range(0, 50, 7)) | set(range(0, 25, 7))
    assert tally.items == len(numbers)
    assert tally.duplicates == 1 + 1 + 4
    parts = plan(tmp_path, find(words), 4, every=7)
    assert tally.shards == len(parts)
    assert {each.frame.index for part in parts for each in part if each.frame} == numbers


def test_the_token_of_a_run_depends_on_the_time_stamps(tmp_path: Path, reader: Reader) -> None:
    found = [Found("s3://b/v.mp4", "v.mp4", "1", part=WHOLE)]

    def token() -> str:
        made = frames_of(iter(found), Selection())
        return write_plan(str(tmp_path), b"", made, Selection(), 8)[0].run

    before = token()
    assert token() == before
    look = reader.look
    later = [1001 + 40 * n for n in range(COUNT)]
    sys.modules["worker.film"].look = lambda *a: _with(look(*a), pts=later)
    assert token() != before


def _with(index: VideoIndex, **changed: Any) -> VideoIndex:
    return VideoIndex(**{**vars(index), **changed})


@st.composite
def rows(draw: st.DrawFn) -> list[Item]:
    """Images and videos in a row, with groups of pictures of any length."""
    items: list[Item] = []
    for video, groups in enumerate(draw(st.lists(st.lists(st.integers(1, 9), max_size=5)))):
        index = 0
        for group, length in enumerate(groups):
            for _ in range(length):
                frame = VideoFrame(index, index, 0.0, group)
                items.append(Item(len(items) + 1, f"{video}.mp4#frame={index}", "", frame=frame))
                index += 1
        items += [Item(0, f"{video}{n}.jpg", "") for n in range(draw(st.integers(0, 3)))]
    return items


@settings(deadline=None)
@given(rows(), st.integers(1, 8))
def test_shards_end_between_groups_of_pictures(items: list[Item], size: int) -> None:
    shards = list(shards_of(items, size))
    assert [each for shard in shards for each in shard] == items
    assert all(1 <= len(shard) <= size for shard in shards)
    of: dict[object, list[int]] = {}
    for number, shard in enumerate(shards):
        for each in shard:
            if each.frame:
                of.setdefault((without_frame(each.uri), each.frame.group), []).append(number)
    for places in of.values():
        assert len(set(places)) == -(-len(places) // size)
    for one, two in pairwise(shards):
        head = two[0]
        same = (
            [head]
            if not head.frame
            else [
                each
                for each in two
                if each.frame
                and each.frame.group == head.frame.group
                and without_frame(each.uri) == without_frame(head.uri)
            ]
        )
        goes_on = (
            head.frame
            and one[-1].frame
            and (
                (without_frame(one[-1].uri), one[-1].frame.group)
                == (without_frame(head.uri), head.frame.group)
            )
        )
        assert goes_on or len(one) + len(same) > size, "it could have held more"


@pytest.mark.parametrize(
    ("sizes", "written", "done"),
    [([4, 4, 4], [0, 2], 8), ([3, 4, 3], [0], 3), ([3, 4, 3], [1, 2], 7), ([3, 4, 3], [], 0)],
)
def test_what_is_done_of_uneven_shards(
    tmp_path: Path, sizes: list[int], written: list[int], done: int
) -> None:
    job: Any = SimpleNamespace(open=False, run="r", counts=Counts(items=sum(sizes), shards=3))
    folder = Folder(str(tmp_path), "r")
    for number, size in enumerate(sizes):
        items = [Item(n, f"s3://b/{n}", str(n)) for n in range(1, size + 1)]
        put(folder.plan(number), encode_lines(items))
    for number in written:
        put(folder.shard(number), b"{}")
    assert _done(job, folder) == done


def test_a_message_may_name_several_parts_of_a_video(reader: Reader) -> None:
    words = ["s3://b/v.mp4#frame=7", "s3://b/v.mp4#t=0.3", "s3://b/v.mp4", "s3://b/v.mp4"]
    assert len(_once([_named(word) for word in words])) == 3
    with pytest.raises(InputError, match="same file name"):
        _once([_named("s3://a/v.mp4"), _named("s3://b/v.mp4")])


def test_messages_choose_by_the_names_of_the_options() -> None:
    options = {"from": 3, "to": "1:00", "frames": [1, 2], "threshold": 0.5}
    about: dict[str, Any] = {"model": "m", "output": "s3://b/out", "options": options}
    sampling = Sampling(from_=3, to="1:00", frames=(1, 2))
    adding = AnnotateMessage(items=("s3://b/v.mp4",), **about)
    assert options_as(adding, Sampling, Wishes)[0] == sampling
    planning = SubmitMessage(inputs=("s3://b/v.mp4",), **about)
    assert options_as(planning, Selection, Wishes)[0] == Selection(
        from_=3, to="1:00", frames=(1, 2)
    )
    for wrong in ({"from_": 3}, {"frames": [-1]}, {"every": 0}, {"limit": 3}, {"model": "m"}):
        message = AnnotateMessage(items=("s3://b/v.mp4",), **(about | {"options": wrong}))
        with pytest.raises(msgspec.ValidationError):
            options_as(message, Sampling, Wishes)


def test_a_fragment_leads_nowhere_outside_the_roots(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "secret.mp4").touch()
    (tmp_path / "in" / "link.mp4").symlink_to(tmp_path / "secret.mp4")
    (tmp_path / "in" / "a#.txt").symlink_to(tmp_path / "secret.mp4")
    limits = Limits(input_roots=(str(tmp_path / "in"),))
    for word in ("link.mp4#t=3", "link.mp4", "a%23.txt", "link.mp4#frame=1"):
        message = SubmitMessage(inputs=(f"{tmp_path}/in/{word}",), model="m", output="s3://b/out")
        with pytest.raises(JobError, match=r"^inputs: .*MASKMILL_INPUT_ROOTS"):
            limits.check_message(message)
