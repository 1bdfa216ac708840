"""`maskmill doctor OUT`: whether a job folder is sound, by the sums, ids, hashes, boxes and masks
of everything in it."""

from collections import Counter
from collections.abc import Iterator, Sequence

from storage import list_entries
from tasks.annotate import kinds_said
from tasks.categories import Category
from tasks.edits import TABLES as EDITS
from tasks.edits import Edits
from tasks.exits import OK, STOPPED, Said
from tasks.folder import Folder, JobError, ShardName, find_job, missing_shards, parts, read_run
from tasks.merge import FILES, Hashing, Merged, hash_of, is_merged, write_all
from tasks.plan import scratch
from tasks.records import Annotation, Job, Shard
from tasks.segments import TABLES, Segments
from worker.rle import Rle, is_canonical

SLACK = 0.011  # boxes are rounded to a hundredth


def check_folder(output: str) -> Said:
    job, folder = find_job(output)
    found = list(problems(folder, job))
    run = read_run(folder) or {}
    kinds = list(kinds_said(run.get("produced_by", ())))
    event = {"event": "doctor", "output": output, "sound": not found, "problems": found}
    lines = found or [f"{output} is sound: {run.get('inputs')} inputs, each ended once"]
    lines += [f"made by {kind}" for kind in kinds]
    return Said(event | {"kinds": kinds}, lines, STOPPED if found else OK)


def problems(folder: Folder, job: Job) -> Iterator[str]:
    """Everything wrong with a job, a sentence each. Nothing yielded means that it is sound."""
    missing = set(missing_shards(folder, job))
    names: list[ShardName] = list(parts(folder, job))
    if missing:
        yield f"{len(missing)} of {len(names)} shards are not done, first {min(missing)}"
    yield from _conflicts(folder)
    done = folder.written()
    planned: list[int] = []
    for number in names:
        items = [item.id for item in folder.read_plan(number)]
        planned += items
        if number not in missing:
            try:
                shard = folder.whole_shard(number, done[number])
            except JobError as exc:
                yield str(exc)
            else:
                yield from _shard_problems(shard, items, job.asked.settings.categories)
    in_order = len(planned) == job.counts.items and sorted(set(planned)) == planned
    if not job.open and not in_order:  # parts of an open job are numbered each for itself
        yield f"the plan has {len(planned)} ids for {job.counts.items} items, or not in order"
    if not missing or job.open:
        try:
            yield from _dataset_problems(folder, job)
        except JobError as exc:
            yield str(exc)


def _conflicts(folder: Folder) -> Iterator[str]:
    for entry in list_entries(folder.file(f"shards/{folder.run}/")):
        if entry.uri.endswith(".conflict.json"):
            yield f"{entry.uri} is other content than its shard has, by the same kind of worker"


def _shard_problems(
    shard: Shard, items: list[int], categories: Sequence[Category]
) -> Iterator[str]:
    ended = [image.id for image in shard.images] + [each.image_id for each in shard.failures]
    if sorted(ended) != items:
        yield f"shard {shard.shard} does not end each of its {len(items)} inputs exactly once"
    sizes = {each.id: (each.height, each.width) for each in shard.images}
    known = {each.id for each in categories}
    for number, each in enumerate(shard.annotations, 1):
        where = f"annotation {number} of shard {shard.shard}"
        if each.image_id not in sizes or each.category_id not in known:
            yield f"{where} names an image or a category that is not there"
        else:
            yield from _shape_problems(where, each, sizes[each.image_id])


def _shape_problems(where: str, each: Annotation, size: tuple[int, int]) -> Iterator[str]:
    height, width = size
    x, y, w, h = each.bbox
    if min(x, y) < 0 or min(w, h) < 0 or x + w > width + SLACK or y + h > height + SLACK:
        yield f"{where} has a box outside its {width}×{height} image"
    mask = each.segmentation
    if mask.size != size or not is_canonical(Rle(height, width, mask.counts, each.area)):
        yield f"{where} has the area {each.area}, but not its mask, or not in canonical RLE"


def _dataset_problems(folder: Folder, job: Job) -> Iterator[str]:
    """The dataset is what its shards make, to the byte, and run.json says of it what it is."""
    run = read_run(folder)
    if not is_merged(folder, job) or run is None:
        yield "the job is not merged, or a file of it is gone"
        return
    anew, files = Merged(0, Counter(inputs=job.counts.items)), [Hashing() for _ in FILES]
    with scratch(TABLES + EDITS) as db:
        edits, shards = Edits(folder, db), folder.whole_shards(job)
        if job.open:
            taken = Segments(folder, db)
            shards, anew.counts = taken.shards(), taken.counts()
        write_all(job, anew, shards, files, edits)
    for name, made in zip(FILES, files, strict=True):
        if hash_of(folder.file(name)) != made.digest.hexdigest():
            yield f"{folder.file(name)} is not what its shards make: somebody changed it"
    said = {name: run.get(name, 0) for name in anew.counts}
    if said != anew.counts or run["instances_sha256"] != anew.sha256:
        yield "run.json names other sums, or another hash, than those of the shards' dataset"
