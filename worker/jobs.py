"""The Celery tasks of a worker, and what one worker process holds between them."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from celery import shared_task

from storage import put
from storage.errors import Exists, StorageError
from tasks.cards import Model, ModelError
from tasks.folder import Folder, JobError, exists, read_job, read_plan, read_shard
from tasks.merge import merge, seal
from tasks.messages import MERGE, SHARD, MergeMessage, ShardMessage, parse
from tasks.records import Failure, Item, Job, ProducedBy, Shard, encode
from worker.attempts import History, Trying, read_history
from worker.detections import ModelMismatch
from worker.model import LoadedModel, instruction_set, load_model
from worker.settings import WorkerSettings, read_settings
from worker.shard import Outcome, Stopwatch, annotate, annotate_one, failure_of
from worker.sheet import write_sheet

log = logging.getLogger("maskmill.worker")

Event = dict[str, Any]


class Released(Exception):
    """The shard in hand is handed back: the worker was asked to stop."""


@dataclass
class Station:
    """One process's model, its settings, and who hears of what it does."""

    worker: str = "worker"
    tell: Callable[[Event], None] = lambda event: None
    stopping: Callable[[], bool] = lambda: False
    failed: Callable[[str], None] = log.error  # a cause that no other shard escapes
    replace_edited: bool = False  # a merge may replace a dataset that somebody worked on
    models: dict[str, LoadedModel] = field(default_factory=dict)

    @cached_property
    def settings(self) -> WorkerSettings:
        return read_settings()

    def model(self, model: Model) -> LoadedModel:
        key = f"{model.sha256} {encode(model.card)!r}"
        if key not in self.models:
            self.models[key] = load_model(model, self.settings)
        return self.models[key]


station = Station()


@shared_task(name=SHARD)  # type: ignore[untyped-decorator]
def shard(**body: Any) -> None:
    message: ShardMessage = parse(ShardMessage, body)
    try:
        run_shard(message, station)
    except Released:
        log.info("shard %s of %s handed back", message.shard, message.job)
    except (JobError, StorageError, ModelError, ModelMismatch) as exc:
        station.failed(str(exc))


@shared_task(name=MERGE)  # type: ignore[untyped-decorator]
def merge_job(**body: Any) -> None:
    message: MergeMessage = parse(MergeMessage, body)
    try:
        run_merge(message.job, station)
    except (JobError, StorageError) as exc:
        station.failed(str(exc))
    except OSError as exc:  # of the spool file in the scratch folder
        station.failed(f"the dataset could not be merged: {exc.strerror or exc}")


def run_shard(message: ShardMessage, station: Station) -> None:
    """Work off one shard. A repeated, late or overwritten job's message does nothing."""
    job = read_job(message.job)
    if job is None or job.run != message.run:
        return
    folder = Folder(message.job, job.run)
    if exists(folder.shard(message.shard)):
        return
    model = station.model(_model_of(job))
    items = read_plan(folder, message.shard)
    history = read_history(folder, message.shard)
    watch = Stopwatch()
    with Trying(folder, message.shard, station.worker, history) as attempt:
        try:
            outcomes = _outcomes(items, model, job, history, attempt, station, watch)
            record = _record(message.shard, outcomes, _produced_by(job, model), station)
            watch.timed("write", _commit, folder, record)
        except (Released, StorageError):
            attempt.end("released", 0, watch.seconds)
            raise
        attempt.end("committed", len(items), watch.seconds)
    station.tell({"event": "committed", "shard": message.shard})


def _outcomes(
    items: tuple[Item, ...],
    model: LoadedModel,
    job: Job,
    history: History,
    attempt: Trying,
    station: Station,
    watch: Stopwatch,
) -> Any:
    settings = job.asked.settings
    if not history.careful:
        yield from annotate(
            items, model, settings, threads=station.settings.decode_threads, watch=watch
        )
        return
    for item in items:
        if item.id in history.given_up:
            message = "the process that opened this image died, twice with nothing beside it"
            yield Outcome(item, failure=failure_of(item, "worker", "crashed", message))
            continue
        attempt.in_hand(item.id)
        yield annotate_one(item, model, settings, watch)


def _record(number: int, outcomes: Any, produced_by: ProducedBy, station: Station) -> Shard:
    images, annotations, failures, empty = [], [], [], 0
    for outcome in outcomes:
        if station.stopping():
            raise Released
        if outcome.image is not None:
            images.append(outcome.image)
        annotations.extend(outcome.annotations)
        failures.extend([outcome.failure] if outcome.failure else [])
        empty += outcome.empty_masks
        station.tell(_progress(number, outcome))
    return Shard(number, produced_by, tuple(images), tuple(annotations), tuple(failures), empty)


def _progress(number: int, outcome: Outcome) -> Event:
    event: Event = {"event": "image", "shard": number, "detections": len(outcome.annotations)}
    failure: Failure | None = outcome.failure
    if failure is not None:
        event |= {"uri": failure.uri, "failed": f"{failure.stage}/{failure.kind}"}
    return event


def _commit(folder: Folder, record: Shard) -> None:
    """Write-once. Equal content is success; other content of the same kind of worker is kept."""
    data = encode(record)
    try:
        put(folder.shard(record.shard), data, create_only=True)
    except Exists:
        there = read_shard(folder, record.shard)
        if there.produced_by == record.produced_by:
            log.error("shard %s exists with other content; ours is kept beside it", record.shard)
            put(folder.shard(record.shard).removesuffix(".json") + ".conflict.json", data)


def _model_of(job: Job) -> Model:
    reference = job.asked.model
    build = next(each for each in reference.card.builds if each.file == reference.file)
    return Model(
        reference.card,
        build,
        job.model_path,
        reference.sha256,
        reference.engine,
        reference.compute,
    )


def _produced_by(job: Job, model: LoadedModel) -> ProducedBy:
    reference = job.asked.model
    delegate = "" if model.runtime.device == "CPU" else model.runtime.device
    return ProducedBy(
        reference.sha256,
        reference.engine,
        model.engine_version,
        reference.precision if reference.compute == "f32" else reference.compute,
        delegate,
        instruction_set(),
    )


def run_merge(uri: str, station: Station) -> None:
    """Merge a finished job and draw its contact sheet; each file is replaced in one step."""
    job = read_job(uri)
    if job is None:
        return
    folder = Folder(uri, job.run)
    station.tell({"event": "merging"})
    merged = merge(folder, job, replace_edited=station.replace_edited)
    seal(folder, job, merged, drawn=write_sheet(folder, job, merged.picks))
    station.tell({"event": "merged"})
