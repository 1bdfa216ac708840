"""Frames in a dataset: the table of videos, and what each image says of its own."""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import re
import tracemalloc
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from posixpath import basename, splitext

import msgspec
import pytest
from pycocotools.coco import COCO

from storage import get, put
from tasks.cards import Build, Card, Model
from tasks.edits import TABLES, Edits
from tasks.folder import Folder
from tasks.merge import Merged, merge_all, merge_part, write_all
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
    Video,
    VideoFrame,
    encode,
    encode_lines,
)
from tasks.segments import TABLES as SEGMENTS
from worker.audit import problems
from worker.per_image import write_per_image

CARD = Card("canned", "yolact", (Build("canned.onnx"),), ("ash",))
BY = ProducedBy("0" * 64, "onnx", "1", "fp32", "", "avx2")
NOTHING_DRAWN = lambda folder, job, picks: False  # noqa: E731
CLIP = Video("clip.mp4", 4, 4, 25.0, 10.0, "h264")
OTHER = Video("b/other.mkv", 4, 4, 30.0, 2.5, "vp9")
RUN = "run"


def item(number: int, video: Video | None, index: int, host: str = "s3://b") -> Item:
    if video is None:
        return Item(number, f"{host}/{index}.jpg", f"{index}.jpg")
    frame = VideoFrame(index, index * 512, round(index / video.fps, 6), 0)
    name = f"{video.name}/frame_{index:06d}.jpg"
    return Item(number, f"{host}/{video.name}#frame={index}", name, frame=frame)


def image_of(each: Item, videos: Iterable[Video] = (CLIP, OTHER)) -> Image:
    if each.frame is None:
        return Image(each.id, each.file_name, 4, 4)
    video = next(video for video in videos if each.file_name.startswith(video.name))
    return Image(
        *(each.id, each.file_name, 4, 4),
        video=video,
        frame_index=each.frame.index,
        timestamp=each.frame.time,
    )


def ended(part: int | str, items: Iterable[Item], failing: Iterable[int] = ()) -> Shard:
    sound = [each for each in items if each.id not in failing]
    found = [Annotation(each.id, 1, (0.0, 0.0, 1.0, 4.0), 4, MASK, 0.5) for each in sound]
    failures = [
        Failure(each.id, each.uri, each.file_name, "decode", "damaged", "it is")
        for each in items
        if each.id in failing
    ]
    return Shard(part, BY, tuple(map(image_of, sound)), tuple(found), tuple(failures))


MASK = RleMask((4, 4), "04<")


def write(folder: Folder, part: int | str, items: list[Item], failing: Iterable[int] = ()) -> None:
    put(folder.plan(part), b"".join(encode(each) + b"\n" for each in items))
    put(folder.shard(part), encode(ended(part, items, failing)))


def job_of(folder: Folder, items: int, shards: int, *, is_open: bool = False) -> Job:
    settings = Settings(
        categories=CARD.category_list(), class_ids=(1,), max_bytes=1 << 20, max_pixels=1 << 22
    )
    model = Model(CARD, CARD.builds[0], "", "0" * 64, "onnx")
    wanted = Asked((), Selection(), model, settings, 64)
    job = Job(RUN, wanted, Counts(items=items, shards=shards), open=is_open)
    put(folder.file("job.json"), encode(job))
    return job


def dataset(folder: Folder, into: str = "") -> dict[str, list[dict[str, object]]]:
    return json.loads(get(folder.file(into + "instances.json")))


MIXED = [(None, 7), (OTHER, 3), (CLIP, 0), (CLIP, 12), (OTHER, 4), (None, 8), (CLIP, 374)]


def planned(folder: Folder, size: int, failing: Iterable[int] = ()) -> Job:
    items = [item(n, *each) for n, each in enumerate(MIXED, 1)]
    parts = [items[at : at + size] for at in range(0, len(items), size)]
    for number, part in enumerate(parts):
        write(folder, number, part, failing)
    return job_of(folder, len(items), len(parts))


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    return Folder(str(tmp_path / "out"), RUN)


