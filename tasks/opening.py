"""From what a person asks for to a planned job whose shards can be sent: the producer's API."""

import sqlite3
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple, cast

import msgspec

from storage import exists, join, parse, without_query
from tasks.cards import Model
from tasks.categories import CategoryId, from_file, ids_of, mapped, renumber
from tasks.edits import TABLES as EDITS
from tasks.edits import keep, lacking, rest_of
from tasks.environment import BOARDS, SettingError, whole_number
from tasks.folder import Folder, JobDiffers, delete_run, read_job
from tasks.frames import frames_of, may_read
from tasks.inputs import Found, InputError, absolute, find
from tasks.plan import commit_job, scratch, write_plan
from tasks.records import Asked, Choices, Job, Routing, Selection, Settings, Wishes, encode
from tasks.shelf import checksum
from tasks.videos import span_of

SHARD_SIZE = 64
BOARD_SHARD_SIZE = 16  # a quarter of the usual visibility timeout at 56 s an image
PLACES = ("images_root", "images_from")  # of a selection
DERIVED = ("instances.json", "results.json", "failures.jsonl", "run.json")


class Sources(NamedTuple):
    """Where the inputs come from, in full. What job.json keeps of it has no queries."""

    inputs: tuple[str, ...]
    selection: Selection
    stdin: str = ""  # a file of what came on standard input


class Opened(NamedTuple):
    job: Job
    folder: Folder


def sources(inputs: Sequence[str], selection: Selection, stdin: str = "") -> Sources:
    """Local paths in full, so that the same words mean the same from any working directory."""
    if selection.extra_images and not selection.images_from:
        raise InputError("--extra-images goes with --images-from")
    if selection.only_unannotated:
        is_coco = len(inputs) == 1 and parse(inputs[0]).path.lower().endswith(".json")
        if not is_coco or selection.images_from:
            raise InputError("--only-unannotated takes one COCO file, and no --images-from beside")
    span_of(selection)  # refuses what cannot be
    seed = 0 if selection.sample is None else selection.seed
    places = {name: (word := getattr(selection, name)) and absolute(word) for name in PLACES}
    chosen = msgspec.structs.replace(selection, seed=seed, **places)
    return Sources(tuple(absolute(word) for word in inputs), chosen, stdin)


def usual_shard_size(models: Iterable[Model], target: str = "any") -> int:
    """Images a shard where none is given: fewer where a board may take it, for boards are slow."""
    slow = target in ("edge", *BOARDS) or any(each.engine == "tflite" for each in models)
    return BOARD_SHARD_SIZE if slow else SHARD_SIZE


def asked_for(given: Sources, models: Sequence[Model], wishes: Wishes, target: str) -> Asked:
    """All of it, as a job has it: what is compared when the same command comes again."""
    places = {name: without_query(getattr(given.selection, name)) for name in PLACES}
    selection = msgspec.structs.replace(given.selection, **places)
    # Another list on standard input is another job.
    listed = f"- sha256:{checksum('sha256', given.stdin)}" if "-" in given.inputs else ""
    words = (listed if word == "-" else word for word in given.inputs)
    inputs, (model, *others) = tuple(map(without_query, words)), models
    size = wishes.shard_size or usual_shard_size(models, target)
    return Asked(inputs, selection, model, settings_of(model, wishes), size, tuple(others))


def settings_of(model: Model, wishes: Wishes) -> Settings:
    """With the dataset's categories, and the id that each class of the network gets."""
    categories = model.card.category_list()
    places: Sequence[int | None] = range(len(categories))
    if wishes.allow_unmatched and not wishes.category_map:
        raise SettingError("--allow-unmatched is about --category-map, which is not given")
    if wishes.category_map:
        mapping = from_file(wishes.category_map, "category-map", dict[str, CategoryId | str])
        categories, places = mapped(categories, mapping, allow_unmatched=wishes.allow_unmatched)
    if wishes.category_ids:
        categories = renumber(categories, wishes.category_ids)
    return Settings(
        **{name: getattr(wishes, name) for name in Choices.__struct_fields__},
        categories=categories,
        class_ids=tuple(None if n is None else categories[n].id for n in places),
        keep=ids_of(categories, wishes.classes),
        max_bytes=whole_number("MASKMILL_MAX_BYTES", 256 << 20, 1),
        max_pixels=whole_number("MASKMILL_MAX_PIXELS", 100_000_000, 1),
        max_video_bytes=whole_number("MASKMILL_MAX_VIDEO_BYTES", 2 << 30, 1),
    )


