"""The Celery tasks of a worker."""

import logging
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from datetime import datetime, timezone
from functools import partial
from itertools import chain
from typing import Any, TypeVar

import msgspec
from celery import shared_task
from celery.exceptions import Reject

from storage import Exists, StorageError, exists, put, without_frame
from tasks import broker
from tasks.folder import Due, Folder, JobError, read_job
from tasks.markers import halt_of, look_for_halt
from tasks.merge import merge_all
from tasks.open_jobs import append_message
from tasks.reconcile import reconcile
from tasks.records import Item, Job, Problem, ProducedBy, Shard, encode
from tasks.runs import tick
from tasks.submit import submit_message
from worker import spool
from worker.attempts import Overtaken, Released, Trying, read_history
from worker.drawing import write_sheet
from worker.model import LoadedModel, instruction_set
from worker.per_image import EVENT, save_frame, write_per_image
from worker.shard import Means, Outcome, annotate, failed
from worker.station import PASSING, Event, FleetStation, Station

log = logging.getLogger("maskmill.worker")
M = TypeVar("M", bound=broker.Message)

LOOK_S = 2.0  # how often a shard looks for a marker that ends its job

station = Station()


def task(kind: type[M]) -> Callable[[Callable[[M], None]], Any]:
    """A Celery task that acts on messages of a kind. One that cannot be acted on is kept."""

    def made(act: Callable[[M], None]) -> Any:
        def run(*args: Any, **body: Any) -> None:
            try:
                act(_read(kind, args, body))
            except Reject:
                raise
            except broker.BrokerDown as exc:
                log.warning("%s, or the reconciler does", exc)
            except Exception as exc:  # noqa: BLE001 - whatever it is, the message is not lost
                station.bury(exc, kind.task, {"args": args, **body} if args else body)
            finally:
                station.tell({"event": "let-go"})

        return shared_task(name=kind.task)(run)

    return made


def _read(kind: type[M], args: tuple[Any, ...], body: dict[str, Any]) -> M:
    """A message's body as its type."""
    if args:
        raise msgspec.ValidationError("it has positional arguments; all go by name")
    try:
        encode(body)
    except UnicodeEncodeError as exc:
        raise msgspec.ValidationError("it holds text that is not UTF-8") from exc
    return msgspec.convert(body, kind)


@task(broker.ShardMessage)
def shard(message: broker.ShardMessage) -> None:
    job = read_job(message.job)
    if job is None or job.run != message.run:
        return
    try:
        run_shard(message, job, station)
    except broker.BrokerDown:
        raise  # of what is to follow on the shard
    except Exception as exc:  # noqa: BLE001 - whatever it is, another worker may be luckier
        station.broke_off(message, job, exc)


@task(broker.MergeMessage)
def merge_job(message: broker.MergeMessage) -> None:
    station.limits.check_output(message.job)
    run_merge(message.job, station)


@task(broker.SubmitMessage)
def submit_job(message: broker.SubmitMessage) -> None:
    """Plan on this worker what a bare client asks for, and send its shards."""
    submit_message(message, _for_client(message).fleet)


@task(broker.AnnotateMessage)
def annotate_items(message: broker.AnnotateMessage) -> None:
    """Store what is to be added to an open job, then send its shard."""
    here = _for_client(message)
    append_message(message, here.fleet, here.admit, here.open_jobs)


def _for_client(message: broker.Asking) -> FleetStation:
    """This worker's station, if its limits let it do what a client asks for."""
    assert isinstance(station, FleetStation)  # one machine's own broker has no such message
    station.limits.check_message(message)
    return station


@task(broker.ReconcileMessage)
def reconcile_jobs(message: broker.ReconcileMessage) -> None:
    if isinstance(station, FleetStation):
        looks = tick(station.fleet, datetime.now(timezone.utc))
        jobs = () if message.only_schedules else reconcile(station.app, station.state)
        for done in chain(jobs, looks):
            log.info(done)


def run_shard(message: broker.ShardMessage, job: Job, station: Station) -> None:
    """Work off one shard. A message that comes again finds it done."""
    folder = Folder(message.job, job.run)
    station.admit(job, folder)
    generation = folder.generation_due(message.shard)
    if generation is not None:
        look_for_halt(folder)
        model = station.model_of(job)
        try:
            _try(Due(folder, message.shard, generation), job, model, station)
        except Overtaken:
            log.info("shard %s of %s was done by another worker", message.shard, folder.uri)
    station.ended(folder, job)


def _try(due: Due, job: Job, model: LoadedModel, station: Station) -> None:
    (folder, shard, _), settings = due, job.asked.settings
    items = due.folder.read_plan(due.shard, due.generation)
    before = spool.kept_of(due, _produced_by(model))
    done = {image.id for image in before.images} | {each.image_id for each in before.failures}
    left = tuple(sorted((item for item in items if item.id not in done), key=_place))
    ended: list[Outcome] = []
    attempts = folder.attempts(*due[1:])
    said = {"job": folder.uri, "shard": shard, "attempts": attempts, "worker": station.worker}
    with Trying(attempts, station.worker, read_history(attempts)) as attempt:
        station.tell({"event": "taken", **said})
        try:
            means = Means(
                model,
                settings,
                attempt.watch,
                threads=station.settings.decode_threads,
                refused=station.refused,
                keep=partial(save_frame, folder, job) if settings.save_frames else None,
            )
            outcomes = _outcomes(left, means, attempt)
            for outcome in _watched(outcomes, due, station, means.away):
                ended.append(outcome)
            look_for_halt(folder)
            attempt.watch.timed("write", _write, due, job, _record(before, ended), items, station)
        except StorageError as exc:
            if exc.kind in PASSING:
                most = station.settings.spool_bytes
                spool.keep(due, _record(before, ended), len(items), most)
            raise
    station.tell({"event": "committed", "shard": shard})


