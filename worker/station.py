"""What one worker process holds between tasks, and what it does when a shard ends."""

import logging
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import msgspec
from celery import Celery, current_task
from celery.exceptions import Reject

from storage import StorageError, basename, exists, join, list_entries, put, without_frame
from tasks.broker import ShardMessage, queue_of, send_merge, send_shards
from tasks.cards import Model, ModelError, engines_here
from tasks.environment import SettingError, WorkerSettings
from tasks.folder import Folder, JobError, missing_shards
from tasks.markers import Halted, stop
from tasks.merge import Outdated, is_merged
from tasks.open_jobs import Remembered
from tasks.records import Item, Job, encode
from tasks.shelf import cached_build
from tasks.state import Fleet, State
from worker.attempts import Released, worker_name
from worker.limits import Limits, NotAllowed
from worker.model import LoadedModel, load_model

log = logging.getLogger("maskmill.worker")

Event = dict[str, Any]

# Wrong with the store in a way that no waiting mends: the job stops. The rest may pass.
LASTING = frozenset(("no-bucket", "no-credentials", "denied", "bad-uri", "bad-setting"))
PASSING = frozenset(("unavailable", "full"))  # a store that mends
WAIT_S = 5.0  # before a shard is handed back that a store kept from being done
UNFIT = 2  # different workers that cannot load a model stop its job
FORESEEN = (JobError, ModelError, Released, SettingError, StorageError)


def said_of(reason: Exception | str) -> str:
    foreseen = isinstance(reason, (str, *FORESEEN))
    return str(reason) if foreseen else f"the worker failed: {reason!r}"


@dataclass(kw_only=True)
class Station:
    """On one machine the parent process follows up. A fleet's station does so itself."""

    worker: str = field(default_factory=lambda: worker_name("worker"))
    tell: Callable[[Event], None] = lambda event: None
    stopping: Callable[[], bool] = lambda: False
    failed: Callable[[str], None] = log.error  # a cause that no other shard escapes
    limits: Limits = field(default_factory=lambda: Limits(own_files=True))
    engines: Sequence[str] = field(default_factory=engines_here)
    replace_edited: bool = False  # a merge may replace a dataset that somebody worked on
    models: dict[str, LoadedModel] = field(default_factory=dict)
    unfit: list[Model] = field(default_factory=list)  # of mixed jobs: they do not load here

    @cached_property
    def settings(self) -> WorkerSettings:
        return WorkerSettings()

    def model(self, model: Model) -> LoadedModel:
        key = f"{model.sha256} {model.engine} {model.compute} {encode(model.card)!r}"
        if key not in self.models:
            if not os.path.isfile(model.path):
                path = cached_build(model.path, model.sha256)
                model = msgspec.structs.replace(model, path=str(path))
            self.models[key] = load_model(model, self.settings)
        return self.models[key]

    def model_of(self, job: Job) -> LoadedModel:
        """The job's model; of a mixed one the first that this worker may run and can load."""
        first = job.asked.model
        if not job.asked.alternates:
            return self.model(first)
        for model in (first, *job.asked.alternates):
            allowed = self.limits.allow_model(model.card.name, model.sha256)
            if allowed and model.engine in self.engines and model not in self.unfit:
                try:
                    return self.model(model)
                except ModelError as exc:
                    self.unfit.append(model)
                    log.warning("%s with %s: %s", model.build.file, model.engine, exc)
        raise ModelError(f"none of the builds of {first.card.name} runs here")

    def admit(self, job: Job, folder: Folder) -> None:
        """Raise JobError or NotAllowed for a job that this worker may not touch."""
        self.limits.check_output(folder.uri)
        name, sha256 = job.asked.model.card.name, job.asked.model.sha256
        if not (job.asked.alternates or self.limits.allow_model(name, sha256)):
            raise NotAllowed(f"the model {name} is not among this worker's MASKMILL_ALLOWED_MODELS")

    def refused(self, item: Item) -> str:
        """Why this worker may not read an input; empty if it may."""
        return self.limits.refused_input(without_frame(item.uri) if item.frame else item.uri)

    def announce(self, event: str, each: list[dict[str, str]]) -> None:
        """Tell whoever listens on the broker that objects are there."""

    def bury(self, reason: Exception | str, task: str, body: object) -> None:
        """A message cannot be acted on."""
        self.failed(f"{task} is not acted on: {said_of(reason)}")

    def broke_off(self, message: ShardMessage, job: Job, reason: Exception) -> None:
        """A cause outside the shard's inputs ended it."""
        self.failed(said_of(reason))

    def unmerged(self, folder: Folder, reason: Exception) -> None:
        """The merge of a job was refused, or there was no room for it."""
        self.failed(f"the dataset could not be merged: {getattr(reason, 'strerror', '') or reason}")

    def ended(self, folder: Folder, job: Job) -> None:
        """A shard's object is there."""