def open_job(
    output: str,
    given: Sources,
    asked: Asked,
    *,
    routing: Routing = Routing(),
    overwrite: bool = False,
    checked: Callable[[Iterator[Found]], Iterator[Found]] = lambda found: found,
    noted: Callable[[Folder], None] = lambda folder: None,
    refused: Callable[[str], str] = may_read,
) -> Opened:
    """Plan a job, or continue the one that this output holds if it was asked for in equal words.

    `checked` sees every input on its way into the plan, `noted` the folder before it has a job:
    who looks after jobs knows of each that there is. `refused` says which videos to leave alone.
    """
    there = None if overwrite else continue_job(output, asked)
    if there is not None:
        return there
    replaced = read_job(output)
    if replaced is None:
        refuse_foreign(output)
    salt = encode(asked) + (replaced.run.encode() if replaced else b"")
    if given.selection.only_unannotated:
        salt += checksum("sha256", given.inputs[0]).encode()
    with scratch(EDITS) as db:
        found = frames_of(checked(asked_inputs(db, given, asked)), given.selection, refused)
        folder, counts = write_plan(output, salt, found, given.selection, asked.shard_size)
        keep(folder, 0, rest_of(db))
    job = Job(folder.run, asked, counts, routing)
    replaced = read_job(output)
    noted(folder)
    if not commit_job(folder, job, replace=overwrite):
        there = cast(Opened, continue_job(output, asked))
        if there.folder != folder:
            delete_run(folder)  # another planner was first
        return there
    if replaced is not None and replaced.run != folder.run:
        delete_run(Folder(output, replaced.run))
    return Opened(job, folder)


def asked_inputs(db: sqlite3.Connection, given: Sources, asked: Asked) -> Iterator[Found]:
    """All that the inputs name, or of an annotated COCO file what lacks annotations."""
    found = find(given.inputs, given.selection.images_root, given.stdin)
    if not given.selection.only_unannotated:
        return found
    return lacking(db, given.inputs[0], found, asked.settings.categories)


def refuse_foreign(output: str) -> None:
    """A folder with such files and no job is somebody else's: nothing in it is replaced."""
    for name in DERIVED:
        if exists(join(output, name)):
            raise JobDiffers(
                f"{join(output, name)} is there, but no job of this program; give another --output"
            )


def continue_job(output: str, asked: Asked) -> Opened | None:
    """The job that this output holds, None if there is none; one asked for otherwise is refused."""
    there = read_job(output)
    if there is None:
        return None
    differences = differing(there.asked, asked)
    if differences:
        raise JobDiffers(
            f"{output} holds a job with other {', '.join(differences)};"
            " give --overwrite to start anew, or another --output"
        )
    return Opened(there, Folder(output, there.run))


def differing(before: Asked, now: Asked) -> list[str]:
    """What two jobs were asked differently, named as a person would, with both values."""
    return [
        f"{name} ({_short(old[name])} before, {_short(new[name])} now)"
        for old, new in [(_flat(before), _flat(now))]
        for name in old
        if old[name] != new[name]
    ]


def _flat(asked: Asked) -> dict[str, Any]:
    values = msgspec.to_builtins(asked)
    values |= values.pop("selection") | values.pop("settings")
    model = asked.model
    values["model"] = f"{model.card.name} {model.build.file} {model.sha256[:12]}"
    values["model card"] = model.card
    values["engine"] = f"{model.engine} {model.compute}"
    values["alternates"] = [f"{m.engine} {m.compute} {m.sha256[:12]}" for m in asked.alternates]
    return {name.replace("_", " "): value for name, value in values.items()}


def _short(value: Any) -> str:
    text = value if isinstance(value, str) else msgspec.json.encode(value).decode()
    return text if len(text) <= 60 else text[:59] + "…"
