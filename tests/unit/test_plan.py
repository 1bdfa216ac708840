"""Planning: order, ids, repeats, clashes and samples, over streams that never sit in memory."""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable, Iterable
from pathlib import Path
from tempfile import TemporaryDirectory

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from storage import get, list_entries, put
from storage.ordered import side_by_side
from tasks.cards import Build, Card, Model
from tasks.categories import coco80
from tasks.inputs import Found, InputError
from tasks.opening import differing
from tasks.plan import write_plan
from tasks.records import Asked, Item, Selection, Settings

CARD = Card(name="x", family="yolact", builds=(), categories="coco80")


def asked(shard_size: int = 3, **selection: object) -> Asked:
    options = Settings(categories=coco80(), class_ids=(), max_bytes=1, max_pixels=1)
    model = Model(CARD, Build("x.onnx"), "", "0" * 64, "onnx")
    return Asked(("in",), Selection(**selection), model, options, shard_size)


def planned(found: Iterable[Found], wanted: Asked) -> list[Item]:
    with TemporaryDirectory() as uri:
        folder, counts = write_plan(uri, b"", found, wanted.selection, wanted.shard_size)
        parts = [folder.read_plan(number) for number in range(counts.shards)]
    assert all(len(part) == wanted.shard_size for part in parts[:-1])
    items = [item for part in parts for item in part]
    assert len(items) == counts.items
    return items


def images(names: Iterable[str]) -> list[Found]:
    return [Found(f"s3://b/{name}", name) for name in names]


@given(
    st.lists(st.text("abcé/", min_size=1, max_size=4), min_size=1, max_size=40), st.integers(1, 9)
)
@settings(max_examples=40, deadline=None)
def test_items_are_the_distinct_inputs_in_order(names: list[str], shard_size: int) -> None:
    items = planned(images(names), asked(shard_size))
    assert [item.file_name for item in items] == list(dict.fromkeys(names))
    assert [item.id for item in items] == list(range(1, len(items) + 1))


def test_counts_name_what_was_left_out(tmp_path: Path) -> None:
    found = [*images("aab"), *(Found(f"s3://x/{n}.md", f"{n}.md", is_image=False) for n in "cd")]
    _, counts = write_plan(str(tmp_path), b"", found, Selection(), 3)
    assert (counts.items, counts.shards, counts.duplicates, counts.not_images) == (2, 1, 1, 2)
    assert counts.not_images_named == ("s3://x/c.md", "s3://x/d.md")


@pytest.mark.parametrize(
    ("found", "words"),
    [
        ([Found("s3://a/x", "x"), Found("s3://b/x", "x")], "would both be 'x'"),
        ([Found("s3://a/x", "x", id=4), Found("s3://a/y", "y", id=4)], "both have the image id 4"),
        ([Found("s3://a/x", "x", is_image=False)], "none of the 1 files found is an image"),
        ([Found("http://h/x?sig=S", "x"), Found("http://g/x?sig=S", "x")], "http://h/x"),
    ],
    ids=["file names clash", "ids clash", "no image", "a presigned query stays unsaid"],
)
def test_refusals_name_the_first_offender(tmp_path: Path, found: list[Found], words: str) -> None:
    with pytest.raises(InputError) as refused:
        write_plan(str(tmp_path), b"", found, Selection(), 3)
    assert words in str(refused.value)
    assert "sig=" not in str(refused.value)


def test_ids_of_a_coco_input_stay_and_others_follow_the_highest() -> None:
    found = [Found("a", "a"), Found("b", "b", id=7), Found("c", "c", id=3), Found("d", "d")]
    items = planned(found, asked())
    assert [(item.id, item.file_name) for item in items] == [(3, "c"), (7, "b"), (8, "a"), (9, "d")]


@given(st.permutations("abcdefghij"), st.integers(0, 3), st.integers(1, 10))
@settings(max_examples=30, deadline=None)
def test_a_sample_depends_on_seed_and_names_alone(names: list[str], seed: int, size: int) -> None:
    chosen = planned(images(names), asked(sample=size, seed=seed))
    again = planned(images(sorted(names)), asked(sample=size, seed=seed))
    assert {item.file_name for item in chosen} == {item.file_name for item in again}
    assert len(chosen) == size
    places = [names.index(item.file_name) for item in chosen]
    assert places == sorted(places)


def test_memory_does_not_grow_with_the_plan(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Five times the inputs, the same peak, a small part of what they take: the rest is on disk.

    One writer, since how many parts are in flight would be the noise of the two peaks.
    """
    monkeypatch.setattr("tasks.plan.WRITERS", 1)

    def stream(count: int) -> Iterable[Found]:
        return (Found(f"s3://bucket/{n:012d}.jpg", f"{n:012d}.jpg") for n in range(count))

    def peak(work: Callable[[], object]) -> int:
        tracemalloc.start()
        work()
        top = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return top

    def planning(count: int) -> int:
        out = str(tmp_path / str(count))
        return peak(lambda: write_plan(out, b"", stream(count), Selection(), 50))

    planning(2000)
    many = planning(20_000)
    assert many < 1.3 * planning(4000)
    assert many < peak(lambda: list(stream(20_000))) / 5


def test_plan_parts_are_all_that_is_written(tmp_path: Path) -> None:
    folder, _ = write_plan(str(tmp_path), b"", images("abcd"), Selection(), 3)
    uris = [entry.uri for entry in list_entries(folder.uri + "/")]
    assert uris == [folder.plan(0), folder.plan(1)]
    assert get(folder.plan(1)).count(b"\n") == 1


def test_planning_that_was_cut_off_goes_on_where_it_stopped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same inputs come under the same token, and only what is missing is written."""
    puts: list[str] = []

    def put_until_the_disk_is_full(uri: str, data: bytes, **how: bool) -> None:
        puts.append(uri)
        if len(puts) == 4:
            raise OSError("the process is killed here")
        put(uri, data, **how)

    monkeypatch.setattr("tasks.plan.WRITERS", 1)
    monkeypatch.setattr("tasks.plan.put", put_until_the_disk_is_full)
    with pytest.raises(OSError, match="killed"):
        write_plan(str(tmp_path), b"", images("abcdefghijkl"), Selection(), 2)
    # One that was begun may still be written after that.
    cut, puts[:] = {*puts[:3], *puts[4:]}, [""] * 8
    folder, counts = write_plan(str(tmp_path), b"", images("abcdefghijkl"), Selection(), 2)
    assert not cut & set(puts[8:])
    assert {*cut, *puts[8:]} == {folder.plan(number) for number in range(counts.shards)}
    for salt, names in ((b"", "abcdefghijkm"), (b"overwritten", "abcdefghijkl")):
        assert write_plan(str(tmp_path), salt, images(names), Selection(), 2)[0].run != folder.run


@given(st.integers(0, 30), st.integers(1, 8))
@settings(max_examples=30, deadline=None)
def test_work_side_by_side_keeps_order_and_its_bound(count: int, window: int) -> None:
    begun = 0

    def values() -> Iterable[int]:
        nonlocal begun
        for begun in range(1, count + 1):
            yield begun - 1

    for place, result in enumerate(side_by_side(lambda n: n * n, values(), 3, window)):
        assert result == place * place
        assert begun - place <= window


def test_differences_are_named_with_both_values() -> None:
    before = asked()
    now = msgspec.structs.replace(
        before, shard_size=5, settings=msgspec.structs.replace(before.settings, threshold=0.5)
    )
    assert differing(before, now) == [
        "shard size (3 before, 5 now)",
        "threshold (null before, 0.5 now)",
    ]
    assert differing(before, before) == []
