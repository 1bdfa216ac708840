"""The child process of `maskmill annotate`: the fleet's tasks over Celery's in-memory broker.

It is ordered to load a model, which may be refused, and then to work off a job with it.
"""

import itertools
import logging
import os
from typing import Any

from celery import signals

from tasks.broker import DEFAULT_QUEUE, MergeMessage, make_app, queue_of, send_merge, send_shards
from tasks.cards import Model
from tasks.exits import STOPPED
from tasks.folder import find_job, missing_shards, read_job
from tasks.supervisor import STOP_S
from worker.attempts import worker_name
from worker.child import begin, heed, refusing, take_order, tell, worker_of
from worker.jobs import station
from worker.station import said_of


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
    order = take_order(dict[str, Any])
    heed(station, 0.0, STOP_S)
    station.worker, station.tell, station.failed = worker_name("local"), tell, fail
    station.replace_edited = order["replace_edited"]
    try:
        work_off(order["job"])
    except Exception as exc:  # noqa: BLE001 - whatever it is, it is told and ends the run
        fail(said_of(exc))
    os._exit(STOPPED)


def fail(reason: str) -> None:
    """Tell the cause, and end. Everything written is written, and no thread holds the process."""
    tell({"event": "stopped", "message": reason})
    os._exit(STOPPED)


def work_off(uri: str) -> None:
    """Run a Celery worker in this thread. The process ends with the job's merge.

    Each message follows when the one before it has ended, the merge after those of all shards.
    """
    job, folder = find_job(uri)
    app = make_app("memory://")
    app.set_current()
    missing = iter(missing_shards(folder, job))

    def send() -> None:
        if send_shards(app, uri, job, itertools.islice(missing, 1)):
            return
        if read_job(uri) != job:
            fail(f"another command started the job in {uri} anew")
        send_merge(app, uri)

    def task_ended(task: Any, **_: Any) -> None:
        if task.name == MergeMessage.task:
            os._exit(0)
        try:
            send()
        except Exception as exc:  # noqa: BLE001 - Celery would only log it, and wait for ever
            fail(said_of(exc))

    signals.task_postrun.connect(task_ended, weak=False)
    send()
    worker_of(app, [queue_of(job), DEFAULT_QUEUE], loglevel="WARNING").start()


if __name__ == "__main__":
    main()
