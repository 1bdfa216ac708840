"""From shard objects to the merged dataset. Memory does not grow with images or annotations."""

import hashlib
import heapq
import shutil
import sqlite3
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any, BinaryIO

import msgspec

from storage import Exists, NotFound, exists, open_write, put
from tasks.edits import CATEGORIES, STRANGER, Edit, Edits, insert, keep, read
from tasks.edits import TABLES as EDITS
from tasks.environment import producer_versions
from tasks.folder import SHEET, Folder, JobError, every_attempt, missing_shards, read_job, read_run
from tasks.plan import scratch
from tasks.records import Annotation, Image, Job, Shard, encode
from tasks.segments import TABLES, Segments
from tasks.shelf import checksum

FILES = ("instances.json", "results.json", "failures.jsonl")
RESULT = ("image_id", "category_id", "bbox", "segmentation", "score")
PARTIAL = "partial/"
PICKS = 12  # images on the contact sheet
_TABLES = "CREATE TABLE video (id INTEGER PRIMARY KEY, body BLOB UNIQUE)"


class Outdated(JobError):
    """The merge was asked for too early or too late; that says nothing against the job."""


class Overtaken(JobError):
    """Another merger of an open job is further on."""


class Picked(msgspec.Struct, frozen=True):
    image: int
    shard: int | str
    file_name: str
    found: tuple[Annotation, ...]


Draw = Callable[[Folder, Job, list[Picked]], bool]


@dataclass
class Merged:
    """What a merge found, for run.json, the summary and the contact sheet."""

    retried: int  # how many shards' retries it takes in
    counts: Counter[str]  # as run.json has them
    by_class: Counter[int] = field(default_factory=Counter)
    by_failure: Counter[str] = field(default_factory=Counter)
    kinds: dict[bytes, Any] = field(default_factory=dict)
    picks: list[Picked] = field(default_factory=list)
    sha256: str = ""


def merge_all(folder: Folder, job: Job, draw: Draw, *, replace_edited: bool = False) -> None:
    """The dataset of a finished job, its contact sheet, and last the seal."""
    while True:
        try:
            merged = merge(folder, job, replace_edited=replace_edited)
        except (Exists, Overtaken):  # other mergers are ahead, or somebody edits
            continue
        seal(folder, job, merged, drawn=draw(folder, job, merged.picks))
        # One that was held up may have put an older dataset over that of a retry.
        if merged.retried == _retried(folder):
            return


def merge_part(folder: Folder, job: Job) -> str:
    """What is there of an unfinished job, in a folder of its own; that folder's URI."""
    merged = merge(folder, job, into=PARTIAL)
    seal(folder, job, merged, drawn=False, into=PARTIAL)
    return folder.file(PARTIAL)


def merge(folder: Folder, job: Job, *, replace_edited: bool = False, into: str = "") -> Merged:
    """Write instances.json, results.json and failures.jsonl; `seal` comes when all else is done."""
    merged = Merged(_retried(folder), Counter(inputs=job.counts.items))
    if not into and not job.open and missing_shards(folder, job):
        raise Outdated(f"{folder.uri} is not done yet")  # a message that came late, into a retry
    sealed = read_run(folder) if not into else None
    with ExitStack() as stack:
        files = [stack.enter_context(open_write(folder.file(into + name))) for name in FILES]
        db = stack.enter_context(scratch(TABLES + EDITS))
        edits = Edits(folder, db)
        taken = Segments(folder, db) if job.open else None
        if taken is not None:
            keeps = not into and not replace_edited
            seen = _take_in(folder, job, taken, edits) if keeps else None
            taken.grow()
            merged.counts = taken.counts()
        shards = taken.shards() if taken else folder.whole_shards(job)
        write_all(job, merged, shards, files, edits)
        n = merged.counts
        if not into and n["images"] + n["failures"] != n["inputs"]:
            ended = f"{n['images']} images and {n['failures']} failures"
            raise JobError(f"{folder.uri} does not add up: {ended} for {n['inputs']} inputs")
        # With no seal it is a merge that was cut off: a new job refuses a folder with such a file.
        if sealed and not replace_edited and not job.open:
            ours = {None, sealed["instances_sha256"], merged.sha256}
            if hash_of(folder.file("instances.json")) not in ours:
                raise _edited(folder, "was changed since it was written and is not replaced")
        refuse_replaced(folder)
        if taken is not None:
            put(_ours(folder, merged.sha256), b"")
            if taken.is_overtaken() or edits.read_on():
                raise Overtaken(f"another command merges {folder.uri}")
            if keeps and hash_of(folder.file("instances.json")) != seen:
                raise Overtaken(f"{folder.uri} was edited while it was merged")
    return merged


