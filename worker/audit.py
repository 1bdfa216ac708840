"""`maskmill doctor OUT`: whether a job folder is sound, by the sums, ids, hashes, boxes and masks
of everything in it."""

from collections.abc import Iterator, Mapping
from itertools import pairwise
from typing import Any

import ijson

from storage import get, open_read
from tasks.annotate import kinds_said
from tasks.exits import OK, STOPPED
from tasks.folder import (
    Folder,
    JobError,
    ShardName,
    entries_of,
    find_job,
    missing_shards,
    parts,
    read_plan,
    read_run,
    read_shard,
)
from tasks.merge import hash_of, is_merged
from tasks.progress import tell
from tasks.records import Job
from worker.rle import Rle, is_canonical

SLACK = 0.011  # boxes are rounded to a hundredth


def check_folder(output: str, as_json: bool) -> int:
    job, folder = find_job(output)
    found = list(problems(folder, job))
    run = read_run(folder) or {}
    kinds = list(kinds_said(run.get("produced_by", ())))
    event = {"event": "doctor", "output": output, "sound": not found, "problems": found}
    lines = found or [f"{output} is sound: {run.get('inputs')} inputs, each ended once"]
    tell(event | {"kinds": kinds}, lines + [f"made by {kind}" for kind in kinds], as_json)
    return STOPPED if found else OK


def problems(folder: Folder, job: Job) -> Iterator[str]:
    """Everything wrong with a job, a sentence each. Nothing yielded means that it is sound."""
    missing = set(missing_shards(folder, job))
    names: list[ShardName] = list(parts(folder, job))
    if missing:
        yield f"{len(missing)} of {len(names)} shards are not done, first {min(missing)}"
    yield from _conflicts(folder)
    planned: list[int] = []
    for number in names:
        items = [item.id for item in read_plan(folder, number)]
        planned += items
        if number not in missing:
            yield from _shard_problems(folder, number, items)
    in_order = len(planned) == job.counts.items and sorted(set(planned)) == planned
    if not job.open and not in_order:  # parts of an open job are numbered each for itself
        yield f"the plan has {len(planned)} ids for {job.counts.items} items, or not in order"
    if not missing or job.open:
        yield from _dataset_problems(folder, job)


def _conflicts(folder: Folder) -> Iterator[str]:
    for entry in entries_of(folder.file(f"shards/{folder.run}/")):
        if entry.uri.endswith(".conflict.json"):
            yield f"{entry.uri} is other content than its shard has, by the same kind of worker"


def _shard_problems(folder: Folder, number: ShardName, items: list[int]) -> Iterator[str]:
    try:
        shard = read_shard(folder, number)
    except JobError as exc:
        yield str(exc)
        return
    ended = [image.id for image in shard.images] + [each.image_id for each in shard.failures]
    if sorted(ended) != items:
        yield f"shard {number} does not end each of its {len(items)} inputs exactly once"


def _dataset_problems(folder: Folder, job: Job) -> Iterator[str]:
    try:
        merged, run = is_merged(folder, job), read_run(folder)
    except JobError as exc:
        yield str(exc)
        return
    if not merged or run is None:
        yield "the job is not merged, or a file of it is gone"
        return
    uri = folder.file("instances.json")
    if hash_of(uri) != run["instances_sha256"]:
        yield f"{uri} is not what was written: somebody changed it"
    try:
        yield from _annotation_problems(folder, job, run)
    except (ijson.JSONError, KeyError, TypeError, ValueError) as exc:
        yield f"{uri} or results.json is no COCO file: {exc}"
    failures = len(get(folder.file("failures.jsonl")).splitlines())
    inputs = run["inputs"] if job.open else job.counts.items
    if run["images"] + failures != inputs:
        yield f"{run['images']} images and {failures} failures for {inputs} inputs"


def _annotation_problems(folder: Folder, job: Job, run: dict[str, Any]) -> Iterator[str]:
    sizes: dict[int, tuple[int, int]] = {}
    frames: dict[int, dict[int, float]] = {}
    for image in _items(folder, "instances.json", "images.item"):
        if image["id"] in sizes:
            yield f"the image id {image['id']} occurs twice"
        sizes[image["id"]] = image["height"], image["width"]
        if "video_id" in image:
            times, index = frames.setdefault(image["video_id"], {}), image["frame_index"]
            if index in times:
                yield f"the video {image['video_id']} has the frame {index} twice"
            times[index] = image["timestamp"]
    yield from _video_problems(folder, frames)
    known = {each.id for each in job.asked.settings.categories}
    count = 0
    pairs = zip(
        _items(folder, "instances.json", "annotations.item"),
        _items(folder, "results.json", "item"),
        strict=True,
    )
    for count, (each, result) in enumerate(pairs, 1):
        where = f"annotation {each['id']}"
        if each["id"] != count:
            yield f"{where} should have the id {count}"
        if each["image_id"] not in sizes or each["category_id"] not in known:
            yield f"{where} names an image or a category that is not there"
        elif any(each[key] != result[key] for key in ("image_id", "category_id", "bbox", "score")):
            yield f"{where} is not the result that results.json has in its place"
        else:
            yield from _shape_problems(where, each, result, sizes[each["image_id"]])
    if (len(sizes), count) != (run["images"], run["annotations"]):
        yield f"{len(sizes)} images and {count} annotations are not what run.json says"


def _video_problems(folder: Folder, frames: Mapping[int, Mapping[int, float]]) -> Iterator[str]:
    """`frames`: of each video the time of each frame by its index."""
    known = [video["id"] for video in _items(folder, "instances.json", "videos.item")]
    if known != list(range(1, len(known) + 1)):
        yield "the ids of the videos are not 1, 2 and so on"
    for video in sorted(frames.keys() ^ known):
        lacks = "no frame" if video in known else "frames, but is not in the table of videos"
        yield f"the video {video} has {lacks}"
    for video, times in frames.items():
        for (_, before), (index, time) in pairwise(sorted(times.items())):
            if time <= before:
                yield f"the frame {index} of the video {video} is no later than the one before"


def _shape_problems(
    where: str, each: dict[str, Any], result: dict[str, Any], size: tuple[int, int]
) -> Iterator[str]:
    height, width = size
    x, y, w, h = each["bbox"]
    if min(x, y) < 0 or min(w, h) < 0 or x + w > width + SLACK or y + h > height + SLACK:
        yield f"{where} has a box outside its {width}×{height} image"
    mask = result["segmentation"]
    whole = Rle(height, width, mask["counts"], each["area"])
    if tuple(mask["size"]) != size or not is_canonical(whole):
        yield f"{where} has the area {each['area']}, but not its mask, or not in canonical RLE"
    if isinstance(each["segmentation"], dict) and each["segmentation"] != mask:
        yield f"{where} has another mask in results.json"


def _items(folder: Folder, name: str, path: str) -> Iterator[dict[str, Any]]:
    with open_read(folder.file(name)) as file:
        yield from ijson.items(file, path, use_float=True)
