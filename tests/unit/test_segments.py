"""How an open job's dataset grows: ids for ever, each input once, few reads."""

from __future__ import annotations

import json
from collections import Counter
from importlib import import_module
from pathlib import Path

import pytest

import tasks.segments
from storage import get, list_entries, open_read, put
from storage.errors import Exists
from tasks.cards import Build, Card, Model
from tasks.folder import Folder, JobError
from tasks.merge import is_merged, merge_all
from tasks.plan import scratch
from tasks.records import (
    Annotation,
    Asked,
    Counts,
    Failure,
    Image,
    Item,
    Job,
    ProducedBy,
    RleMask,
    Selection,
    Settings,
    Shard,
    VideoFrame,
    encode,
)
from tasks.segments import TABLES, Segments, identity, segment_uri

CARD = Card("canned", "yolact", (Build("canned.onnx"),), ("ash",))
MADE_BY = ProducedBy("0" * 64, "onnx", "1", "fp32", "", "avx2")
NOTHING_DRAWN = lambda folder, job, picks: False  # noqa: E731


@pytest.fixture
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> Folder:
    if getattr(request, "param", "disk") == "s3":
        return Folder(f"{request.getfixturevalue('moto_s3')}/out", "run")
    return Folder(str(tmp_path), "run")


@pytest.fixture
def job(folder: Folder) -> Job:
    settings = Settings(
        categories=CARD.category_list(), class_ids=(1,), max_bytes=1 << 20, max_pixels=1 << 20
    )
    model = Model(CARD, CARD.builds[0], "", "0" * 64, "onnx")
    asked = Asked((), Selection(), model, settings, 64)
    made = Job("run", asked, Counts(items=0, shards=0), open=True)
    put(folder.file("job.json"), encode(made))
    return made


