"""Datasets that grow by schedules: a bucket changes between runs, and each object is run once."""

from __future__ import annotations

import dataclasses
import json
import shutil
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from random import Random
from typing import BinaryIO
from urllib.parse import quote_plus

import msgspec
import pytest
from pycocotools.coco import COCO
from redis import Redis

from storage import delete, disk, list_entries, put
from storage.uris import Location, parse
from tasks.folder import find_job, missing_shards, read_job
from tasks.markers import cancel, halt_of, lift
from tasks.merge import is_merged, merge_all
from tasks.open_jobs import append
from tasks.runs import Book, End, place_of
from tasks.schedules import Schedule
from tests.graphs import write_model
from tests.growing import Nights, but_for_ids, dataset, failed, fleet_of, fresh_run, ids, work_off
from tests.pictures import jpeg
from tests.running import maskmill
from tests.schedules import toml
from tests.services import redis_server
from worker.audit import problems
from worker.limits import Limits
from worker.station import Station


@pytest.fixture(scope="module")
def card(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(write_model(tmp_path_factory.mktemp("model"), "b"))


class Bucket:
    """What lies below a prefix, by name: the seed of its picture, or None for what is none."""

    def __init__(self, root: str) -> None:
        self.root, self.there = root, dict[str, int | None]()

    def put(self, name: str, seed: int | None) -> None:
        put(f"{self.root}/{name}", b"no picture" if seed is None else jpeg(seed))
        self.there[name] = seed

    def delete(self, name: str) -> None:
        delete(f"{self.root}/{name}")
        del self.there[name]


@pytest.fixture
def bucket(moto_s3: str) -> Bucket:
    return Bucket(f"{moto_s3}/new")


@pytest.fixture
def nights(tmp_path: Path, bucket: Bucket, card: str) -> Iterator[Nights]:
    schedule = Schedule(
        name="nightly",
        every="1d",
        inputs=(f"{bucket.root}/",),
        model=card,
        into=f"{bucket.root.removesuffix('/new')}/grown",
        options={"shard_size": 3, "threshold": 0.1},
    )
    made = Nights(schedule, fleet_of(tmp_path))
    yield made
    made.fleet.app.close()


def loads(output: str, folder: Path) -> COCO:
    file = folder / "instances.json"
    file.write_text(json.dumps(dataset(output)))
    return COCO(str(file))


@pytest.mark.parametrize("drops", [False, True])
def test_a_bucket_that_changes_between_runs(
    drops: bool, nights: Nights, bucket: Bucket, tmp_path: Path
) -> None:
    nights.schedule = msgspec.structs.replace(nights.schedule, drop_vanished=drops)
    into = nights.schedule.into
    for n in range(7):
        bucket.put(f"{n}.jpg", n)
    bucket.put("broken.jpg", None)
    assert nights.night() == End("finished-with-failures", "", 7, 1)
    assert nights.taken() == Counter([*(f"{n}.jpg" for n in range(7)), "broken.jpg"])
    first_ids, first_annotations = ids(dataset(into))
    assert len(first_annotations) > 7

    assert nights.night() == End("nothing-new")

    bucket.put("7.jpg", 7)  # new
    bucket.put("1.jpg", 101)  # changed
    bucket.put("2.jpg", 2)  # again, with the same bytes
    bucket.delete("3.jpg")
    assert nights.night() == End("finished", "", 2, 0)
    assert nights.taken() == Counter(["7.jpg", "1.jpg"])
    found = dataset(into)
    now_ids, now_annotations = ids(found)
    assert now_ids == {**{k: v for k, v in first_ids.items() if not (drops and k == "3.jpg")},
                       "7.jpg": 9}  # fmt: skip
    vanished = [each["file_name"] for each in found["images"] if each.get("vanished")]
    assert vanished == ([] if drops else ["3.jpg"])
    for number in first_annotations.keys() & now_annotations.keys():
        assert first_annotations[number] == now_annotations[number]
    assert failed(into) == {("broken.jpg", "not-an-image")}

    bucket.put("3.jpg", 3)  # back as it was
    bucket.put("broken.jpg", 8)  # mended
    assert nights.night() == End("finished", "", 1, 0)
    assert nights.taken() == Counter(["broken.jpg"])
    found = dataset(into)
    assert not any(each.get("vanished") for each in found["images"])
    again_ids, again_annotations = ids(found)
    assert again_ids["3.jpg"] == first_ids["3.jpg"]
    assert {n for n, said in first_annotations.items() if '"3.jpg"' in said} <= set(
        again_annotations
    )
    assert failed(into) == set()
    coco = loads(into, tmp_path)
    assert len(coco.imgs) == 9
    fresh_run(nights.schedule, f"{into}-fresh", nights.fleet)
    assert but_for_ids(found) == but_for_ids(dataset(f"{into}-fresh"))


@pytest.mark.parametrize("seed", range(2))
def test_random_nights(seed: int, nights: Nights, bucket: Bucket, tmp_path: Path) -> None:
    """Each night is held against a run over what is there, and ids against the nights before."""
    random, known, was = Random(seed), dict[str, int | None](), dict[str, int]()
    drops = seed % 2 == 0
    nights.schedule = msgspec.structs.replace(nights.schedule, drop_vanished=drops)
    into, annotated = nights.schedule.into, dict[int, str]()
    bucket.put("always.jpg", 0)
    for night in range(5):
        for _ in range(random.randint(0, 5)):
            name = f"{random.randrange(6)}.jpg"
            if name in bucket.there and random.random() < 0.4:
                bucket.delete(name)
            else:
                bucket.put(name, random.choice([1, 2, 3, None]))
        wanted = {n: seed for n, seed in bucket.there.items() if known.get(n, -1) != seed}
        end = nights.night()
        if end.state != "nothing-new":
            assert nights.taken() == Counter(wanted.keys())
        assert (end.images + end.failures) == len(wanted)
        known |= wanted
        found = dataset(into)
        fresh_run(nights.schedule, f"{into}-{night}", nights.fleet)
        alike = but_for_ids(found, without_vanished=True)
        assert alike == but_for_ids(dataset(f"{into}-{night}"))
        assert failed(into) == failed(f"{into}-{night}")
        gone = {each["file_name"] for each in found["images"] if each.get("vanished")}
        assert not gone & bucket.there.keys()
        assert drops <= (not gone)
        images, annotations = ids(found)
        assert all(was.setdefault(name, number) == number for name, number in images.items())
        assert all(annotated.setdefault(n, said) == said for n, said in annotations.items())
        loads(into, tmp_path)
        job, folder = find_job(into)
        assert list(problems(folder, job)) == []


def test_each_nights_job_has_what_is_new(nights: Nights, bucket: Bucket) -> None:
    root = bucket.root.removesuffix("/new")
    nights.schedule = msgspec.structs.replace(
        nights.schedule, into="", output=f"{root}/{{name}}/{{date}}", incremental=True
    )
    for n in range(4):
        bucket.put(f"{n}.jpg", n)
    assert nights.night() == End("finished", "", 4, 0)
    assert nights.night() == End("nothing-new")
    assert read_job(nights.run.output) is None
    bucket.put("1.jpg", 11)
    bucket.put("4.jpg", None)
    bucket.delete("0.jpg")
    assert nights.night() == End("finished-with-failures", "", 1, 1)
    assert nights.taken() == Counter(["1.jpg", "4.jpg"])
    assert nights.night() == End("nothing-new")


def test_another_model_or_other_settings_annotate_all_anew(
    nights: Nights, bucket: Bucket, tmp_path: Path
) -> None:
    root = bucket.root.removesuffix("/new")
    first = msgspec.structs.replace(
        nights.schedule, into="", output=f"{root}/{{run}}", incremental=True
    )
    other = str(write_model(tmp_path / "other", "a", "other"))
    bucket.put("0.jpg", 0)
    for schedule, images in (
        (first, 1),
        (msgspec.structs.replace(first, options={"threshold": 0.2}), 1),
        (msgspec.structs.replace(first, options={"threshold": 0.1, "shard_size": 7}), 0),
        (msgspec.structs.replace(first, model=other), 1),
        (first, 0),
    ):
        nights.schedule = schedule
        assert nights.night().images == images


def test_what_could_not_be_fetched_comes_again(
    nights: Nights, bucket: Bucket, monkeypatch: pytest.MonkeyPatch
) -> None:
    bucket.put("0.jpg", 0)
    bucket.put("1.jpg", 1)
    nights.begin()
    monkeypatch.setenv("MASKMILL_MAX_BYTES", "10")
    put(f"{bucket.root}/1.jpg", jpeg(2))  # after it was listed
    bucket.there["1.jpg"] = 2
    assert nights.finish() == End("finished-with-failures", "", 1, 1)
    assert failed(nights.schedule.into) == {("1.jpg", "changed")}
    assert nights.night() == End("finished", "", 1, 0)
    assert nights.taken() == Counter(["1.jpg"])
    assert failed(nights.schedule.into) == set()
    assert nights.night() == End("nothing-new")


def test_a_dataset_that_was_deleted_begins_anew(nights: Nights, bucket: Bucket) -> None:
    bucket.put("0.jpg", 0)
    assert nights.night().images == 1
    for each in list(list_entries(f"{nights.schedule.into}/")):
        delete(each.uri)
    assert nights.night().images == 1


class Crash(BaseException):
    """The process is gone."""


@contextmanager
def crash(monkeypatch: pytest.MonkeyPatch, step: int, after: bool) -> Iterator[list[int]]:
    """Dies at a write or deletion, before or after it is done; yields how many are still left."""
    left, lock, write, remove = [step], threading.Lock(), disk.open_write, disk.delete

    def is_due() -> bool:
        with lock:
            left[0] -= 1
            return left[0] == -1

    @contextmanager
    def open_write(location: Location, only_new: bool = False) -> Iterator[BinaryIO]:
        due = is_due()
        if due and not after:
            raise Crash
        with write(location, only_new) as stream:
            yield stream
        if due:
            raise Crash

    def delete(location: Location) -> None:
        due = is_due()
        if due and not after:
            raise Crash
        remove(location)
        if due:
            raise Crash

    with monkeypatch.context() as patched:
        patched.setattr(disk, "open_write", open_write)
        patched.setattr(disk, "delete", delete)
        yield left


@pytest.mark.parametrize("after", [False, True])
def test_a_crash_at_each_step_loses_and_doubles_nothing(
    after: bool, nights: Nights, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    photos = Bucket(str(tmp_path / "photos"))
    for n in range(4):
        photos.put(f"{n}.jpg", n)
    into, world, before = str(tmp_path / "world/grown"), tmp_path / "world", tmp_path / "before"
    nights = Nights(
        msgspec.structs.replace(nights.schedule, inputs=(f"{photos.root}/",), into=into),
        fleet_of(world),
    )
    nights.night()
    base = ids(dataset(into))
    photos.put("1.jpg", 11)
    photos.delete("2.jpg")
    photos.put("4.jpg", 4)
    photos.put("5.jpg", None)
    world.rename(before)

    def again() -> Nights:
        """The night to come, once more."""
        shutil.rmtree(world, ignore_errors=True)
        shutil.copytree(before, world)
        return dataclasses.replace(nights)

    plain = again()
    assert plain.night() == End("finished-with-failures", "", 2, 1)
    wanted, taken = but_for_ids(dataset(into)), plain.taken()
    for step in range(1000):
        one = again()
        with crash(monkeypatch, step, after) as left, suppress(Crash):
            one.night()
        if left[0] >= 0:
            break
        assert one.finish() == End("finished-with-failures", "", 2, 1), step
        assert one.taken() == taken, step
        found = dataset(into)
        assert but_for_ids(found) == wanted, step
        assert ids(found)[0].items() >= base[0].items(), step
        assert all(base[1].get(n, said) == said for n, said in ids(found)[1].items()), step
        assert one.night() == End("nothing-new"), step
    assert step > 15


@pytest.mark.parametrize("done", range(3))
def test_a_budget_cuts_a_run_off_and_leaves_the_dataset_going(
    done: int, nights: Nights, bucket: Bucket
) -> None:
    nights.schedule = msgspec.structs.replace(nights.schedule, budget="6h")
    into = nights.schedule.into
    bucket.put("0.jpg", 0)
    bucket.put("1.jpg", 1)
    nights.night()
    bucket.delete("0.jpg")
    for n in range(2, 9):
        bucket.put(f"{n}.jpg", n)
    nights.begin()
    work_off(into, nights.station, only=done)
    assert nights.look(5.9) == []
    assert "is failed: it took longer than its budget of 6h" in nights.look(0.2)[0]
    assert nights.end == End("failed", "it took longer than its budget of 6h")
    job, folder = find_job(into)
    assert halt_of(folder) is None
    assert missing_shards(folder, job) == []
    merge_all(folder, job, lambda *_: False)
    assert [each["file_name"] for each in dataset(into)["images"] if each.get("vanished")] == [
        "0.jpg"
    ]
    assert len(failed(into)) in (4, 6)  # one part has an image and a mark
    assert {kind for _, kind in failed(into)} == {"cancelled"}
    assert list(problems(folder, job)) == []
    late = {name for name, _ in failed(into)}
    assert nights.night() == End("finished", "", len(late), 0)
    assert nights.taken() == Counter(late)
    found = dataset(into)
    assert [each["file_name"] for each in found["images"] if each.get("vanished")] == ["0.jpg"]
    fresh_run(nights.schedule, f"{into}-fresh", nights.fleet)
    assert but_for_ids(found, without_vanished=True) == but_for_ids(dataset(f"{into}-fresh"))
    assert failed(into) == set()


def test_a_shard_that_comes_after_the_budget(
    nights: Nights, bucket: Bucket, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A worker that has it in hand finds that it has ended; its images come again."""
    nights.schedule = msgspec.structs.replace(nights.schedule, budget="6h")
    bucket.put("0.jpg", 0)
    nights.begin()
    station = Station(tell=lambda event: nights.look(7) if event["event"] == "taken" else None)
    work_off(nights.schedule.into, station)
    assert nights.end.state == "failed"
    assert failed(nights.schedule.into) == {("0.jpg", "cancelled")}
    assert nights.night() == End("finished", "", 1, 0)
    assert failed(nights.schedule.into) == set()


def test_a_dataset_that_a_person_stopped_gets_nothing(nights: Nights, bucket: Bucket) -> None:
    bucket.put("0.jpg", 0)
    nights.night()
    job, folder = find_job(nights.schedule.into)
    cancel(folder)
    bucket.put("1.jpg", 1)
    nights.begin()
    assert nights.end.state == "failed"
    assert "is cancelled: a person cancelled it; maskmill resume" in nights.end.reason
    assert missing_shards(folder, job) == []
    lift(folder)
    assert nights.night() == End("finished", "", 1, 0)


def test_limits_of_a_worker_hold(nights: Nights, bucket: Bucket) -> None:
    """Where the dataset is, what its inputs are, and what each worker fetches."""
    root = bucket.root.removesuffix("/new")
    bucket.put("0.jpg", 0)
    for roots, said in (
        (Limits(output_roots=("s3://other/",)), "grown is not below any of this worker"),
        (Limits(input_roots=("/", "s3://other/")), "new/ is not below MASKMILL_INPUT_ROOTS"),
    ):
        nights.fleet = nights.fleet._replace(allow=roots.check_message)
        nights.begin()
        assert nights.end.state == "failed"
        assert said in nights.end.reason
        assert read_job(nights.schedule.into) is None
    station = Station(limits=Limits(input_roots=(f"{root}/other/",)))
    nights.fleet, nights.station = fleet_of(Path(nights.fleet.state.uri).parent), station
    assert nights.night() == End("finished-with-failures", "", 0, 1)
    assert failed(nights.schedule.into) == {("0.jpg", "refused")}
    bucket.delete("0.jpg")
    bucket.put("1.jpg", 1)
    nights.station = Station()
    assert nights.night() == End("finished", "", 1, 0)


class EventList:
    """A list in Redis to which a store appends as MinIO does."""

    def __init__(self, url: str) -> None:
        self.url, self.client = f"{url}/photos", Redis.from_url(url)

    def tell(self, bucket: Bucket, *names: str) -> None:
        for name in names:
            (entry,) = list_entries(f"{bucket.root}/{name}"[: -len(name)], starting=name)
            place = parse(entry.uri)
            about = {
                "eventName": "s3:ObjectCreated:Put",
                "s3": {
                    "bucket": {"name": place.host},
                    "object": {"key": quote_plus(place.path), "eTag": entry.version.strip('"')},
                },
            }
            body = json.dumps([{"Event": [about], "EventTime": "2026-11-21T10:00:00.000Z"}])
            self.client.rpush("photos", body)


@pytest.fixture
def told(nights: Nights) -> Iterator[EventList]:
    with redis_server() as url:
        made = EventList(url)
        nights.schedule = msgspec.structs.replace(nights.schedule, inputs=(), events=made.url)
        yield made


def test_events_come_to_a_dataset(nights: Nights, bucket: Bucket, told: EventList) -> None:
    into = nights.schedule.into
    assert nights.night() == End("nothing-new")
    assert read_job(into) is None
    for n in range(5):
        bucket.put(f"{n} ä.jpg", n)
    told.tell(bucket, "0 ä.jpg", "1 ä.jpg", "0 ä.jpg")
    assert nights.night() == End("finished", "", 2, 0)
    assert nights.taken() == Counter(["0 ä.jpg", "1 ä.jpg"])
    assert told.client.llen("photos") == 0
    told.tell(bucket, "1 ä.jpg", "2 ä.jpg")  # one comes again
    told.client.rpush("photos", "not JSON")
    assert nights.night() == End("finished", "", 1, 0)
    assert nights.taken() == Counter(["2 ä.jpg"])
    assert len(list(list_entries(f"{nights.fleet.state.uri}/dead/"))) == 1
    bucket.put("0 ä.jpg", 10)
    told.tell(bucket, "0 ä.jpg")
    assert nights.night() == End("finished", "", 1, 0)
    for name in ("3 ä.jpg", "4 ä.jpg"):
        bucket.delete(name)
    assert nights.night() == End("nothing-new")
    assert not any("vanished" in each for each in dataset(into)["images"])


def test_a_crash_between_events(
    nights: Nights, bucket: Bucket, told: EventList, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They are stored and deleted, and the word that they were is lost."""
    bucket.put("0.jpg", 0)
    told.tell(bucket, "0.jpg")
    write = Book.write

    def crash(book: Book, name: str, value: object) -> None:
        if name.endswith("seen.json"):
            raise Crash
        write(book, name, value)

    monkeypatch.setattr(Book, "write", crash)
    with pytest.raises(Crash):
        nights.night()
    monkeypatch.setattr(Book, "write", write)
    assert nights.finish() == End("finished", "", 1, 0)


def test_two_schedules_add_to_one_dataset(nights: Nights, bucket: Bucket) -> None:
    """In the same second; what one no longer finds is nothing to the other."""
    other = Bucket(bucket.root.replace("/new", "/old"))
    bucket.put("a.jpg", 0)
    other.put("b.jpg", 1)
    inputs = (f"{other.root}/",)
    older = Nights(
        msgspec.structs.replace(nights.schedule, name="older", inputs=inputs), nights.fleet
    )
    for each in (nights, older):
        each.begin()
    assert older.finish() == End("finished", "", 1, 0)
    assert nights.finish() == End("finished", "", 1, 0)
    assert nights.taken() == Counter(["a.jpg"])
    bucket.delete("a.jpg")
    bucket.put("c.jpg", 2)
    assert nights.night() == End("finished", "", 1, 0)
    assert older.night() == End("nothing-new")
    found = dataset(nights.schedule.into)["images"]
    assert {each["file_name"]: each.get("vanished", False) for each in found} == {
        "a.jpg": True,
        "b.jpg": False,
        "c.jpg": False,
    }


def test_run_and_list_tell_what_came_of_it(nights: Nights, bucket: Bucket) -> None:
    bucket.put("0.jpg", 0)
    bucket.put("1.jpg", None)
    nights.night()
    put(place_of(nights.fleet.state), toml(nights.schedule))
    fleet = {"MASKMILL_STATE": nights.fleet.state.uri, "MASKMILL_BROKER_URL": "memory://"}
    (last,) = maskmill("schedule", "list", "--json", **fleet).events
    about = {name: last[name] for name in ("state", "images", "failures", "output")}
    assert about == {
        "state": "finished-with-failures",
        "images": 1,
        "failures": 1,
        "output": nights.schedule.into,
    }
    done = maskmill("schedule", "run", "nightly", **fleet)
    assert (done.code, done.out.endswith("is nothing-new\n")) == (0, True), done.err
    bucket.delete("0.jpg")
    bucket.delete("1.jpg")
    done = maskmill("schedule", "run", "nightly", **fleet)
    assert (done.code, "is failed: no inputs match s3://" in done.out) == (4, True)


def test_a_run_ends_though_others_add_to_its_dataset_all_the_time(
    nights: Nights, bucket: Bucket
) -> None:
    """Whenever somebody looks, there is a shard that is not merged yet."""
    into, others = nights.schedule.into, Bucket(bucket.root.replace("/new", "/cam"))

    def another(n: int) -> None:
        others.put(f"cam {n}.jpg", n)
        asked = {**nights.schedule.options, "fleet": nights.fleet}
        append([f"{others.root}/cam {n}.jpg"], nights.schedule.model, into, **asked)
        work_off(into, only=0)

    bucket.put("0.jpg", 0)
    nights.begin()
    work_off(into)
    another(1)
    assert nights.look(0.1) == []
    job, folder = find_job(into)
    merge_all(folder, job, lambda *_: False)
    another(2)
    assert not is_merged(folder, job)
    assert "is finished" in nights.look(0.1)[0]
    assert nights.end == End("finished", "", 1, 0)


def test_what_lies_there_is_refused(nights: Nights, bucket: Bucket) -> None:
    """A dataset of another model, and a job with a plan."""
    bucket.put("0.jpg", 0)
    fresh_run(nights.schedule, nights.schedule.into, nights.fleet)
    nights.begin()
    assert nights.end.state == "failed"
    assert "holds a job with a plan, to which nothing can be added" in nights.end.reason
    options = {"shard_size": 3, "threshold": 0.1}
    made = msgspec.structs.replace(nights.schedule, into=f"{bucket.root}-grown", options=options)
    nights.schedule = made
    assert nights.night().state == "finished"
    nights.schedule = msgspec.structs.replace(made, options={"threshold": 0.2})
    nights.begin()
    assert "holds an open job with other threshold (0.1 before, 0.2 now)" in nights.end.reason


def test_what_people_edit_survives_the_nights(nights: Nights, bucket: Bucket) -> None:
    into = nights.schedule.into
    for n in range(4):
        bucket.put(f"{n}.jpg", n)
    nights.night()
    found = dataset(into)
    names = {each["id"]: each["file_name"] for each in found["images"]}
    first, second, *_ = (a for a in found["annotations"] if names[a["image_id"]] == "0.jpg")
    first["bbox"], first["checked"] = [1, 2, 3, 4], "by a person"
    found["annotations"].remove(second)
    put(f"{into}/instances.json", json.dumps(found, indent=1).encode())
    bucket.put("1.jpg", 11)
    bucket.put("4.jpg", 4)
    bucket.delete("2.jpg")
    assert nights.night() == End("finished", "", 2, 0)
    now = {each["id"]: each for each in dataset(into)["annotations"]}
    assert now[first["id"]] == first
    assert second["id"] not in now
    assert nights.taken() == Counter(["1.jpg", "4.jpg"])
    assert nights.night() == End("nothing-new")


def test_a_schedule_fills_what_lacks_annotations(nights: Nights, bucket: Bucket) -> None:
    for n in range(3):
        bucket.put(f"{n}.jpg", n)
    images = [{"id": 10 + n, "file_name": f"{n}.jpg", "width": 96, "height": 72} for n in range(3)]
    drawn = {"id": 7, "image_id": 11, "category_id": 1, "bbox": [1, 2, 3, 4], "area": 12}
    drawn |= {"segmentation": [[1, 2, 4, 2, 4, 6]], "iscrowd": 0}
    coco = {"images": images, "annotations": [drawn], "categories": [{"id": 1, "name": "ash"}]}
    put(f"{bucket.root}/old.json", json.dumps(coco).encode())
    nights.schedule = msgspec.structs.replace(
        nights.schedule,
        inputs=(f"{bucket.root}/old.json",),
        into="",
        output=f"{bucket.root}-{{run}}",
        options={"only_unannotated": True},
    )
    assert nights.night().state == "finished"
    assert nights.taken() == Counter(["0.jpg", "2.jpg"])
    found = dataset(nights.run.output)
    assert sorted(each["id"] for each in found["images"]) == [10, 11, 12]
    assert [each for each in found["annotations"] if each["image_id"] == 11] == [drawn]