@dataclass(kw_only=True)
class FleetStation(Station):
    """It follows up on each shard itself, for nobody watches it."""

    app: Celery
    state: State
    celery: Any = None  # its worker, where the tasks run in its process
    # How far each job is known to be done, by folder and run: every shard below is written.
    done_below: dict[Folder, int] = field(default_factory=dict)
    open_jobs: Remembered = field(default_factory=dict)

    @property
    def fleet(self) -> Fleet:
        """With what it sends jobs of its own making."""
        return Fleet(self.app, self.state, self.limits.check_message, self.limits.refused_input)

    def announce(self, event: str, each: list[dict[str, str]]) -> None:
        try:
            with self.app.events.default_dispatcher() as dispatcher:
                for fields in each:
                    dispatcher.send(event, **fields)
        except Exception as exc:  # noqa: BLE001  a hint, whatever the broker's library raises
            log.warning("the results are written, but no event could be sent: %s", exc)

    def broke_off(self, message: ShardMessage, job: Job, reason: Exception) -> None:
        unforeseen = None if isinstance(reason, FORESEEN) else reason
        log.warning("shard %s of %s: %s", message.shard, message.job, reason, exc_info=unforeseen)
        if isinstance(reason, Halted):
            return
        if isinstance(reason, JobError):
            raise reason  # the message is kept
        if isinstance(reason, NotAllowed) or getattr(reason, "kind", "") in LASTING:
            stop(Folder(message.job, job.run), str(reason))
        elif isinstance(reason, ModelError | SettingError):
            self._leave(message, job, str(reason))
        else:
            self._pause()
            send_shards(self.app, message.job, job, [message.shard])

    def bury(self, reason: Exception | str, task: str, body: object) -> None:
        """Keep a message that cannot be acted on; until it is kept, the queue has it.

        So it has one that only a store keeps from being acted on.
        """
        letter = {"task": task, "body": body, "worker": self.worker}
        try:
            if isinstance(reason, StorageError) and reason.kind in PASSING:
                raise reason
            log.error("%s is not acted on: %s", task, reason)
            self.state.bury_message(str(reason), letter)
        except StorageError as exc:
            self._pause()
            raise Reject(str(exc), requeue=True) from exc

    def ended(self, folder: Folder, job: Job) -> None:
        """Whoever finds no shard missing sends the merge; a second one makes the same bytes."""
        if job.open:
            return
        below = self.done_below.get(folder, 0)
        while below < job.counts.shards and exists(folder.shard(below)):
            below += 1
        self.done_below[folder] = below
        if below < job.counts.shards or is_merged(folder, job) or missing_shards(folder, job):
            return
        send_merge(self.app, folder.uri)

    def unmerged(self, folder: Folder, reason: Exception) -> None:
        """What the next try would not mend either stops the job, so that who follows it knows."""
        super().unmerged(folder, reason)
        passing = isinstance(reason, StorageError | OSError | Outdated)
        if not passing or getattr(reason, "kind", "") in LASTING:
            stop(folder, str(reason))

    def _leave(self, message: ShardMessage, job: Job, reason: str) -> None:
        """The model cannot be loaded here: leave its queue. Two different workers stop the job."""
        folder = Folder(message.job, job.run)
        record = folder.file(f"unfit/{job.run}/{self.worker.replace(':', '-')}.json")
        put(record, msgspec.json.encode({"reason": reason, "at": time.time()}))
        unfit = {basename(each.uri) for each in list_entries(join(folder.uri, f"unfit/{job.run}/"))}
        if len(unfit) >= UNFIT and not job.asked.alternates:  # a third may have another build
            stop(folder, f"{len(unfit)} workers cannot load the model: {reason}")
            return
        log.warning("takes no more from %s until it is started again", queue_of(job))
        if self.celery is not None:
            self.celery.consumer.cancel_task_queue(queue_of(job))
        else:  # in a pool's child the consumer is another process's
            here = current_task.request.hostname
            self.app.control.cancel_consumer(queue_of(job), destination=[here])
        send_shards(self.app, message.job, job, [message.shard])

    def _pause(self) -> None:
        """While a store may come back."""
        end = time.monotonic() + WAIT_S
        while time.monotonic() < end and not self.stopping():
            time.sleep(0.2)
