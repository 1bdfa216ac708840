"""What a schedule's run takes, from what those before it annotated."""

from __future__ import annotations

import tracemalloc
from collections.abc import Iterable
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest

from storage import list_entries, put
from tasks.folder import Folder
from tasks.inputs import Found
from tasks.ledger import compared, ledger_uri, settle
from tasks.records import Failure, Image, Item, ProducedBy, Shard, VideoFrame, encode, encode_lines
from tasks.videos import Part

BY = ProducedBy("0" * 64, "onnx", "1", "fp32", "", "avx2")


class Runs:
    """The runs of a schedule, each with its listing: versions by name."""

    def __init__(self, place: Path, absent: str = "") -> None:
        self.place, self.absent, self.number = place, absent, 0
        self.ledger = ledger_uri(str(place / "state"), "nightly")

    def takes(self, *found: Found, **listed: str | None) -> list[str]:
        given = [*found, *(Found(f"s3://b/{name}", name, v) for name, v in listed.items())]
        taken = list(compared(given, self.ledger, self.absent))
        return [each.problem.kind if each.problem else each.file_name for each in taken]

    def run(self, failing: dict[str, str] | None = None, **listed: str | None) -> list[str]:
        """What it took, all of it done: `failing` gives stages."""
        given = (Found(f"s3://b/{name}", name, v) for name, v in listed.items())
        return self.done(list(compared(given, self.ledger, self.absent)), failing or {})

    def done(self, taken: Iterable[Found], failing: dict[str, Any]) -> list[str]:
        items = [
            Item(n, each.uri, each.file_name, each.version, each.frame, each.problem)
            for n, each in enumerate(taken, 1)
        ]
        self.number += 1
        folder, part = Folder(str(self.place / "out"), "run"), f"{self.number:040x}"
        put(folder.plan(part), encode_lines(items))
        images, failures = [], []
        for item in items:
            stage = "fetch" if item.problem else failing.get(item.file_name)
            if stage is None:
                images.append(Image(item.id, item.file_name, 4, 4))
            else:
                failures.append(Failure(item.id, item.uri, item.file_name, stage, "x", "y"))
        put(folder.shard(part), encode(Shard(part, BY, tuple(images), (), tuple(failures))))
        settle(self.ledger, self.number, folder, part)
        return [each.problem.kind if each.problem else each.file_name for each in items]


@pytest.fixture
def runs(tmp_path: Path) -> Runs:
    return Runs(tmp_path)


def test_what_is_new_or_has_changed_is_taken(runs: Runs) -> None:
    assert runs.run(a="1", b="1") == ["a", "b"]
    assert runs.run(a="1", b="2", c="1") == ["b", "c"]
    assert runs.run(a="1", b="2", c="1") == []
    assert runs.takes(a="1", b="1", c="1") == ["b"], "an older version is another one"


def test_what_has_no_version_is_taken_once(runs: Runs) -> None:
    assert runs.run(a=None, b="1") == ["a", "b"]
    assert runs.takes(a=None, b=None) == []
    assert runs.takes(a="1", b="1") == ["a"], "it may have changed since"


def test_a_url_that_is_signed_anew_has_not_changed(runs: Runs) -> None:
    signed = "https://h/x.jpg?X-Amz-Signature="
    runs.done([Found(f"{signed}1", "x.jpg")], {})
    assert runs.takes(Found(f"{signed}2", "x.jpg")) == []
    assert runs.takes(Found("https://h/x.jpg?id=1", "x.jpg")) == ["x.jpg"]


def test_what_is_listed_twice_is_taken_once(runs: Runs) -> None:
    twice = [Found("s3://b/a", "a", "1"), Found("s3://b/a", "again", "1")]
    assert runs.takes(*twice) == ["a"]
    runs.run(a="1")
    assert runs.takes(*twice) == []


def test_each_part_of_a_video_is_taken_if_the_video_is(runs: Runs) -> None:
    one, other = (Part(f"t={at}", at=Fraction(at)) for at in (1, 2))
    asked = [Found("s3://b/v.mp4", str(n), "1", part=part) for n, part in enumerate((one, other))]
    assert runs.takes(*asked) == ["0", "1"]
    frame = VideoFrame(25, 25, 1.0, 0)
    runs.done([Found("s3://b/v.mp4#frame=25", "v.mp4/25.jpg", "1", frame=frame)], {})
    assert runs.takes(*asked) == []


def test_what_is_no_image_goes_by_to_be_counted(runs: Runs) -> None:
    text = Found("s3://b/a.txt", "a.txt", is_image=False)
    assert runs.takes(text, text) == ["a.txt", "a.txt"]


