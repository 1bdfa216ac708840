"""What the processes that compute have in common, under `maskmill annotate` and in a fleet.

Orders come as JSON lines on standard input, events go as JSON lines to standard output. The end of
the input says stop: the process that watches this one closes it, or is gone.
"""

import logging
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any, TypeVar

import msgspec
from celery import Celery, signals

from tasks.exits import STOPPED, WRONG
from worker.station import FORESEEN, Event, Station

T = TypeVar("T")

# Events have standard output for themselves: what else is printed goes to standard error.
_events = os.fdopen(os.dup(1), "wb", buffering=0)
_lock = threading.Lock()


def begin(level: int, order: type[T]) -> T:
    """Set up what is logged; the first order."""
    os.dup2(2, 1)
    logging.basicConfig(level=level, format="%(asctime)s %(message)s", stream=sys.stderr)
    return take_order(order)


def take_order(kind: type[T]) -> T:
    line = sys.stdin.buffer.readline()
    if not line:
        sys.exit(STOPPED)
    return msgspec.json.decode(line, type=kind)


def tell(event: Event) -> None:
    with _lock, suppress(BrokenPipeError):  # nobody watches any more: see `heed`
        _events.write(msgspec.json.encode(event) + b"\n")


@contextmanager
def refusing() -> Iterator[None]:
    """What this process cannot do, though it was ordered to."""
    try:
        yield
    except FORESEEN as exc:
        tell({"event": "refused", "message": str(exc)})
        print(f"maskmill: {exc}", file=sys.stderr, flush=True)
        sys.exit(WRONG)


def worker_of(app: Celery, queues: Sequence[str], **options: Any) -> Any:
    """Celery's worker, which runs the tasks in this process and thread."""
    return app.Worker(pool="solo", concurrency=1, queues=queues, quiet=True, **options)


def heed(station: Station, grace_s: float, patience_s: float) -> None:
    """End when told to, also by SIGTERM.

    After the grace the shard in hand is handed back instead of finished. What does not within
    `patience_s` is cut off.
    """

    def soon(**_: Any) -> None:
        end = time.monotonic() + grace_s
        station.stopping = lambda: time.monotonic() >= end

    def listen() -> None:
        while os.read(0, 4096):
            pass
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(grace_s + patience_s)
        os._exit(STOPPED)

    signals.worker_shutting_down.connect(soon, weak=False)
    threading.Thread(target=listen, daemon=True).start()
