"""`maskmill worker`: the process that watches the one that computes, and starts it again."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from types import FrameType
from typing import Any

from storage.errors import StorageError
from tasks.annotate import engines_here, need_worker_parts
from tasks.board import targets_of
from tasks.broker import BrokerDown, broker_url, make_app, send_shards
from tasks.cards import ModelError
from tasks.exits import ended
from tasks.folder import JobError, read_attempts, read_job
from tasks.local import IDLE_DEATHS, Child, Event, Stopped, bury, death
from tasks.state import State, fleet_state

LAST_WORDS_S = 15.0  # beyond the grace, for the process to say good-bye


def serve(models: Sequence[str], engine: str, labels: Sequence[str], grace_s: float) -> int:
    return ended(lambda: _serve(models, engine, labels, grace_s), as_json=False)


def _serve(models: Sequence[str], engine: str, labels: Sequence[str], grace_s: float) -> int:
    targets = targets_of(labels)
    state = fleet_state()
    app = make_app(broker_url())
    engines = [engine] if engine else engines_here()
    if not engines:
        raise ModelError("no engine is installed here: pip install 'maskmill[worker]'")
    need_worker_parts(engines[0])
    order = {"models": models, "engines": engines, "targets": targets, "grace_s": grace_s}
    idle_deaths = 0
    stopper = Stopper(grace_s)
    while True:
        child = Child("worker.serving", order)
        stopper.child = child.process
        in_hand, worked, code = _watch(child)
        child.close()
        if code >= 0:
            return code
        print(f"maskmill: the worker process {death(code)}", file=sys.stderr, flush=True)
        if stopper.asked:
            return 0
        idle_deaths = 0 if worked else idle_deaths + 1
        if idle_deaths == IDLE_DEATHS:
            raise Stopped(f"the worker process {death(code)} {IDLE_DEATHS} times with no shard")
        try:
            _take_leave(state, child.process.pid)
            if in_hand:
                _bury(in_hand)
                _send_again(app, in_hand)
        except (BrokerDown, JobError, StorageError) as exc:
            print(f"maskmill: {exc}; the reconciler will see to it", file=sys.stderr, flush=True)
            time.sleep(1.0)


class Stopper:
    """SIGTERM and Ctrl-C reach this process; the other one is told, and killed if it is deaf."""

    def __init__(self, grace_s: float) -> None:
        self.child: subprocess.Popen[bytes] | None = None
        self.asked = False
        self._deaf_s = grace_s + LAST_WORDS_S
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._ask)
        signal.signal(signal.SIGALRM, self._kill)

    def _ask(self, number: int, frame: FrameType | None) -> None:
        self.asked = True
        if self.child is not None and self.child.poll() is None:
            self.child.send_signal(signal.SIGTERM)
            signal.setitimer(signal.ITIMER_REAL, self._deaf_s)

    def _kill(self, number: int, frame: FrameType | None) -> None:
        if self.child is not None:
            self.child.kill()


def _watch(child: Child) -> tuple[Event, bool, int]:
    """Until it ends: the shard in hand then, empty if none; if it ever had one; its exit code."""
    in_hand: Event = {}
    worked = False
    while (event := child.events.get())["event"] != "exit":
        in_hand = event if event["event"] == "taken" else {}
        worked = True
    return in_hand, worked, event["code"]


def _take_leave(state: State, pid: int) -> None:
    """What it said last of itself would keep the reconciler from a shard that nobody has."""
    host = socket.gethostname().replace(":", "-")
    state.remove_worker(f"worker-{host}-{os.getpid()}-{pid}")


def _bury(in_hand: Event) -> None:
    """Say of the attempt what its process can no longer say: two of these bring careful mode."""
    bury(read_attempts(in_hand["attempts"]), in_hand["worker"].__eq__, "died")


def _send_again(app: Any, in_hand: Event) -> None:
    """The broker would wait for its timeout to give the dead process's message to another."""
    job = read_job(in_hand["job"])
    if job is not None:
        send_shards(app, in_hand["job"], job, [in_hand["shard"]])