def seal(folder: Folder, job: Job, merged: Merged, *, drawn: bool, into: str = "") -> None:
    """Write run.json, last: a job is merged when it says so and the files that it names are there.

    One that is cut off before this is merged again, to the same bytes.
    """
    found = merged.by_class
    seconds: Counter[str] = Counter()
    ends: Counter[str] = Counter()
    workers, peak = set(), 0
    # Those of an open job are too many to be read at each merge.
    for _, attempt in () if job.open else every_attempt(folder):
        seconds.update(attempt.seconds)
        ends[attempt.ended or "unended"] += 1
        workers.add(attempt.worker)
        peak = max(peak, attempt.peak)
    record = {
        "run": job.run,
        "retried": merged.retried,
        "instances_sha256": merged.sha256,
        **merged.counts,
        "annotations_by_class": {
            each.name: found[each.id] for each in job.asked.settings.categories if found[each.id]
        },
        "failures_by_kind": dict(sorted(merged.by_failure.items())),
        "model": {"name": job.asked.model.card.name, "sha256": job.asked.model.sha256},
        "mixed": bool(job.asked.alternates),
        "produced_by": [merged.kinds[key] for key in sorted(merged.kinds)],
        "seconds_by_stage": {stage: round(value, 3) for stage, value in seconds.items()},
        "peak_memory_bytes": peak,
        "attempts": dict(ends),
        "workers": sorted(workers),
        "merged_with": producer_versions(),
        "files": [*FILES, *([SHEET] if drawn else [])],
    }
    put(folder.file(into + "run.json"), msgspec.json.format(encode(record)))


def is_merged(folder: Folder, job: Job) -> bool:
    record = read_run(folder)
    if record is None or record["run"] != job.run:
        return False
    objects, retried = ("shard_objects", folder.shard_objects), ("retried", folder.retries)
    taken, there = objects if job.open else retried
    up_to_date = record.get(taken, 0) == sum(1 for _ in there())
    return up_to_date and all(exists(folder.file(name)) for name in record["files"])


class Hashing:
    """What is written, hashed on its way to a file, or to none."""

    def __init__(self, file: Any = None) -> None:
        self._file = file
        self.digest = hashlib.sha256()

    def write(self, data: bytes) -> None:
        self.digest.update(data)
        if self._file is not None:
            self._file.write(data)


Files = Sequence[BinaryIO | Hashing]


def write_all(
    job: Job, merged: Merged, shards: Iterator[Shard], files: Files, edits: Edits
) -> None:
    """One pass over the shards, with what people changed laid over it; annotations wait in a spool
    file until all images are written."""
    polygons = job.asked.settings.mask_format == "polygon"
    dataset, results, failures = files
    instances = Hashing(dataset)
    instances.write(b'{"info":{"description":"instance segmentation by maskmill"},"licenses":[],')
    instances.write(b'"images":[')
    results.write(b"[")
    counts, found, above = merged.counts, Counter[str](), edits.highest
    counts.update(images=0, annotations=0, failures=0, empty_masks_dropped=0)
    draws: list[tuple[bool, bytes, Picked]] = []
    with tempfile.TemporaryFile(prefix="maskmill-merge-") as spool, scratch(_TABLES) as videos:
        for shard in shards:
            for image in shard.images:
                instances.write(_listed(counts, "images", _in_dataset(image, videos)))
            for each in shard.annotations:
                results.write(_listed(found, "results", {n: getattr(each, n) for n in RESULT}))
                number = each.id or above + found["results"]
                if not edits.has(number):
                    record = dataset_record(each, number, polygons)
                    spool.write(_listed(counts, "annotations", record))
                    merged.by_class[each.category_id] += 1
            for failure in shard.failures:
                failures.write(encode(failure) + b"\n")
                counts["failures"] += 1
                merged.by_failure[f"{failure.stage}/{failure.kind}"] += 1
            counts["empty_masks_dropped"] += shard.empty_masks
            merged.kinds[encode(shard.produced_by)] = shard.produced_by
            _draw(draws, shard)
        for record in edits.rest("images"):
            counts["inputs"] += 1
            instances.write(_listed(counts, "images", record))
        for record in edits.rest("annotations"):
            spool.write(_listed(counts, "annotations", record))
            merged.by_class[record["category_id"]] += 1
        for number, video in videos.execute("SELECT id, body FROM video ORDER BY id"):
            instances.write(b'\n],"videos":[\n' if number == 1 else b",\n")
            instances.write(b'{"id":%d,' % number + video[1:])
            counts["videos"] = number
        instances.write(b'\n],"annotations":[')
        spool.seek(0)
        shutil.copyfileobj(spool, instances, 1 << 20)
    categories = {each.id: msgspec.to_builtins(each) for each in job.asked.settings.categories}
    categories |= {each["id"]: each for each in edits.rest("categories")}
    instances.write(b'\n],"categories":' + encode(list(categories.values())) + b"}\n")
    results.write(b"\n]\n")
    merged.sha256 = instances.digest.hexdigest()
    merged.picks = [pick for _, _, pick in sorted(draws, key=lambda draw: draw[2].image)]


