"""A fleet worker's station: it follows up on each shard itself, for nobody watches it."""

import logging
import time
from dataclasses import dataclass, field
from typing import Any

import msgspec
from celery import Celery, current_task
from celery.exceptions import Reject

from storage import exists, list_entries, put
from storage.errors import StorageError
from storage.uris import basename, join
from tasks.broker import queue_of, send_merge, send_shards
from tasks.cards import ModelError
from tasks.environment import SettingError
from tasks.folder import Folder, JobError, missing_shards
from tasks.markers import Halted, stop
from tasks.merge import Outdated, is_merged
from tasks.messages import ShardMessage
from tasks.open_jobs import Remembered
from tasks.records import Job
from tasks.state import State
from worker.limits import NotAllowed
from worker.station import FORESEEN, Station

log = logging.getLogger("maskmill.worker")

# Wrong with the store in a way that no waiting mends: the job stops. The rest may pass.
LASTING = frozenset(("no-bucket", "no-credentials", "denied", "bad-uri", "bad-setting"))
PASSING = frozenset(("unavailable", "full"))  # a store that mends
WAIT_S = 5.0  # before a shard is handed back that a store kept from being done
UNFIT = 2  # different workers that cannot load a model stop its job


@dataclass(kw_only=True)
class FleetStation(Station):
    app: Celery
    state: State
    celery: Any = None  # its worker, where the tasks run in its process
    # How far each job is known to be done, by folder and run: every shard below is written.
    done_below: dict[Folder, int] = field(default_factory=dict)
    open_jobs: Remembered = field(default_factory=dict)

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