def test_videos_are_numbered_as_they_come(folder: Folder) -> None:
    job = planned(folder, 3)
    merge_all(folder, job, NOTHING_DRAWN)
    made = dataset(folder)
    assert made["videos"] == [
        {"id": 1, "name": "b/other.mkv", "width": 4, "height": 4, "fps": 30.0}
        | {"duration": 2.5, "codec": "vp9"},
        {"id": 2, "name": "clip.mp4", "width": 4, "height": 4, "fps": 25.0}
        | {"duration": 10.0, "codec": "h264"},
    ]
    assert made["images"][2] == {
        "id": 3,
        "file_name": "clip.mp4/frame_000000.jpg",
        "width": 4,
        "height": 4,
        "video_id": 2,
        "frame_index": 0,
        "timestamp": 0.0,
    }
    assert [each.get("video_id") for each in made["images"]] == [None, 1, 2, 2, 1, None, 2]
    assert made["images"][6]["timestamp"] == 14.96
    assert json.loads(get(folder.file("run.json")))["videos"] == 2
    assert list(problems(folder, job)) == []


@pytest.mark.parametrize("size", [1, 2, 5, 7])
def test_the_shard_size_does_not_matter(tmp_path: Path, size: int) -> None:
    made = []
    for each in (3, size):
        folder = Folder(str(tmp_path / f"out{each}"), RUN)
        merge_all(folder, planned(folder, each, failing=[2, 3]), NOTHING_DRAWN)
        made.append(get(folder.file("instances.json")))
    assert made[0] == made[1]
    assert b'"videos":[\n{"id":1,"name":"clip.mp4"' in made[0], "the first that has an image"


def test_a_job_of_images_has_no_videos(folder: Folder) -> None:
    write(folder, 0, [item(1, None, 1)])
    job = job_of(folder, 1, 1)
    merge_all(folder, job, NOTHING_DRAWN)
    assert list(dataset(folder)) == ["info", "licenses", "images", "annotations", "categories"]
    assert "videos" not in json.loads(get(folder.file("run.json")))


def test_a_partial_merge_and_a_retry_have_the_videos(folder: Folder) -> None:
    job = planned(folder, 3, failing=[2, 5, 7])
    items = [item(n, *each) for n, each in enumerate(MIXED, 1)]
    put(folder.plan(1, 1), encode_lines(items[4:5]))
    merge_part(folder, job)
    assert [each["name"] for each in dataset(folder, "partial/")["videos"]] == ["clip.mp4"]
    put(folder.shard(1, 1), encode(ended(1, items[4:5])))
    merge_all(folder, job, NOTHING_DRAWN)
    made = dataset(folder)
    assert [(each["id"], each.get("video_id")) for each in made["images"]] == [
        *((1, None), (3, 1), (4, 1), (5, 2), (6, None))
    ]
    assert [each["name"] for each in made["videos"]] == ["clip.mp4", "b/other.mkv"]
    assert list(problems(folder, job)) == []


def test_ids_of_videos_in_an_open_job_never_change(folder: Folder) -> None:
    job = job_of(folder, 0, 0, is_open=True)
    write(folder, "bb", [item(1, CLIP, 20), item(2, CLIP, 3), item(3, OTHER, 1)], failing=[3])
    merge_all(folder, job, NOTHING_DRAWN)
    first = dataset(folder)
    names = [each["file_name"] for each in first["images"]]
    assert names == ["clip.mp4/frame_000003.jpg", "clip.mp4/frame_000020.jpg"]
    write(folder, "aa", [item(1, OTHER, 1), item(2, CLIP, 1), item(3, CLIP, 20)])
    merge_all(folder, job, NOTHING_DRAWN)
    second = dataset(folder)
    assert second["images"][:2] == first["images"]
    assert second["videos"][:1] == first["videos"]
    added = [(each["id"], each["video_id"], each["frame_index"]) for each in second["images"][2:]]
    assert added == [(1, 2, 1), (4, 1, 1)], "the mended failure has its number"
    assert list(problems(folder, job)) == []