def _listed(counts: Counter[str], kind: str, record: object) -> bytes:
    counts[kind] += 1
    return (b",\n" if counts[kind] > 1 else b"\n") + encode(record)


def _in_dataset(image: Image, videos: sqlite3.Connection) -> Image:
    """With the id that its video has in the dataset: the next, for a new one."""
    if image.video is None:
        return image
    body = (encode(image.video),)
    videos.execute("INSERT OR IGNORE INTO video (body) VALUES (?)", body)
    (number,) = videos.execute("SELECT id FROM video WHERE body = ?", body).fetchone()
    return msgspec.structs.replace(image, video=None, video_id=number)


def dataset_record(each: Annotation, number: int, polygons: bool) -> dict[str, Any]:
    """An annotation of the dataset. `polygon_iou` is what the polygons keep of the mask."""
    return {
        "id": number,
        "image_id": each.image_id,
        "category_id": each.category_id,
        "bbox": each.bbox,
        "area": each.area,
        "segmentation": each.polygons if polygons else each.segmentation,
        "iscrowd": 0,
        "score": each.score,
        **({"polygon_iou": each.polygon_iou} if polygons else {}),
    }


def _draw(draws: list[tuple[bool, bytes, Picked]], shard: Shard) -> None:
    """Keep the few images with the best lots: annotated ones first, then by a hash of the name."""
    found: dict[int, list[Annotation]] = {}
    for each in shard.annotations:
        found.setdefault(each.image_id, []).append(each)
    for image in shard.images:
        lot = hashlib.blake2b(image.file_name.encode(), digest_size=8).digest()
        pick = Picked(image.id, shard.shard, image.file_name, tuple(found.get(image.id, ())))
        draws.append((not pick.found, lot, pick))
    draws[:] = heapq.nsmallest(PICKS, draws, key=lambda draw: draw[:2])


def _ours(folder: Folder, digest: str) -> str:
    """Says that a merge made this dataset: of an open job one may replace another's, any time."""
    return folder.file(f"segments/{folder.run}/made/{digest}")


def _take_in(folder: Folder, job: Job, taken: Segments, edits: Edits) -> str | None:
    """Keep what people changed in the dataset, by comparison with all that was ever in it.

    Gives the hash of the file that may be replaced now, None where there is none.
    """
    uri, polygons = folder.file("instances.json"), job.asked.settings.mask_format == "polygon"
    seen = hash_of(uri)
    if seen is None or exists(_ours(folder, seen)):
        return seen
    try:
        read(edits.db, uri)
        if row := edits.db.execute(STRANGER).fetchone():
            raise ValueError("its image {}, {!r}, is none of the job's".format(*row))
        categories = {category for (category,) in edits.db.execute(CATEGORIES)}
        if strange := categories - {each.id for each in job.asked.settings.categories}:
            raise ValueError(f"its category {strange.pop()!r} is none of the job's")
        for shard in taken.shards(replaced=True):
            for each in shard.annotations:
                record = msgspec.to_builtins(dataset_record(each, each.id, polygons))
                insert(edits.db, "made", Edit("annotations", each.id, record), bool(shard.images))
                if not categories:
                    raise ValueError("it lists no annotations at all")
    except ValueError as exc:
        raise _edited(folder, f"was edited and cannot be taken in: {exc}") from exc
    end = taken.end
    if added := edits.added():
        taken.reserve(end + added)
    keep(folder, edits.count, edits.changes(end))
    edits.read_on()
    return seen


def _edited(folder: Folder, why: str) -> JobError:
    way_out = f"maskmill merge {folder.uri} --replace-edited replaces it"
    return JobError(f"{folder.file('instances.json')} {why}; {way_out}")


def _retried(folder: Folder) -> int:
    return sum(1 for _ in folder.retries())


def refuse_replaced(folder: Folder) -> None:
    """A late merger of an overwritten job must not touch what the new one writes; nor does who
    follows the old one wait for ever."""
    now = read_job(folder.uri)
    if now is None or now.run != folder.run:
        raise Outdated(f"another command started the job in {folder.uri} anew")


def hash_of(uri: str) -> str | None:
    try:
        return checksum("sha256", uri)
    except NotFound:
        return None
