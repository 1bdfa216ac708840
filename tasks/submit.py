"""From what a person asks for to a planned job whose shards can be sent: the producer's API."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, cast

import msgspec

from storage.uris import without_query
from tasks.cards import Model
from tasks.folder import Folder, JobDiffers, delete_other_runs, read_job
from tasks.inputs import absolute, find
from tasks.plan import commit_job, write_plan
from tasks.records import Asked, Job, ModelRef, Selection, Settings

SHARD_SIZE = 64


class Opened(NamedTuple):
    job: Job
    folder: Folder


def ask(
    inputs: Sequence[str],
    model: Model,
    settings: Settings,
    selection: Selection,
    shard_size: int,
) -> Asked:
    reference = ModelRef(
        card=model.card,
        file=model.build.file,
        engine=model.build.engine,
        precision=model.build.precision,
        sha256=model.sha256,
    )
    words = tuple(without_query(absolute(word)) for word in inputs)
    return Asked(words, selection, reference, settings, shard_size)


def open_job(
    output: str,
    inputs: Sequence[str],
    asked: Asked,
    model_path: str,
    *,
    overwrite: bool = False,
    progress: Callable[[int], None] = lambda planned: None,
) -> Opened:
    """Plan a job, or continue the one that this output holds if it was asked for in equal words."""
    there = None if overwrite else continue_job(output, asked)
    if there is not None:
        return there
    folder = Folder(output, secrets.token_hex(6))
    found = find([absolute(word) for word in inputs], asked.selection.images_root)
    counts = write_plan(folder, found, asked, progress)
    job = Job(folder.run, asked, counts, model_path)
    if not commit_job(folder, job, replace=overwrite):
        return cast(Opened, continue_job(output, asked))  # another planner was first
    delete_other_runs(folder)
    return Opened(job, folder)


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
    values: dict[str, Any] = {"inputs": list(asked.inputs), "shard size": asked.shard_size}
    values |= msgspec.to_builtins(asked.selection)
    model = asked.model
    values["model"] = f"{model.card.name} {model.file} {model.sha256[:12]}"
    values["model card"] = msgspec.to_builtins(model.card)
    values |= msgspec.to_builtins(asked.settings)
    return {name.replace("_", " "): value for name, value in values.items()}


def _short(value: Any) -> str:
    text = value if isinstance(value, str) else msgspec.json.encode(value).decode()
    return text if len(text) <= 60 else text[:59] + "…"
