"""`maskmill worker`: the process that watches the one that computes, and starts it again."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from types import FrameType
from typing import Any

import msgspec

from storage.errors import StorageError
from tasks.annotate import ENGINE_PARTS, is_here, need_worker_parts
from tasks.broker import BrokerDown, broker_url, make_app, send_shards
from tasks.cards import ModelError
from tasks.exits import ended
from tasks.folder import JobError, attempt_uri, read_attempts, read_job, write_attempt
from tasks.local import Stopped, child_command, child_environment, death
from tasks.state import State, fleet_state

IDLE_DEATHS = 3  # in a row, with no shard ever in hand: what kills the process is not an input
LAST_WORDS_S = 15.0  # beyond the grace, for the process to say good-bye


def serve(models: Sequence[str], engine: str, target: str, grace_s: float) -> int:
    return ended(lambda: _serve(models, engine, target, grace_s), as_json=False)


def _serve(models: Sequence[str], engine: str, target: str, grace_s: float) -> int:
    state = fleet_state()
    app = make_app(broker_url())
    engines = [engine] if engine else [each for each in ENGINE_PARTS if is_here(each)]
    if not engines:
        raise ModelError("no engine is installed here: pip install 'maskmill[worker]'")
    need_worker_parts(engines[0])
    order = msgspec.json.encode(
        {"models": list(models), "engines": engines, "target": target, "grace_s": grace_s}
    )
    idle_deaths = 0
    stopper = Stopper(grace_s)
    while True:
        child = subprocess.Popen(
            child_command("worker.serving"),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=child_environment(),
            start_new_session=True,
        )
        stopper.child = child
        in_hand, worked = _watch(child, order)
        code = child.wait()
        if code >= 0:
            return code
        print(f"maskmill: the worker process {death(code)}", file=sys.stderr, flush=True)
        if stopper.asked:
            return 0
        _take_leave(state, child.pid)
        idle_deaths = 0 if worked else idle_deaths + 1
        if idle_deaths == IDLE_DEATHS:
            raise Stopped(f"the worker process {death(code)} {IDLE_DEATHS} times with no shard")
        if in_hand:
            _bury(in_hand)
            _send_again(app, in_hand)


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


def _watch(child: subprocess.Popen[bytes], order: bytes) -> tuple[dict[str, Any], bool]:
    """Until it ends: the shard in hand then, empty if none, and whether it ever had one."""
    assert child.stdin is not None
    assert child.stdout is not None
    with suppress(BrokenPipeError):
        child.stdin.write(order + b"\n")
        child.stdin.flush()
    in_hand: dict[str, Any] = {}
    worked = False
    for line in child.stdout:
        try:
            event = msgspec.json.decode(line)
        except msgspec.DecodeError:
            continue  # the end of a line that its writer did not live to finish
        in_hand = event if event["event"] == "taken" else {}
        worked = True
    child.stdin.close()
    child.stdout.close()
    return in_hand, worked


def _take_leave(state: State, pid: int) -> None:
    """What it said last of itself would keep the reconciler from a shard that nobody has."""
    try:
        host = socket.gethostname().replace(":", "-")
        state.remove_worker(f"worker-{host}-{os.getpid()}-{pid}")
    except StorageError as exc:
        print(f"maskmill: {exc}", file=sys.stderr, flush=True)


def _bury(in_hand: dict[str, Any]) -> None:
    """Say of the attempt what its process can no longer say: two of these bring careful mode."""
    try:
        for number, attempt in read_attempts(in_hand["attempts"]).items():
            if attempt.worker == in_hand["worker"] and not attempt.ended:
                dead = msgspec.structs.replace(attempt, ended="died")
                write_attempt(attempt_uri(in_hand["attempts"], number), dead)
    except (StorageError, JobError) as exc:
        print(f"maskmill: {exc}", file=sys.stderr, flush=True)


def _send_again(app: Any, in_hand: dict[str, Any]) -> None:
    """The broker would wait for its timeout to give the dead process's message to another."""
    try:
        job = read_job(in_hand["job"])
        if job is not None:
            send_shards(app, in_hand["job"], job, [in_hand["shard"]])
    except (BrokerDown, JobError, StorageError) as exc:
        print(f"maskmill: {exc}; the reconciler will send it", file=sys.stderr, flush=True)
        time.sleep(1.0)