class Reads:
    """What is read of a store, by the kind of object."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.uris: list[str] = []
        store = import_module("storage.disk")
        monkeypatch.setattr(store, "open_versioned", self._counting(store.open_versioned))

    def _counting(self, verb):
        def counted(location, *rest):
            self.uris.append(location.uri)
            return verb(location, *rest)

        return counted

    def taken(self) -> Counter[str]:
        kinds = Counter(
            next((kind for kind in ("plan", "shards", "segments") if f"/{kind}/" in uri), "other")
            for uri in self.uris
        )
        self.uris.clear()
        return kinds


def _frame(uri: str) -> VideoFrame | None:
    number = uri.partition("#frame=")[2]
    return VideoFrame(int(number), int(number), 0.0, 0) if number else None


def add(
    folder: Folder,
    part: str,
    *ends: tuple[str, str],
    generation: int = 0,
    tried: set[int] | None = None,
    names: dict[str, str] | None = None,
) -> None:
    """A part with its shard object: (uri, "ok") for an image with two annotations, or a stage."""
    named = names or {}
    items = [
        Item(n, uri, named.get(uri, uri.rpartition("/")[2].partition("?")[0]), frame=_frame(uri))
        for n, (uri, _) in enumerate(ends, 1)
    ]
    put(folder.plan(part), b"".join(encode(each) + b"\n" for each in items), create_only=True)
    images, annotations, failures = [], [], []
    for item, (uri, end) in zip(items, ends, strict=True):
        if tried is not None and item.id not in tried:
            continue
        if end == "ok":
            images.append(Image(item.id, item.file_name, 4, 4))
            for x in range(2):
                mask = RleMask((4, 4), "04l0")
                annotations.append(Annotation(item.id, 1, (float(x), 0.0, 1.0, 4.0), 4, mask, 0.5))
        else:
            failures.append(Failure(item.id, uri, item.file_name, "fetch", end, "it failed"))
    shard = Shard(part, MADE_BY, tuple(images), tuple(annotations), tuple(failures), 1)
    put(folder.shard(part, generation), encode(shard), create_only=True)


def merge(folder: Folder, job: Job) -> dict[str, object]:
    merge_all(folder, job, NOTHING_DRAWN)
    assert is_merged(folder, job)
    return json.loads(get(folder.file("instances.json")))


def ids(dataset) -> dict[str, int]:
    found = {each["file_name"]: each["id"] for each in dataset["images"]}
    assert len(found) == len(dataset["images"]) == len(set(found.values()))
    return found


def failures(folder: Folder) -> list[dict[str, object]]:
    return [json.loads(line) for line in get(folder.file("failures.jsonl")).splitlines()]


def run_record(folder: Folder) -> dict[str, object]:
    return json.loads(get(folder.file("run.json")))


@pytest.mark.parametrize("folder", ["mem", "s3"], indirect=True)
def test_ids_never_change_and_each_uri_is_there_once(folder: Folder, job: Job) -> None:
    add(folder, "bb", ("s3://b/m.jpg", "ok"), ("s3://b/a.jpg", "ok"))
    add(folder, "aa", ("s3://b/z.jpg", "ok"), ("s3://b/a.jpg", "ok"))
    first = merge(folder, job)
    assert ids(first) == {"a.jpg": 1, "m.jpg": 2, "z.jpg": 3}, "by URI, whatever the part"
    add(folder, "0a", ("s3://b/b.jpg", "ok"), ("s3://b/m.jpg", "ok"))
    second = merge(folder, job)
    assert ids(second) == {"a.jpg": 1, "m.jpg": 2, "z.jpg": 3, "b.jpg": 4}
    assert second["images"][:3] == first["images"]
    assert second["annotations"][:6] == first["annotations"]
    assert [each["id"] for each in second["annotations"]] == list(range(1, 9))
    assert [each["image_id"] for each in second["annotations"][6:]] == [4, 4]
    assert run_record(folder)["inputs"] == 4
    assert run_record(folder)["shard_objects"] == 3


def test_a_merge_with_nothing_new_makes_no_segment(folder: Folder, job: Job) -> None:
    add(folder, "aa", ("s3://b/a.jpg", "ok"))
    before = merge(folder, job)
    assert merge(folder, job) == before
    names = [each.uri.rpartition("/")[2] for each in list_entries(folder.file("segments/run/"))]
    assert [name for name in names if name.endswith(".json")] == ["00000.json"]


def test_only_duplicates_are_taken_in_too(folder: Folder, job: Job) -> None:
    add(folder, "aa", ("s3://b/a.jpg", "ok"))
    merge(folder, job)
    add(folder, "bb", ("s3://b/a.jpg", "ok"))
    assert not is_merged(folder, job)
    assert ids(merge(folder, job)) == {"a.jpg": 1}


def test_an_empty_open_job_merges_to_an_empty_dataset(folder: Folder, job: Job) -> None:
    dataset = merge(folder, job)
    assert (dataset["images"], dataset["annotations"]) == ([], [])


def test_a_merge_reads_what_is_new_and_the_segments(
    folder: Folder, job: Job, monkeypatch: pytest.MonkeyPatch
) -> None:
    for n in range(300):
        add(folder, f"a{n:04}", (f"s3://b/{n:04}.jpg", "ok"))
    merge(folder, job)
    for n in range(7):
        add(folder, f"b{n:04}", (f"s3://b/new{n}.jpg", "ok"))
    reads = Reads(monkeypatch)
    assert len(ids(merge(folder, job))) == 307
    kinds = reads.taken()
    assert (kinds["shards"], kinds["plan"]) == (7, 7)
    assert kinds["segments"] <= 8
    assert sum(kinds.values()) < 40


def test_a_failure_is_mended_by_a_later_success_and_by_nothing_else(
    folder: Folder, job: Job
) -> None:
    add(folder, "aa", ("s3://b/a.jpg", "not-found"), ("s3://b/b.jpg", "denied"))
    merge(folder, job)
    assert [(each["image_id"], each["kind"]) for each in failures(folder)] == [
        (1, "not-found"),
        (2, "denied"),
    ]
    add(folder, "bb", ("s3://b/c.jpg", "ok"), ("s3://b/a.jpg", "expired"))
    merge(folder, job)
    assert [each["kind"] for each in failures(folder)] == ["not-found", "denied"]
    add(folder, "aa", ("s3://b/a.jpg", "ok"), ("s3://b/b.jpg", "-"), generation=1, tried={1})
    dataset = merge(folder, job)
    assert ids(dataset) == {"c.jpg": 3, "a.jpg": 1}, "the number that the failure had"
    assert [each["kind"] for each in failures(folder)] == ["denied"]
    add(folder, "cc", ("s3://b/a.jpg", "not-found"), ("s3://b/b.jpg", "ok"))
    assert ids(merge(folder, job)) == {"c.jpg": 3, "a.jpg": 1, "b.jpg": 2}
    assert failures(folder) == []
    assert run_record(folder)["inputs"] == 3


def test_within_one_segment_a_success_and_the_latest_failure_win(folder: Folder, job: Job) -> None:
    add(folder, "aa", ("s3://b/a.jpg", "denied"), ("s3://b/b.jpg", "denied"))
    add(folder, "aa", ("s3://b/a.jpg", "expired"), ("s3://b/b.jpg", "expired"), generation=1)
    add(folder, "bb", ("s3://b/a.jpg", "ok"))
    assert ids(merge(folder, job)) == {"a.jpg": 1}
    assert [(each["image_id"], each["kind"]) for each in failures(folder)] == [(2, "expired")]


def test_a_file_name_is_there_once(folder: Folder, job: Job) -> None:
    add(folder, "aa", ("s3://b/x.jpg", "ok"), ("s3://c/x.jpg", "ok"), ("s3://d/x.jpg", "denied"))
    assert ids(merge(folder, job)) == {"x.jpg": 1}
    assert [(each["image_id"], each["kind"]) for each in failures(folder)] == [
        (2, "name-taken"),
        (3, "denied"),
    ]
    add(folder, "bb", ("s3://e/x.jpg", "ok"))
    add(folder, "cc", ("s3://c/x.jpg", "ok"), names={"s3://c/x.jpg": "c/x.jpg"})
    assert ids(merge(folder, job)) == {"x.jpg": 1, "c/x.jpg": 2}
    assert [each["image_id"] for each in failures(folder)] == [3, 4]


def test_a_repeat_under_another_name_does_not_take_that_name(folder: Folder, job: Job) -> None:
    add(folder, "aa", ("s3://b/a.jpg", "ok"))
    merge(folder, job)
    add(folder, "bb", ("s3://b/a.jpg", "ok"), names={"s3://b/a.jpg": "z.jpg"})
    add(folder, "cc", ("s3://b/z.jpg", "ok"))
    assert ids(merge(folder, job)) == {"a.jpg": 1, "z.jpg": 2}


def test_frames_are_in_the_order_of_their_video(folder: Folder, job: Job) -> None:
    clip = "s3://b/v.mp4#frame="
    add(folder, "aa", (f"{clip}10", "ok"), (f"{clip}2", "ok"), ("s3://b/v.mp4$", "ok"))
    merged = ids(merge(folder, job))
    assert merged == {"v.mp4#frame=2": 1, "v.mp4#frame=10": 2, "v.mp4$": 3}
    add(folder, "bb", (f"{clip}10", "ok"), (f"{clip}3", "ok"))
    assert ids(merge(folder, job)) == merged | {"v.mp4#frame=3": 4}


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("https://h/x.jpg?X-Amz-Signature=1&a=2", "https://h/x.jpg?a=3&X-Amz-Signature=9", True),
        ("https://h/x.jpg?sv=1&sig=1", "https://h/x.jpg?sv=2&sig=2", True),
        ("https://h/snap?id=1", "https://h/snap?id=2", False),
        ("https://h/snap?design=1", "https://h/snap?design=2", False),
        ("s3://b/x?sig=1", "s3://b/x?sig=2", False),
        ("https://h/v.mp4?sig=1#frame=7", "https://h/v.mp4?sig=2#frame=7", True),
        ("https://h/v.mp4?sig=1#frame=7", "https://h/v.mp4?sig=1#frame=8", False),
    ],
    ids=[
        *("AWS", "Azure", "a query that chooses", "a name that ends in sig…", "a key"),
        *("a frame", "another frame"),
    ],
)
def test_a_url_that_is_signed_anew_is_the_same_input(one: str, other: str, same: bool) -> None:
    assert (identity(one) == identity(other)) == same


def test_no_segment_holds_a_signature(folder: Folder, job: Job) -> None:
    uri = "https://h/x.jpg?X-Amz-Signature=s3cret"
    add(folder, "aa", (uri, "ok"))
    add(folder, "bb", (uri.replace("s3cret", "s4cret"), "denied"))
    merge(folder, job)
    for entry in list_entries(folder.file("segments/run/")):
        assert b"cret" not in get(entry.uri)
    assert run_record(folder)["inputs"] == 1


def test_what_does_not_fit_one_segment_goes_into_the_next(
    folder: Folder, job: Job, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tasks.segments, "MOST_BYTES", 2000)
    monkeypatch.setattr(tasks.segments, "MOST_OBJECTS", 3)
    for n in range(10):
        add(folder, f"a{n}", (f"s3://b/{n}.jpg", "ok"), (f"s3://b/{n}x.jpg", "ok"))
    dataset = merge(folder, job)
    assert ids(dataset) == {name: n + 1 for n, name in enumerate(sorted(ids(dataset)))}, (
        "in order over segments"
    )
    with scratch(TABLES) as db:
        found = Segments(folder, db)
        assert found.count > 4
        assert found.counts() == {"inputs": 20, "shard_objects": 10}


def test_a_merge_that_was_cut_off_between_segments_goes_on(
    folder: Folder, job: Job, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tasks.segments, "MOST_BYTES", 2000)
    for n in range(20):
        add(folder, f"a{n:02}", (f"s3://b/{n:02}.jpg", "ok"))
    put_really, left = tasks.segments.put, 2

    def put_twice(*args, **options):
        nonlocal left
        left -= 1
        if left < 0:
            raise KeyboardInterrupt
        put_really(*args, **options)

    monkeypatch.setattr(tasks.segments, "put", put_twice)
    with pytest.raises(KeyboardInterrupt):
        merge(folder, job)
    monkeypatch.setattr(tasks.segments, "put", put_really)
    assert ids(merge(folder, job)) == {f"{n:02}.jpg": n + 1 for n in range(20)}


def test_of_two_mergers_the_second_goes_on_from_the_first(
    folder: Folder, job: Job, monkeypatch: pytest.MonkeyPatch
) -> None:
    add(folder, "aa", ("s3://b/a.jpg", "ok"))
    put_really, interleaved = tasks.segments.put, []

    def put_second(uri: str, data: bytes, **options: bool) -> None:
        """Between our look and our write another merger takes in one more part."""
        if not interleaved:
            interleaved.append(uri)
            add(folder, "0a", ("s3://b/0.jpg", "ok"), ("s3://b/a.jpg", "ok"))
            with scratch(TABLES) as db:
                Segments(folder, db).grow()
            add(folder, "cc", ("s3://b/c.jpg", "ok"))
            with pytest.raises(Exists):
                put_really(uri, data, **options)
            raise Exists(uri)
        put_really(uri, data, **options)

    monkeypatch.setattr(tasks.segments, "put", put_second)
    merge_all(folder, job, NOTHING_DRAWN)
    assert interleaved == [segment_uri(folder, 0)]
    assert not is_merged(folder, job), "the part that came after our look is still to come"
    assert ids(merge(folder, job)) == {"0.jpg": 1, "a.jpg": 2, "c.jpg": 3}


def test_what_a_merger_did_not_write_it_writes_after_what_another_did(
    folder: Folder, job: Job, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where segments are full before the end, each is of some of what is new."""
    monkeypatch.setattr(tasks.segments, "MOST_BYTES", 500)
    add(folder, "aa", *((f"s3://b/{n}.jpg", "ok") for n in range(1, 6)))
    put_really, interleaved = tasks.segments.put, []

    def put_second(uri: str, data: bytes, **options: bool) -> None:
        if not interleaved:
            interleaved.append(uri)
            add(folder, "0a", ("s3://b/0.jpg", "ok"))
            first_segment_of_another()
        put_really(uri, data, **options)

    def first_segment_of_another() -> None:
        with scratch(TABLES) as db, pytest.MonkeyPatch.context() as patched:
            patched.setattr(tasks.segments, "put", stopping)
            with pytest.raises(KeyboardInterrupt):
                Segments(folder, db).grow()

    def stopping(uri: str, data: bytes, **options: bool) -> None:
        put_really(uri, data, **options)
        raise KeyboardInterrupt

    monkeypatch.setattr(tasks.segments, "put", put_second)
    merge_all(folder, job, NOTHING_DRAWN)
    found = ids(merge(folder, job))
    assert sorted(found) == [f"{n}.jpg" for n in range(6)]
    assert found["0.jpg"] == 1


