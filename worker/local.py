"""The child process of `maskmill annotate`: the fleet's tasks over Celery's in-memory broker.

It reads JSON lines on standard input ({"model": …}, then {"job": …}, then perhaps {"stop": true})
and writes events as JSON lines on standard output. End of input means that the parent is gone.
"""

import logging
import os
import sys
import threading
from typing import Any

import msgspec
from celery import Celery, signals
from celery.worker import state

from storage.errors import StorageError
from tasks.broker import DEFAULT_QUEUE, make_app, queue_of, send_merge, send_shards
from tasks.cards import Model, ModelError
from tasks.environment import SettingError
from tasks.folder import Folder, JobError, missing_shards, read_job
from tasks.records import Job
from worker.detections import ModelMismatch
from worker.jobs import station

AHEAD = 4  # shard messages in the broker at a time
GRACE_S = 20.0  # for the image in hand, when the parent is gone
EX_STOPPED = 4
EX_REFUSED = 2

# Events have standard output for themselves: what else is printed goes to standard error.
_events = os.fdopen(os.dup(1), "wb", buffering=0)
_lock = threading.Lock()


def tell(event: dict[str, Any]) -> None:
    with _lock:
        _events.write(msgspec.json.encode(event) + b"\n")


class Telling(logging.Handler):
    """Our own warnings go to the person; those of libraries stay on standard error."""

    def emit(self, record: logging.LogRecord) -> None:
        tell({"event": "warning", "message": record.getMessage()})


class Orders:
    """What the parent says, read by a thread so that a stop is heard in mid-shard."""

    def __init__(self) -> None:
        self.stop = threading.Event()
        self.failed = ""

    def listen(self) -> None:
        for line in sys.stdin.buffer:
            if msgspec.json.decode(line).get("stop"):
                self._halt()
        self._halt()
        threading.Timer(GRACE_S, os._exit, (EX_STOPPED,)).start()

    def fail(self, reason: str) -> None:
        self.failed = self.failed or reason  # the first is the cause
        self._halt()

    def _halt(self) -> None:
        self.stop.set()
        state.should_stop = 0


def main() -> None:
    os.dup2(2, 1)
    logging.basicConfig(level=logging.WARNING, stream=sys.stderr)
    for name in ("storage", "maskmill"):
        logging.getLogger(name).addHandler(Telling())
    model = msgspec.convert(_order()["model"], Model)
    try:
        station.model(model)
    except (ModelMismatch, ModelError, SettingError) as exc:
        tell({"event": "refused", "message": str(exc)})
        sys.exit(EX_REFUSED)
    tell({"event": "ready"})
    order = _order()
    orders = Orders()
    station.worker, station.tell = order["worker"], tell
    station.replace_edited = order["replace_edited"]
    station.stopping, station.failed = orders.stop.is_set, orders.fail
    threading.Thread(target=orders.listen, daemon=True).start()
    try:
        work_off(order["job"])
    except (JobError, StorageError) as exc:
        orders.fail(str(exc))
    except Exception as exc:  # noqa: BLE001 - whatever it is, it is told and ends the run
        orders.fail(f"the worker failed: {exc!r}")
    if orders.failed:
        tell({"event": "stopped", "message": orders.failed})
    # Not sys.exit: the thread that listens holds standard input's lock, which Python's shut-down
    # would abort over. Everything written is written.
    os._exit(EX_STOPPED if orders.failed else 0)


def _order() -> dict[str, Any]:
    line = sys.stdin.buffer.readline()
    if not line:
        sys.exit(EX_STOPPED)
    return msgspec.json.decode(line)  # type: ignore[no-any-return]


def work_off(uri: str) -> None:
    """Run a Celery worker in this thread until the job is merged or someone says stop."""
    job = read_job(uri)
    if job is None:
        raise JobError(f"{uri} holds no job that this process can see")
    app = make_app("memory://")
    app.conf.broker_transport_options = {"polling_interval": 0.02}
    app.set_current()
    feed = Feed(app, uri, job)
    signals.task_failure.connect(broken, weak=False)
    signals.task_postrun.connect(feed.task_ended, weak=False)
    for _ in range(AHEAD):
        feed.send_next()
    queues = [queue_of(job), DEFAULT_QUEUE]
    app.Worker(pool="solo", concurrency=1, queues=queues, quiet=True, loglevel="WARNING").start()


def broken(exception: BaseException | None = None, **_: Any) -> None:
    """A task ended in an error that nobody foresaw: stop, rather than merge without its shard."""
    station.failed(f"a shard could not be worked off: {exception!r}")


class Feed:
    """Sends the missing shards a few at a time, and the merge when the last of them has ended."""

    def __init__(self, app: Celery, uri: str, job: Job) -> None:
        self._app, self._uri, self._job = app, uri, job
        self._missing = iter(missing_shards(Folder(uri, job.run), job))
        self._under_way = 0
        self._merging = False

    def send_next(self) -> None:
        number = next(self._missing, None)
        if number is not None:
            send_shards(self._app, self._uri, self._job, [number])
            self._under_way += 1
        elif self._under_way == 0 and not self._merging:
            self._merging = True
            now = read_job(self._uri)
            if now is None or now.run != self._job.run:
                station.failed(f"another command started the job in {self._uri} anew")
            else:
                send_merge(self._app, self._uri)

    def task_ended(self, **_: Any) -> None:
        if self._merging:
            state.should_stop = 0
        elif not station.stopping():
            self._under_way -= 1
            self.send_next()


if __name__ == "__main__":
    main()