def test_a_hundred_thousand_videos_are_not_held(folder: Folder) -> None:
    job = planned(folder, 3)

    def shards(count: int) -> Iterable[Shard]:
        for number in range(count):
            video = msgspec.structs.replace(CLIP, name=f"{number:0200d}.mp4")
            image = image_of(item(number + 1, video, 0), [video])
            yield Shard(number, BY, (image,), (), ())

    peaks = []
    for count in (5_000, 50_000):
        files = [(folder_file).open("wb") for folder_file in _three(Path(folder.uri))]
        tracemalloc.start()
        with scratch(TABLES + SEGMENTS) as db:
            write_all(job, Merged(0, Counter()), iter(shards(count)), files, Edits(folder, db))
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
        for file in files:
            file.close()
    assert peaks[1] < peaks[0] + (1 << 20), peaks


def _three(folder: Path) -> list[Path]:
    return [folder / name for name in ("a", "b", "c")]


def broken(folder: Folder, old: str, new: str) -> None:
    """Change the dataset as a bug in the merge would, with its hash."""
    data = get(folder.file("instances.json")).decode()
    assert old in data
    data = data.replace(old, new, 1)
    put(folder.file("instances.json"), data.encode())
    run = json.loads(get(folder.file("run.json")))
    run["instances_sha256"] = hashlib.sha256(data.encode()).hexdigest()
    put(folder.file("run.json"), json.dumps(run).encode())


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ('"video_id":2', '"video_id":9'),
        ('"frame_index":12', '"frame_index":0'),
        ('"timestamp":0.48', '"timestamp":20.0'),
        ('{"id":2,"name"', '{"id":3,"name"'),
        ('"videos":[', '"shows":['),
        ('"video_id":2,"frame_index":12,', '"video_id":2,'),
    ],
)
def test_the_audit_finds_what_is_wrong_with_videos(folder: Folder, old: str, new: str) -> None:
    job = planned(folder, 3)
    merge_all(folder, job, NOTHING_DRAWN)
    assert list(problems(folder, job)) == []
    broken(folder, old, new)
    first, second = problems(folder, job)
    assert "instances.json is not what its shards make" in first
    assert "run.json names other sums, or another hash" in second


def test_a_frame_has_an_answer_of_its_own(folder: Folder) -> None:
    job = job_of(folder, 1, 1)
    it = msgspec.structs.replace(
        item(1, CLIP, 374, "https://h"), uri="https://h/clip.mp4?sig=secret#frame=374"
    )
    [event] = write_per_image(folder, job, ended(0, [it]), [it])
    assert event["uri"] == "https://h/clip.mp4#frame=374"
    assert event["key"] == folder.file("per-image/clip.mp4/frame_000374.jpg.json")
    answer = json.loads(get(event["key"]))
    assert answer["uri"] == "https://h/clip.mp4#frame=374"
    assert answer["image"]["video"]["name"] == "clip.mp4"
    assert (answer["image"]["frame_index"], answer["image"]["timestamp"]) == (374, 14.96)
    assert "video_id" not in answer["image"], "ids of videos are those of the dataset"


def cvat_frame(file_name: str, task_frames: int) -> int:
    """Which frame of a video task CVAT takes an image of a COCO file for.

    It tries the name without its suffix as a frame's name, as a number, and last the digits of its
    last part behind `frame_`.
    """
    names = {f"frame_{n:06d}": n for n in range(task_frames)}
    stem = splitext(file_name)[0]
    if stem in names:
        return names[stem]
    assert not re.fullmatch(r"\d+", stem)
    number = int(basename(stem)[len("frame_") :])
    assert number in range(task_frames), "CVAT refuses what is no frame of its task"
    return number


def test_cvat_finds_the_frames_and_pycocotools_reads_the_file(folder: Folder) -> None:
    job = planned(folder, 3)
    merge_all(folder, job, NOTHING_DRAWN)
    frames = [each for each in dataset(folder)["images"] if "video_id" in each]
    assert len(frames) == 5
    for each in frames:
        assert cvat_frame(str(each["file_name"]), 400) == each["frame_index"]
    with contextlib.redirect_stdout(io.StringIO()):
        coco = COCO(folder.file("instances.json"))
        found = coco.loadRes(folder.file("results.json"))
    assert len(coco.imgs) == len(found.anns) == 7
    assert coco.annToMask(found.anns[3]).sum() == 4
