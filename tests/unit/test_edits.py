"""What people change in a growing dataset stays, whatever is merged later."""

from __future__ import annotations

import contextlib
import copy
import io
import json
import tempfile
import tracemalloc
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pycocotools.coco import COCO

import tasks.edits
import tasks.merge
from storage import exists, get, list_entries, put
from tasks.cards import Build, Card, Model
from tasks.edits import TABLES
from tasks.folder import Folder, JobError
from tasks.merge import merge_all
from tasks.plan import scratch
from tasks.records import (
    Annotation,
    Asked,
    Counts,
    Image,
    Item,
    Job,
    ProducedBy,
    RleMask,
    Selection,
    Settings,
    Shard,
    encode,
)
from tasks.segments import TABLES as SEGMENTS
from tasks.segments import Segments
from worker.audit import problems

CARD = Card("canned", "yolact", (Build("canned.onnx"),), ("ash", "elm"))
MADE_BY = ProducedBy("0" * 64, "onnx", "1", "fp32", "", "avx2")
NOTHING_DRAWN = lambda folder, job, picks: False  # noqa: E731
Dataset = dict[str, Any]


def opened(place: Path | str) -> tuple[Folder, Job]:
    folder = Folder(str(place), "run")
    choices = {"max_bytes": 1 << 20, "max_pixels": 1 << 20}
    asked = Asked(
        (),
        Selection(),
        Model(CARD, CARD.builds[0], "", "0" * 64, "onnx"),
        Settings(categories=CARD.category_list(), class_ids=(1, 2), **choices),
        64,
    )
    job = Job("run", asked, Counts(items=0, shards=0), open=True)
    put(folder.file("job.json"), encode(job))
    return folder, job


