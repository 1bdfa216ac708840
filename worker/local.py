"""The child process of `maskmill annotate`: the fleet's tasks over Celery's in-memory broker.

It is ordered to load a model, which may be refused, and then to work off a job with it.
"""

import itertools
import logging
import os
from typing import Any

import msgspec
from celery import signals
from celery.worker import state

from tasks.broker import DEFAULT_QUEUE, make_app, queue_of, send_merge, send_shards
from tasks.cards import Model
from tasks.exits import STOPPED
from tasks.folder import find_job, missing_shards, read_job
from tasks.local import STOP_S
from tasks.messages import MergeMessage
from worker.attempts import worker_name
from worker.child import begin, heed, refusing, take_order, tell, worker_of
from worker.jobs import station
from worker.station import said_of

AHEAD = 4  # shard messages in the broker at a time


class Working(msgspec.Struct):
    job: str
    replace_edited: bool


class Telling(logging.Handler):
    """Our own warnings go to the person; those of libraries stay on standard error."""

    def emit(self, record: logging.LogRecord) -> None:
        tell({"event": "warning", "message": record.getMessage()})


def main() -> None:
    for name in ("storage", "maskmill"):
        logging.getLogger(name).addHandler(Telling())
    model = begin(logging.WARNING, Model)
    with refusing():
        station.model(model)
    tell({"event": "ready"})
    order = take_order(Working)
    failed: list[str] = []
    stopping = heed(station, 0.0, STOP_S)

    def fail(reason: str) -> None:
        failed.append(reason)
        stopping.set()
        state.should_stop = 0

    station.worker, station.tell, station.failed = worker_name("local"), tell, fail
    station.replace_edited = order.replace_edited
    merged = False
    try:
        merged = work_off(order.job)
    except Exception as exc:  # noqa: BLE001 - whatever it is, it is told and ends the run
        fail(said_of(exc))
    if failed:  # the first is the cause
        tell({"event": "stopped", "message": failed[0]})
    # Not sys.exit: no thread holds the process up. Everything written is written.
    os._exit(0 if merged and not failed else STOPPED)


def work_off(uri: str) -> bool:
    """Run a Celery worker in this thread until the job is merged, or someone says stop.

    Its shards are sent a few at a time, and the merge when the last of them has ended.
    """
    job, folder = find_job(uri)
    app = make_app("memory://")
    app.set_current()
    missing = missing_shards(folder, job)
    waiting, left, merged = iter(missing), len(missing), False

    def send(most: int) -> None:
        if left:
            send_shards(app, uri, job, itertools.islice(waiting, most))
        elif (now := read_job(uri)) is not None and now.run == job.run:
            send_merge(app, uri)
        else:
            station.failed(f"another command started the job in {uri} anew")

    def task_ended(task: Any, **_: Any) -> None:
        nonlocal left, merged
        if task.name == MergeMessage.task:
            merged = True
            state.should_stop = 0
        elif not station.stopping():
            left -= 1
            send(1)

    signals.task_postrun.connect(task_ended, weak=False)
    send(AHEAD)
    worker_of(app, [queue_of(job), DEFAULT_QUEUE], loglevel="WARNING").start()
    return merged


if __name__ == "__main__":
    main()