def _place(item: Item) -> tuple[str, int]:
    """Of one video after the other, its frames as they are shown, so that each is opened once."""
    return (without_frame(item.uri), item.frame.pts) if item.frame else ("", 0)


def _outcomes(items: Sequence[Item], means: Means, attempt: Trying) -> Iterator[Outcome]:
    if not attempt.history.careful:
        yield from annotate(items, means)
        return
    for item in items:
        if item.id in attempt.history.given_up:
            message = "the process that opened this image died, twice with nothing beside it"
            yield failed(item, Problem("worker", "crashed", message))
            continue
        attempt.in_hand(item.id)
        yield from annotate((item,), means)


def _watched(
    outcomes: Iterable[Outcome], due: Due, station: Station, away: list[StorageError]
) -> Iterator[Outcome]:
    """The outcomes, as long as the shard is wanted from this worker."""
    looked = time.monotonic()
    for outcome in outcomes:
        if station.stopping():
            raise Released("the worker is told to stop")
        if not away and time.monotonic() - looked > LOOK_S:
            try:
                look_for_halt(due.folder)
                if exists(due.uri):
                    raise Overtaken
            except StorageError as exc:
                away.append(exc)
            looked = time.monotonic()
        found = len(outcome.annotations)
        event: Event = {"event": "image", "shard": due.shard, "detections": found}
        if failure := outcome.failure:
            event |= {"uri": failure.uri, "failed": f"{failure.stage}/{failure.kind}"}
        station.tell(event)
        yield outcome


def _record(before: Shard, ended: Sequence[Outcome]) -> Shard:
    """What was done before and now, in the plan's order, which is that of the ids."""
    images = [*before.images, *(each.image for each in ended if each.image)]
    found = [*before.annotations, *(found for each in ended for found in each.annotations)]
    failures = [*before.failures, *(each.failure for each in ended if each.failure)]
    return msgspec.structs.replace(
        before,
        images=tuple(sorted(images, key=lambda each: each.id)),
        annotations=tuple(sorted(found, key=lambda each: each.image_id)),
        failures=tuple(sorted(failures, key=lambda each: each.image_id)),
        empty_masks=before.empty_masks + sum(each.empty_masks for each in ended),
    )


def _write(due: Due, job: Job, record: Shard, items: Sequence[Item], station: Station) -> None:
    if job.routing.per_image:
        station.announce(EVENT, write_per_image(due.folder, job, record, items))
    _commit(due, record)
    spool.forget(due)


def deliver(station: Station) -> None:
    """Write what is kept of shards that were finished; forget what nobody waits for any more."""
    for kept in spool.all_kept():
        due, folder = kept.due, kept.due.folder
        try:
            job = read_job(folder.uri)
            if job is None or job.run != folder.run or halt_of(folder) or exists(due.uri):
                spool.forget(due)
            elif kept.whole:
                _write(due, job, kept.record, folder.read_plan(due.shard, due.generation), station)
                log.info("shard %s of %s is delivered from the spool", due.shard, folder.uri)
                station.ended(folder, job)
        except broker.BrokerDown as exc:
            log.warning("%s, or the reconciler does", exc)
        except (JobError, StorageError) as exc:  # another's store may be there
            log.warning("shard %s of %s stays in the spool: %s", due.shard, folder.uri, exc)


def _commit(due: Due, record: Shard) -> None:
    """Write-once. Equal content is success; other content of the same kind of worker is kept."""
    data = encode(record)
    try:
        put(due.uri, data, create_only=True)
    except Exists:
        there = due.folder.read_shard(due.shard, due.generation)
        if there.produced_by == record.produced_by:
            log.error("shard %s exists with other content; ours is kept beside it", record.shard)
            put(due.uri.removesuffix(".json") + ".conflict.json", data)


def _produced_by(loaded: LoadedModel) -> ProducedBy:
    model = loaded.model
    delegate = "" if loaded.runtime.device == "CPU" else loaded.runtime.device
    return ProducedBy(
        model.sha256,
        model.engine,
        loaded.runtime.version,
        model.build.precision if model.compute == "f32" else model.compute,
        delegate,
        instruction_set(),
    )


def run_merge(uri: str, station: Station) -> None:
    """Merge a finished job and draw its contact sheet; each file is replaced in one step."""
    job = read_job(uri)
    if job is None:
        return
    folder = Folder(uri, job.run)
    station.tell({"event": "merging", "job": uri})
    try:
        merge_all(folder, job, write_sheet, replace_edited=station.replace_edited)
        station.tell({"event": "merged"})
    except (JobError, OSError, StorageError) as exc:  # OSError: of the scratch folder
        station.unmerged(folder, exc)