def test_a_slow_merger_does_not_replace_a_later_dataset(
    folder: Folder, job: Job, monkeypatch: pytest.MonkeyPatch
) -> None:
    add(folder, "aa", ("s3://b/a.jpg", "ok"))
    really, looks = Segments.is_overtaken, []

    def look(self: Segments) -> bool:
        if not looks:
            looks.append(1)
            add(folder, "bb", ("s3://b/b.jpg", "ok"))
            merge_all(folder, job, NOTHING_DRAWN)
        return really(self)

    monkeypatch.setattr(Segments, "is_overtaken", look)
    assert ids(merge(folder, job)) == {"a.jpg": 1, "b.jpg": 2}


def test_a_stale_dataset_is_replaced_and_a_damaged_one_is_not(folder: Folder, job: Job) -> None:
    add(folder, "aa", ("s3://b/a.jpg", "ok"))
    merge(folder, job)
    stale = get(folder.file("instances.json"))
    add(folder, "bb", ("s3://b/b.jpg", "ok"))
    merge(folder, job)
    put(folder.file("instances.json"), stale)  # a merger that was asleep between two steps
    add(folder, "cc", ("s3://b/c.jpg", "ok"))
    assert len(ids(merge(folder, job))) == 3
    put(folder.file("instances.json"), stale + b"]")
    add(folder, "dd", ("s3://b/d.jpg", "ok"))
    with pytest.raises(JobError, match="--replace-edited"):
        merge(folder, job)
    merge_all(folder, job, NOTHING_DRAWN, replace_edited=True)
    assert is_merged(folder, job)


def test_a_shard_that_leaves_an_input_out_is_refused(folder: Folder, job: Job) -> None:
    add(folder, "aa", ("s3://b/a.jpg", "ok"), ("s3://b/b.jpg", "ok"), tried={1})
    with pytest.raises(JobError, match="does not end each of its inputs once"):
        merge(folder, job)
    assert not (lines_of(segment_uri(folder, 0)))


def lines_of(uri: str) -> list[bytes]:
    try:
        with open_read(uri) as file:
            return list(file)
    except FileNotFoundError:
        return []