@pytest.mark.parametrize(
    ("stage", "again"),
    [("fetch", True), ("worker", True), ("decode", False), ("model", False), ("write", False)],
)
def test_what_was_not_looked_at_is_taken_again(runs: Runs, stage: str, again: bool) -> None:
    assert runs.run({"a": stage}, a="1", b="1") == ["a", "b"]
    for _ in range(2):
        assert runs.run({"a": stage}, a="1", b="1") == ["a"] * again
    assert runs.run(a="1", b="1") == ["a"] * again
    assert runs.run(a="1", b="1") == []


@pytest.mark.parametrize("failing", [0, 1, 2])
def test_a_video_of_which_a_frame_was_not_looked_at_is_taken_again(
    runs: Runs, failing: int
) -> None:
    frames = [
        Found(f"s3://b/v.mp4#frame={n}", str(n), "1", frame=VideoFrame(n, n, 0.0, 0))
        for n in range(3)
    ]
    runs.done(frames, {str(failing): "fetch"})
    assert runs.takes(Found("s3://b/v.mp4", "v.mp4", "1", part=Part())) == ["v.mp4"]
    runs.done(frames, {})
    assert runs.takes(Found("s3://b/v.mp4", "v.mp4", "1", part=Part())) == []


@pytest.mark.parametrize("absent", ["vanished", "dropped"])
def test_what_is_gone_or_back_is_marked_once(tmp_path: Path, absent: str) -> None:
    runs = Runs(tmp_path, absent)
    assert runs.run({"c": "fetch"}, a="1", b="1", c="1") == ["a", "b", "c"]
    assert runs.run(b="1") == [absent, absent], "what could not be fetched is in the dataset too"
    assert runs.run(b="1") == []
    assert sorted(runs.run(a="1", b="1", c="1")) == ["c", "returned"]
    assert runs.run(a="1", b="1", c="1") == []
    assert runs.run(b="1", c="1") == [absent]
    assert runs.run(a="2", b="1", c="1") == ["a"], "what comes back changed is taken, not marked"
    assert runs.run(a="2", b="1", c="1") == []


@pytest.mark.parametrize("versions", ["12", "21"])
def test_what_changed_while_a_run_was_begun_twice_is_taken_again(runs: Runs, versions: str) -> None:
    runs.done([Found("s3://b/a", "a", v) for v in versions] + [Found("s3://b/c", "c", "1")] * 2, {})
    assert runs.takes(a="1", c="1") == runs.takes(a="2", c="1") == ["a"]


def test_nothing_is_marked_unless_asked(runs: Runs) -> None:
    runs.run(a="1", b="1")
    assert runs.run(b="1") == []


def test_a_lost_run_leaves_nothing_and_a_settled_one_is_settled_once(runs: Runs) -> None:
    runs.run(a="1")
    assert runs.takes(a="1", b="1") == ["b"] == runs.takes(a="1", b="1")
    runs.run(a="1", b="1")
    before = files(runs)
    settle(runs.ledger, 2, Folder(str(runs.place / "out"), "run"), f"{2:040x}")
    assert files(runs) == before


def test_of_all_ledgers_the_last_and_the_one_before_stay(runs: Runs) -> None:
    for number in range(1, 13):
        runs.run(a=str(number))
    assert [name for name, _ in files(runs)] == ["00000011.rows", "00000012.rows"]


def test_another_model_knows_of_nothing(runs: Runs) -> None:
    runs.run(a="1")
    other = ledger_uri(str(runs.place / "state"), "nightly", "another model")
    assert len(list(compared([Found("s3://b/a", "a", "1")], other))) == 1


def test_memory_is_two_hundred_bytes_an_object(tmp_path: Path) -> None:
    count, folder, ledger = 20_000, Folder(str(tmp_path), "run"), ledger_uri(str(tmp_path), "x")
    found = [Found(f"s3://b/{n:09}.jpg", f"{n:09}.jpg", f"v{n}") for n in range(count)]
    for at in range(0, count, 2000):
        items = [Item(n, each.uri, "x", each.version) for n, each in enumerate(found[at:][:2000])]
        shard = Shard(f"{at:032x}", BY, tuple(Image(each.id, "x", 4, 4) for each in items), (), ())
        put(folder.plan(f"{at:032x}"), encode_lines(items))
        put(folder.shard(f"{at:032x}"), encode(shard))
    settle(ledger, 1, folder)
    tracemalloc.start()
    try:
        taken = sum(1 for _ in compared(found, ledger, "vanished"))
        assert taken == 0
        assert tracemalloc.get_traced_memory()[1] / count < 250  # bytes, with the file's 25
    finally:
        tracemalloc.stop()


def files(runs: Runs) -> list[tuple[str, int]]:
    return [(each.uri.rpartition("/")[2], each.size) for each in list_entries(runs.ledger)]
