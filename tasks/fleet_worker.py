"""`maskmill worker`: the process that watches the one that computes, and starts it again."""

import os
import signal
import socket
import sys
import time
from collections.abc import Sequence

from celery import Celery

from storage.errors import StorageError
from tasks.annotate import engines_here, need_worker_parts
from tasks.board import targets_of
from tasks.broker import BrokerDown, broker_url, make_app, send_shards
from tasks.folder import JobError, read_job
from tasks.local import Child, Event, Interrupted, bury, supervise
from tasks.state import State, fleet_state

LAST_WORDS_S = 15.0  # beyond the grace, for the process to say good-bye


def serve(model: Sequence[str], runtime: str | None, target: Sequence[str], grace: float) -> int:
    targets = targets_of(target)
    state = fleet_state()
    app = make_app(broker_url())
    engines = [runtime] if runtime else engines_here() or ["onnx"]
    need_worker_parts(engines[0])
    order = {"models": model, "engines": engines, "targets": targets, "grace_s": grace}

    def again(dead: Child, in_hand: Event) -> Child:
        print(f"maskmill: the worker process {dead.death()}", file=sys.stderr, flush=True)
        try:
            _follow_up(app, state, dead, in_hand)
        except (BrokerDown, JobError, StorageError) as exc:
            print(f"maskmill: {exc}; the reconciler will see to it", file=sys.stderr, flush=True)
            time.sleep(1.0)
        return Child("worker.serving", order)

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.default_int_handler)  # which raises KeyboardInterrupt
    try:
        child = Child("worker.serving", order)
        code, _ = supervise(child, again, lambda event: None, grace + LAST_WORDS_S)
        return code
    except (Interrupted, KeyboardInterrupt):
        return 0


def _follow_up(app: Celery, state: State, dead: Child, in_hand: Event) -> None:
    # What it said last of itself would keep the reconciler from a shard that nobody has.
    host = socket.gethostname().replace(":", "-")
    state.remove_worker(f"worker-{host}-{os.getpid()}-{dead.process.pid}")
    bury(in_hand)  # two of these bring careful mode
    job = read_job(in_hand["job"]) if in_hand else None
    if job is not None:  # the broker would wait for its timeout to give the message to another
        send_shards(app, in_hand["job"], job, [in_hand["shard"]])