@pytest.fixture
def job(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[Folder, Job]:
    if getattr(request, "param", "disk") == "s3":
        return opened(f"{request.getfixturevalue('moto_s3')}/out")
    return opened(tmp_path)


def add(folder: Folder, part: int, names: list[str], found: int = 2, turn: int = 0) -> None:
    """A part that is done: images of these names, with so many annotations each."""
    name = f"{turn:08x}{part:032x}" if turn else f"{part:032x}"
    items = [Item(n, f"s3://b/{each}", each) for n, each in enumerate(names, 1)]
    put(folder.plan(name), b"".join(encode(each) + b"\n" for each in items))
    images = tuple(Image(each.id, each.file_name, 8, 8) for each in items)
    annotations = tuple(
        Annotation(
            each.id, 1 + n % 2, (n + turn / 4, 0.0, 1.0, 4.0), 4, RleMask((8, 8), "04l1"), 0.5
        )
        for each in items
        for n in range(found)
    )
    put(folder.shard(name), encode(Shard(name, MADE_BY, images, annotations, ())))


def merge(job: tuple[Folder, Job], *, once: bool = False) -> Dataset:
    merge_all(*job, NOTHING_DRAWN)
    data = get(job[0].file("instances.json"))
    if once:
        return json.loads(data)
    merge_all(*job, NOTHING_DRAWN)
    assert get(job[0].file("instances.json")) == data, "merged again it is the same"
    assert list(problems(*job)) == []
    return json.loads(data)


def save(job: tuple[Folder, Job], dataset: Dataset) -> None:
    put(job[0].file("instances.json"), json.dumps(dataset, indent=1).encode())


def by_id(dataset: Dataset, section: str = "annotations") -> dict[int, Any]:
    found = {each["id"]: each for each in dataset[section]}
    assert len(found) == len(dataset[section]), "ids are there once"
    return found


def loads(dataset: Dataset) -> COCO:
    with tempfile.NamedTemporaryFile("w", suffix=".json") as file:
        json.dump(dataset, file)
        file.flush()
        with contextlib.redirect_stdout(io.StringIO()):
            return COCO(file.name)


@pytest.mark.parametrize("job", ["disk", "s3"], indirect=True)
def test_what_was_changed_added_and_deleted_stays(job: tuple[Folder, Job]) -> None:
    add(job[0], 1, ["a.jpg", "b.jpg", "c.jpg"])
    before = merge(job)
    theirs = copy.deepcopy(before)
    changed, _, _, reviewed, gone, last = theirs["annotations"]
    changed |= {"bbox": [1.5, 1, 2, 2], "by": "eve"}
    del changed["score"]
    reviewed["attributes"] = {"reviewed": True, "width": 3}
    added = {"id": 7, "image_id": 2, "category_id": 1, "bbox": [0, 0, 2, 2], "iscrowd": 0,
             "area": 4.0, "segmentation": [[0, 0, 2, 0, 2, 2.5]]}  # fmt: skip
    theirs["annotations"] = [
        added,
        *(each for each in theirs["annotations"] if each["id"] not in (5, 6)),
    ]
    assert (gone["id"], last["id"]) == (5, 6), "the last of all, and all of an image"
    save(job, theirs)
    add(job[0], 2, ["0.jpg", "d.jpg"])
    after = merge(job)
    assert after["images"][:3] == before["images"]
    assert after["categories"] == before["categories"]
    expected = {each["id"]: each for each in theirs["annotations"]}
    new = {number: each for number, each in by_id(after).items() if number not in expected}
    assert by_id(after) == expected | new
    assert sorted(new) == [8, 9, 10, 11], "above theirs"
    assert {each["image_id"] for each in new.values()} == {4, 5}
    assert len(loads(after).anns) == 9
    results = json.loads(get(job[0].file("results.json")))
    assert [each["bbox"] for each in results] == [[0, 0, 1, 4], [1, 0, 1, 4]] * 5, "as it was found"
    counts = json.loads(get(job[0].file("run.json")))
    assert (counts["images"], counts["annotations"], counts["inputs"]) == (5, 9, 5)


def test_a_tool_that_writes_it_otherwise_changes_nothing(job: tuple[Folder, Job]) -> None:
    add(job[0], 1, ["a.jpg", "b.jpg"])
    before = merge(job)

    def otherwise(value: Any) -> Any:
        if isinstance(value, dict):
            return {name: otherwise(value[name]) for name in sorted(value, reverse=True)}
        if isinstance(value, list):
            return [otherwise(each) for each in value]
        return float(value) if type(value) is int else value

    theirs = otherwise(before)
    for each in theirs["annotations"]:
        each |= {"attributes": {"occluded": False, "tags": []}, "area": 5, "ignore": 0}
    theirs["annotations"].reverse()
    del theirs["categories"][1]  # one that the tool found unused
    save(job, theirs)
    add(job[0], 2, ["c.jpg"])
    after = merge(job)
    assert after["annotations"][:4] == before["annotations"]
    assert after["images"][:2] == before["images"]
    assert after["categories"] == before["categories"]
    assert list(list_entries(job[0].file("edits/run/"))) == []


def test_a_tool_that_numbers_annotations_anew_changes_what_was_changed(
    job: tuple[Folder, Job],
) -> None:
    """And drops `info`: what an annotation is does not hang on its id."""
    add(job[0], 1, ["a.jpg", "b.jpg"], found=3)
    before = merge(job)
    theirs = {name: copy.deepcopy(before[name]) for name in ("images", "annotations", "categories")}
    del theirs["annotations"][1]
    theirs["annotations"][-1]["category_id"] = 2
    for number, each in enumerate(theirs["annotations"]):
        each["id"] = number
    save(job, theirs)
    add(job[0], 2, ["c.jpg"], found=1)
    after = by_id(merge(job))
    unchanged = {each["id"]: each for each in before["annotations"] if each["id"] in (1, 3, 4, 5)}
    mine = theirs["annotations"][-1] | {"id": 7}
    assert after == unchanged | {7: mine, 8: after[8]}
    assert after[8]["image_id"] == 3


def test_an_image_taken_out_by_hand_comes_back(job: tuple[Folder, Job]) -> None:
    """Images are the job's: only what is on them is for people to change."""
    add(job[0], 1, ["a.jpg", "b.jpg"])
    before = merge(job)
    theirs = copy.deepcopy(before)
    theirs["images"].pop()
    theirs["images"][0]["license"] = 3
    theirs["annotations"] = theirs["annotations"][:1]
    save(job, theirs)
    after = merge(job)
    assert after["images"] == before["images"]
    assert sorted(by_id(after)) == [1, 3, 4]


def test_of_an_older_copy_only_what_was_done_to_it_counts(job: tuple[Folder, Job]) -> None:
    """Two people, each with a copy of their own, and nights between."""
    add(job[0], 1, ["a.jpg", "b.jpg"])
    old = merge(job)
    alice, bob = copy.deepcopy(old), copy.deepcopy(old)
    alice["annotations"][0]["category_id"] = 2
    alice["annotations"].append(old["annotations"][0] | {"id": 5, "by": "alice"})
    del alice["annotations"][2]
    save(job, alice)
    add(job[0], 2, ["a.jpg", "c.jpg"], turn=7)
    now = merge(job)
    assert by_id(now)[5]["by"] == "alice"
    assert by_id(now)[1]["category_id"] == 2, "what was changed stays beside what was made anew"
    assert not {2, 3} & by_id(now).keys()
    bob["annotations"][1]["by"] = "bob"
    bob["annotations"].append(old["annotations"][2] | {"id": 5, "by": "bob"})
    del bob["annotations"][3]
    save(job, bob)
    then = by_id(merge(job))
    theirs = {number: each["by"] for number, each in then.items() if "by" in each}
    assert len(theirs) == 3
    assert theirs.pop(5) == "alice"
    assert set(theirs.values()) == {"bob"}
    assert min(theirs) > max(by_id(now))
    assert set(then) == (set(by_id(now)) - {4}) | set(theirs), "the night's are all there"


def test_what_was_added_by_hand_can_be_changed_and_deleted_by_hand(job: tuple[Folder, Job]) -> None:
    add(job[0], 1, ["a.jpg"])
    theirs = merge(job)
    theirs["annotations"].append(theirs["annotations"][0] | {"id": 3, "by": "eve"})
    save(job, theirs)
    theirs = merge(job)
    theirs["annotations"][-1]["by"] = "adam"
    save(job, theirs)
    theirs = merge(job)
    assert [each.get("by") for each in theirs["annotations"]] == [None, None, "adam"]
    save(job, theirs | {"annotations": theirs["annotations"][:2]})
    assert len(merge(job)["annotations"]) == 3, "it may be a copy from before it was added"
    add(job[0], 2, ["b.jpg"])
    theirs = merge(job)
    theirs["annotations"] = [each for each in theirs["annotations"] if "by" not in each]
    save(job, theirs)
    assert len(merge(job)["annotations"]) == 4


# --- random histories against a plain account of what was done


@st.composite
def histories(draw: st.DrawFn) -> list[tuple[Any, ...]]:
    step = st.one_of(
        st.tuples(st.just("night"), st.integers(0, 3), st.booleans()),
        st.tuples(
            st.just("edit"),
            st.integers(0, 2),  # how many datasets ago the copy was made
            st.lists(
                st.tuples(st.sampled_from(("change", "add", "delete")), st.integers(0, 50)),
                max_size=4,
            ),
            st.booleans(),
        ),
    )
    return draw(st.lists(step, min_size=1, max_size=6))


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(histories())
def test_nothing_of_theirs_is_lost_and_nothing_else_changes(history: list[tuple[Any, ...]]) -> None:
    with tempfile.TemporaryDirectory() as place:
        job = opened(Path(place))
        add(job[0], 0, ["0.jpg", "1.jpg"])
        datasets = [merge(job)]
        ever = contents(datasets[0])
        used = set(by_id(datasets[0]))
        images = 2
        for number, (kind, *how) in enumerate(history, 1):
            before = datasets[-1]
            copied: Dataset = before
            if kind == "night":
                new, again = how
                names = [f"{each}.jpg" for each in range(images, images + new)]
                redone = ["0.jpg"] if again else []
                add(job[0], number, redone + names, turn=number)
                images += new
            else:
                back, changes, rewritten = how
                base = datasets[max(0, len(datasets) - 1 - back)]
                copied = copy.deepcopy(base)
                for change, pick in changes:
                    found = copied["annotations"]
                    if change == "add":
                        free = max(by_id(copied), default=0) + 1
                        found.append({"id": free, "image_id": 1, "category_id": 1, "area": 1,
                                      "bbox": [0, 0, 1, 1], "iscrowd": 0, "by": f"{number} {free}",
                                      "segmentation": [[0, 0, 1, 0, 1, 1]]})  # fmt: skip
                    elif found and change == "change":
                        found[pick % len(found)]["by"] = f"{number} {pick}"
                    elif found:
                        del found[pick % len(found)]
                if rewritten:
                    copied = {name: copied[name] for name in sorted(copied) if name != "info"}
                save(job, copied)
            datasets.append(merge(job, once=number < len(history)))
            now, after = contents(datasets[-1]), by_id(datasets[-1])
            loads(datasets[-1])
            theirs = contents(copied)
            assert theirs - ever <= now, "what people made is there"
            if kind == "edit":
                assert now <= contents(before) | theirs - ever, "and nothing else comes"
                lost = [each for each in contents(before) - now if '"by"' not in each]
                assert not set(lost) & theirs, "what they have stays"
                assert not (contents(base) - theirs) & {each for each in now if '"by"' not in each}
            stays = contents(before) & theirs
            for each in before["annotations"]:
                if content(each) in stays and (kind == "edit" or "by" in each):
                    assert after[each["id"]] == each, "as it was, with its id"
            fresh = after.keys() - by_id(before).keys()
            if kind == "night":
                assert len(fresh) == 2 * (how[0] + how[1])
            assert not fresh & used, "no id comes again"
            used |= after.keys()
            ever |= now | theirs
            assert len(datasets[-1]["images"]) == images


def content(annotation: dict[str, Any]) -> str:
    return json.dumps({**annotation, "id": 0}, sort_keys=True)


def contents(dataset: Dataset) -> set[str]:
    return {content(each) for each in dataset["annotations"]}


# --- files that cannot be taken in, and others at work at the same time


def broken(how: str, dataset: Dataset) -> bytes:
    first, second = dataset["annotations"][:2]
    images = dataset["images"]
    match how:
        case "cut short":
            return json.dumps(dataset).encode()[:-40]
        case "empty":
            return b""
        case "another's":
            dataset = {"images": [], "annotations": [], "categories": []}
        case "an id twice":
            second["id"] = first["id"]
        case "no id":
            del second["id"]
        case "an id that is none":
            second["id"] = "two"
        case "an id that is a list":
            second["id"] = [2]
        case "no category":
            del second["category_id"]
        case "an unknown category":
            second["category_id"] = 99
        case "a category in words":
            second["category_id"] = "1"
        case "no annotations":
            del dataset["annotations"]
        case "a list in place of a record":
            dataset["annotations"][0] = [1]
        case "images renumbered":
            images[0]["id"], images[1]["id"] = images[1]["id"], images[0]["id"]
        case "a file name changed":
            images[0]["file_name"] = "data/a.jpg"
        case "an image added":
            images.append(images[0] | {"id": 3, "file_name": "c.jpg"})
    return json.dumps(dataset).encode()


@pytest.mark.parametrize(
    ("how", "why"),
    [
        ("cut short", "premature EOF"),
        ("empty", "premature EOF"),
        ("another's", "it lists no images"),
        ("an id twice", "an id of its annotations is there twice"),
        ("no id", "one of its annotations lacks one of id image_id category_id"),
        ("no category", "one of its annotations lacks one of id image_id category_id"),
        ("an unknown category", "its category 99 is none of the job's"),
        ("a category in words", "its category '1' is none of the job's"),
        ("no annotations", "it lists no annotations at all"),
        ("a list in place of a record", "one of its annotations lacks one of id"),
        ("an id that is a list", "no whole number"),
        ("an id that is none", "no whole number"),
        ("images renumbered", "image 1, 'b.jpg', is none of the job's"),
        ("a file name changed", "image 1, 'data/a.jpg', is none of the job's"),
        ("an image added", "image 3, 'c.jpg', is none of the job's"),
    ],
)
def test_what_cannot_be_taken_in_is_left_as_it_is(
    job: tuple[Folder, Job], how: str, why: str
) -> None:
    add(job[0], 1, ["a.jpg", "b.jpg"])
    data = broken(how, merge(job))
    uri = job[0].file("instances.json")
    put(uri, data)
    add(job[0], 2, ["c.jpg"])
    with pytest.raises(JobError, match=why) as refused:
        merge_all(*job, NOTHING_DRAWN)
    assert "--replace-edited" in str(refused.value)
    assert "\n" not in str(refused.value)
    assert get(uri) == data
    assert not exists(job[0].file("edits/run/00000.json"))
    merge_all(*job, NOTHING_DRAWN, replace_edited=True)
    assert len(merge(job)["images"]) == 3


def test_replace_edited_drops_what_was_edited_since_and_nothing_before(
    job: tuple[Folder, Job],
) -> None:
    add(job[0], 1, ["a.jpg"])
    theirs = merge(job)
    theirs["annotations"][0]["by"] = "eve"
    save(job, theirs)
    kept = merge(job)
    save(job, kept | {"annotations": []})
    merge_all(*job, NOTHING_DRAWN, replace_edited=True)
    assert merge(job) == kept


@pytest.mark.parametrize("step", ["write_all", "refuse_replaced"])
def test_who_edits_while_it_is_merged_loses_nothing(
    job: tuple[Folder, Job], monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    """What is replaced is what was taken in: edited in between, it is taken in first."""
    add(job[0], 1, ["a.jpg", "b.jpg"])
    theirs = merge(job)
    really, edits = getattr(tasks.merge, step), iter(("eve", "adam"))

    def edited(*args: Any) -> Any:
        if by := next(edits, None):
            number = 0 if by == "eve" else 1
            theirs["annotations"][number]["by"] = by
            save(job, theirs)
        return really(*args)

    monkeypatch.setattr(tasks.merge, step, edited)
    add(job[0], 2, ["c.jpg"])
    merge_all(*job, NOTHING_DRAWN)
    monkeypatch.undo()
    assert [each.get("by") for _, each in sorted(by_id(merge(job)).items())][:2] == ["eve", "adam"]


@pytest.mark.parametrize("step", ["_take_in", "write_all", "refuse_replaced", "hash_of"])
def test_two_mergers_and_one_who_edits(
    job: tuple[Folder, Job], monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    """One merger sleeps at this step while another takes in what was edited, and more parts."""
    add(job[0], 1, ["a.jpg"])
    theirs = merge(job)
    really, slept = getattr(tasks.merge, step), []

    def asleep(*args: Any) -> Any:
        if not slept:
            slept.append(step)
            theirs["annotations"].append(theirs["annotations"][0] | {"id": 3, "by": "eve"})
            save(job, theirs)
            add(job[0], 2, ["b.jpg"])
            merge_all(*job, NOTHING_DRAWN)
            add(job[0], 3, ["c.jpg"])
        return really(*args)

    monkeypatch.setattr(tasks.merge, step, asleep)
    merge_all(*job, NOTHING_DRAWN)
    monkeypatch.undo()
    after = by_id(merge(job))
    assert after[3]["by"] == "eve"
    assert len(after) == 7


def test_a_segment_of_a_merger_that_knew_no_edits_takes_none_of_their_ids(
    job: tuple[Folder, Job], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It has looked before the edits were taken in, and writes while they are."""
    add(job[0], 1, ["a.jpg"])
    theirs = merge(job)
    theirs["annotations"].append(theirs["annotations"][0] | {"id": 3, "by": "eve"})
    save(job, theirs)
    really, late = Segments.reserve, []

    def reserve(self: Segments, last: int) -> None:
        if not late:
            late.append(self)
            add(job[0], 2, ["b.jpg"])
            with scratch(TABLES + SEGMENTS) as db:
                Segments(job[0], db).grow()
        really(self, last)

    monkeypatch.setattr(Segments, "reserve", reserve)
    after = by_id(merge(job))
    assert len(after) == 5
    assert [n for n, each in after.items() if each.get("by") == "eve"] == [5], "3 and 4 were given"


@pytest.mark.parametrize("writes", [0, 1])
def test_a_merge_that_is_cut_off_takes_nothing_in_twice(
    job: tuple[Folder, Job], monkeypatch: pytest.MonkeyPatch, writes: int
) -> None:
    add(job[0], 1, ["a.jpg"])
    old = merge(job)
    add(job[0], 2, ["b.jpg"])
    merge(job)
    old["annotations"].append(old["annotations"][0] | {"id": 3, "by": "eve"})
    save(job, old)
    module, step = (tasks.merge, "keep") if writes else (Segments, "reserve")
    really = getattr(module, step)

    def cut_off(*args: Any) -> None:
        really(*args)
        raise KeyboardInterrupt

    monkeypatch.setattr(module, step, cut_off)
    with pytest.raises(KeyboardInterrupt):
        merge_all(*job, NOTHING_DRAWN)
    monkeypatch.undo()
    after = by_id(merge(job))
    assert len(after) == 5
    assert sum(each.get("by") == "eve" for each in after.values()) == 1


def test_where_others_were_first_it_is_looked_at_again(
    job: tuple[Folder, Job], monkeypatch: pytest.MonkeyPatch
) -> None:
    add(job[0], 1, ["a.jpg"])
    theirs = merge(job)
    theirs["annotations"][0]["by"] = "eve"
    save(job, theirs)
    really, first = tasks.merge.hash_of, job[0].file("edits/run/00000.json")

    def hash_of(uri: str) -> str | None:
        if not exists(first):
            put(first, b'{"section":"annotations","id":2,"body":null}\n')
        return really(uri)

    monkeypatch.setattr(tasks.merge, "hash_of", hash_of)
    merge_all(*job, NOTHING_DRAWN)
    assert [each.get("by") for each in merge(job)["annotations"]] == ["eve"]


def test_memory_does_not_grow_with_what_is_edited(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tasks.edits, "LINES", 200)
    peaks = []
    for count in (300, 1500):
        job = opened(tmp_path / str(count))
        for part in range(5):
            add(job[0], part, [f"{part}-{n}.jpg" for n in range(count // 10)], found=20)
        merge_all(*job, NOTHING_DRAWN)
        theirs = json.loads(get(job[0].file("instances.json")))
        for each in theirs["annotations"]:
            each["by"] = "eve" * 20
        save(job, theirs)
        del theirs
        tracemalloc.start()
        merge_all(*job, NOTHING_DRAWN)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
        assert get(job[0].file("instances.json")).count(b'"by"') == 10 * count
    assert peaks[1] < peaks[0] + (1 << 20), peaks
