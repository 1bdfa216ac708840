"""`maskmill annotate`: from the person's words to a merged dataset on this machine."""

from __future__ import annotations

import shutil
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Annotated, Any, BinaryIO, Literal

import msgspec

from storage import get
from storage.errors import StorageError
from storage.uris import shown, storable
from tasks.cards import Compute, Model, ModelError
from tasks.categories import Category, UnknownClass, ids_of, mapped, renumber, with_ids
from tasks.environment import whole_number
from tasks.exits import OK, OVER_BUDGET, ended
from tasks.folder import Folder, missing_shards, read_run
from tasks.local import Child, Interrupted, Stopped, await_ready, run
from tasks.merge import is_merged
from tasks.progress import Watcher, choose_face, planning_notice, say_json
from tasks.records import Job, Selection, Settings
from tasks.shelf import find_model
from tasks.submit import SHARD_SIZE, Sources, ask, continue_job, open_job, sources
from tasks.summary import print_summary, summarise

WORKER_PARTS = ("numpy", "cv2", "PIL", "pycocotools")
ENGINE_PARTS = {"onnx": ("onnxruntime", "worker"), "openvino": ("openvino", "openvino")}

CategoryId = Annotated[int, msgspec.Meta(ge=1)]


@dataclass(frozen=True, kw_only=True)
class Wishes:
    """What was typed, besides the inputs and how they are selected."""

    model: str
    output: str
    threshold: float | None = None
    max_detections: int | None = None
    classes: Sequence[str] = ()
    category_ids: str = ""
    category_map: str = ""
    allow_unmatched: bool = False
    runtime: str = ""
    precision: Compute = "f32"
    min_area: int = 0
    fill_holes: int = 0
    drop_specks: int = 0
    mask_format: Literal["rle", "polygon"] = "rle"
    reduced_decode: bool = True
    shard_size: int | None = None
    max_failures: int = 0
    overwrite: bool = False
    replace_edited: bool = False


def annotate(inputs: Sequence[str], selection: Selection, wishes: Wishes, as_json: bool) -> int:
    def command() -> int:
        with _standard_input(inputs) as stdin:
            return _annotate(sources(inputs, selection, stdin), wishes, as_json)

    return ended(command, as_json)


@contextmanager
def _standard_input(inputs: Sequence[str]) -> Iterator[BinaryIO | None]:
    """A list on standard input, in a file: read once for what it is and once for its lines."""
    if "-" not in inputs:
        yield None
        return
    with tempfile.TemporaryFile(prefix="maskmill-stdin-") as file:
        shutil.copyfileobj(sys.stdin.buffer, file)
        file.seek(0)
        yield file


def _annotate(given: Sources, wishes: Wishes, as_json: bool) -> int:
    model, output = (
        find_model(wishes.model, wishes.runtime, wishes.precision),
        storable(wishes.output),
    )
    asked = ask(given, model, settings_of(model, wishes), wishes.shard_size or SHARD_SIZE)
    there = None if wishes.overwrite else continue_job(output, asked)
    if there is not None and is_merged(there.folder, there.job):
        return _finish(*there, wishes.max_failures, as_json)
    need_worker_parts(model.engine)
    face = choose_face(as_json)
    child = Child(model)
    try:
        await_ready(child)
        job, folder = there or open_job(
            output,
            given,
            asked,
            model.path,
            overwrite=wishes.overwrite,
            progress=planning_notice(face),
        )
        if as_json:
            say_json({"event": "planned", **msgspec.to_builtins(job.counts)})
        with Watcher(face, job.counts.items, _done(job, folder)) as watcher:
            run(child, model, folder, watcher.hear, replace_edited=wishes.replace_edited)
    except Interrupted as exc:
        same = "the same command without --overwrite" if wishes.overwrite else "the same command"
        raise Stopped(
            f"stopped: {_done(job, folder)} of {job.counts.items} inputs are done and kept;"
            f" {same} goes on from there"
        ) from exc
    finally:
        child.close()
    return _finish(job, folder, wishes.max_failures, as_json)


def settings_of(model: Model, wishes: Wishes) -> Settings:
    categories, class_ids = _categories(model, wishes)
    return Settings(
        categories=categories,
        class_ids=class_ids,
        threshold=wishes.threshold,
        max_detections=wishes.max_detections,
        keep=ids_of(categories, wishes.classes),
        mask_format=wishes.mask_format,
        min_area=wishes.min_area,
        fill_holes=wishes.fill_holes,
        drop_specks=wishes.drop_specks,
        reduced_decode=wishes.reduced_decode,
        max_bytes=whole_number("MASKMILL_MAX_BYTES", 256 << 20, 1),
        max_pixels=whole_number("MASKMILL_MAX_PIXELS", 100_000_000, 1),
    )


def _categories(
    model: Model, wishes: Wishes
) -> tuple[tuple[Category, ...], tuple[int | None, ...]]:
    """The dataset's categories, and the id that each class of the network gets."""
    categories = model.card.category_list()
    places: Sequence[int | None] = range(len(categories))
    if wishes.category_map:
        mapping = _category_map(wishes.category_map)
        categories, places = mapped(categories, mapping, allow_unmatched=wishes.allow_unmatched)
    if wishes.category_ids in ("coco91", "contiguous"):
        categories = renumber(categories, wishes.category_ids)
    elif wishes.category_ids:
        ids = _ids_in_file(wishes.category_ids)
        categories = with_ids(categories, ids, shown(wishes.category_ids))
    return categories, tuple(None if n is None else categories[n].id for n in places)


def _category_map(path: str) -> dict[str, int | str]:
    try:
        return msgspec.json.decode(get(path), type=dict[str, CategoryId | str])
    except (StorageError, msgspec.DecodeError) as exc:
        raise UnknownClass(f"--category-map {shown(path)} cannot be read: {exc}") from exc


def _ids_in_file(path: str) -> dict[str, int]:
    """Ids by name from {"name": id, …} or from the categories of a COCO file."""
    try:
        found = msgspec.json.decode(get(path), type=dict[str, Any])
        if isinstance(found.get("categories"), list):
            found = {each["name"]: each["id"] for each in found["categories"]}
        return msgspec.convert(found, dict[str, CategoryId])
    except (StorageError, msgspec.DecodeError, KeyError, TypeError) as exc:
        raise UnknownClass(f"--category-ids {shown(path)} cannot be read: {exc}") from exc


def need_worker_parts(engine: str = "onnx") -> None:
    part, extra = ENGINE_PARTS.get(engine, (engine, "worker"))
    missing = [each for each in (*WORKER_PARTS, part) if find_spec(each) is None]
    if missing:
        extras = "worker" if extra == "worker" else f"worker,{extra}"
        raise ModelError(
            f"running a model needs {', '.join(missing)}: pip install 'maskmill[{extras}]'"
        )


def _done(job: Job, folder: Folder) -> int:
    """Inputs in shards that are written. All shards but the last are of one size."""
    size = job.asked.shard_size
    missing = missing_shards(folder, job.counts.shards)
    last = job.counts.items - size * (job.counts.shards - 1)
    return job.counts.items - sum(
        last if number == job.counts.shards - 1 else size for number in missing
    )


def _finish(job: Job, folder: Folder, max_failures: int, as_json: bool) -> int:
    record: dict[str, Any] = read_run(folder) or {}
    summary = summarise(folder, job, record)
    over = summary["failures"] > max_failures
    if as_json:
        say_json({"event": "summary", **summary, "exit": OVER_BUDGET if over else OK})
        return OVER_BUDGET if over else OK
    print_summary(summary)
    if not over:
        return OK
    print(
        f"maskmill: {summary['failures']} inputs failed, more than --max-failures {max_failures};"
        f" they are listed in {folder.file('failures.jsonl')}",
        file=sys.stderr,
    )
    return OVER_BUDGET
