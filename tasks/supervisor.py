"""The parents of processes that compute, under `maskmill annotate` and in a fleet: each watches its
child, and starts it again when it was killed.
"""

import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, BinaryIO

import msgspec

from storage import StorageError, put
from tasks.broker import BrokerDown, send_shards
from tasks.cards import Model, ModelError, engines_here, need_worker_parts
from tasks.environment import targets_of
from tasks.folder import JobError, read_attempts, read_job
from tasks.records import encode
from tasks.state import Fleet, fleet_here

Event = dict[str, Any]
Hear = Callable[[Event], None]

# The child finds our packages by their place, never by the working directory, which may well have
# a folder called `worker` or `tasks` of its own.
_BOOT = "import sys; sys.path[0] = sys.argv.pop(); from {} import main; main()"
_ROOT = str(Path(__file__).resolve().parent.parent)
# One BLAS thread beside the runtime's own, since post-processing runs while the network does; and
# few malloc arenas, since one a thread would keep what each once needed.
_BESIDE = {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1", "MALLOC_ARENA_MAX": "2"}
STOP_S = 60.0
LAST_WORDS_S = 15.0  # of a fleet's, beyond its grace, to say good-bye
IDLE_DEATHS = 3  # in a row, with no shard in hand: what kills the process is not an input


class Stopped(Exception):
    """A cause that ends the run: what is written stays, and the same command goes on."""


class Interrupted(Exception):
    """A person asked for the run to end, and the child has handed back what it had."""


class Child:
    """One worker process: JSON lines in, JSON lines out. The end of what comes in is its end."""

    def __init__(self, module: str, order: Event, errors: BinaryIO | None = None) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", _BOOT.format(module), _ROOT],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
            env=_BESIDE | os.environ,
            start_new_session=True,  # Ctrl-C is for the parent, which asks the child to stop
        )
        self._errors = errors
        self.send(order)

    def close(self) -> None:
        with self.process as process:
            process.kill()
        if self._errors is not None:
            self._errors.close()

    def stop(self, patience_s: float) -> None:
        """Have it hand back what it has, whatever it still says."""
        with suppress(subprocess.TimeoutExpired):
            self.process.communicate(timeout=patience_s)

    def death(self) -> str:
        code = self.process.wait()
        return f"was killed by signal {-code}" if code < 0 else f"ended with exit code {code}"

    def last_words(self) -> str:
        """The end of its standard error, where that is kept: for what nothing else explains."""
        if self._errors is None:
            return ""
        self._errors.seek(0)
        lines = self._errors.read().decode("utf-8", "replace").strip().splitlines()
        return " | ".join(lines[-3:])

    def send(self, order: Event) -> None:
        assert self.process.stdin is not None
        with suppress(BrokenPipeError, ValueError):  # it has died, and its exit tells the rest
            self.process.stdin.write(msgspec.json.encode(order) + b"\n")
            self.process.stdin.flush()

    def events(self) -> Iterator[Event]:
        """What it says, to its end."""
        assert self.process.stdout is not None
        for line in self.process.stdout:
            with suppress(msgspec.DecodeError):  # of a line that its writer did not live to finish
                yield msgspec.json.decode(line)


def start(model: Model) -> Child:
    """A process that loads this model. What it says of itself is kept for the worst."""
    errors = tempfile.TemporaryFile(prefix="maskmill-worker-")  # noqa: SIM115 - goes with the child
    return Child("worker.local", msgspec.to_builtins(model), errors)


def await_ready(child: Child) -> None:
    """Wait until the model is loaded and warm; a model that does not fit is refused here."""
    for event in child.events():
        if event["event"] == "ready":
            return
        if event["event"] == "warning":
            print(f"maskmill: {event['message']}", file=sys.stderr)
        if event["event"] == "refused":
            raise ModelError(event["message"])
    how = f"{child.death()} while loading the model: {child.last_words()}"
    raise ModelError(f"the worker process {how}")


def run(child: Child, model: Model, order: Event, hear: Hear) -> None:
    """See a job through. A child that an image kills is started again; careful mode finds it."""

    def heard(event: Event) -> None:
        if event["event"] == "stopped":
            raise Stopped(event["message"])
        hear(event)

    def again(dead: Child, in_hand: Event) -> Child:
        bury(in_hand)
        hear({"event": "restart", "reason": dead.death()})
        started = start(model)
        await_ready(started)
        started.send(order)
        return started

    child.send(order)
    code, words = supervise(child, again, heard, STOP_S)
    if code:
        raise Stopped(f"the worker process ended with exit code {code}: {words}")


def supervise(
    child: Child, again: Callable[[Child, Event], Child], hear: Hear, patience_s: float
) -> tuple[int, str]:
    """The exit code and last words of a process that ends by itself, after others were killed.

    again: what follows on one that was killed, with what it had in hand.
    patience_s: how long one that is to stop, for a person asks for it, may take.
    """
    idle_deaths = 0
    while True:
        try:
            in_hand, worked = _watch(child, hear, patience_s)
            code, words = child.process.wait(), child.last_words()
        finally:
            child.close()
        if code >= 0:
            return code, words
        idle_deaths = 0 if worked else idle_deaths + 1
        if idle_deaths == IDLE_DEATHS:
            times = f"{IDLE_DEATHS} times with no shard in hand"
            raise Stopped(f"the worker process {child.death()} {times}")
        child = again(child, in_hand)


def _watch(child: Child, hear: Hear, patience_s: float) -> tuple[Event, bool]:
    """Until it ends: the shard in hand then, empty if none, and if it ever had one."""
    in_hand: Event = {}
    worked = False
    try:
        for event in child.events():
            if event["event"] in ("taken", "let-go"):
                in_hand = event if event["event"] == "taken" else {}
                worked |= event["event"] == "taken"  # let go is any task
            else:
                hear(event)
        return in_hand, worked
    except KeyboardInterrupt:
        hear({"event": "stopping"})
        child.stop(patience_s)
        raise Interrupted from None


def bury(taken: Event) -> None:
    """Say of the attempt at the shard in hand, if any was, that its process died in it."""
    for uri, attempt in read_attempts(taken["attempts"]) if taken else ():
        if not attempt.ended and attempt.worker == taken["worker"]:
            put(uri, encode(msgspec.structs.replace(attempt, ended="died")))


def serve(model: Sequence[str], runtime: str | None, target: Sequence[str], grace: float) -> int:
    """`maskmill worker`: a child that serves a fleet, until one of the two is told to stop."""
    targets = targets_of(target)
    fleet = fleet_here()
    engines = [runtime] if runtime else engines_here() or ["onnx"]
    need_worker_parts(engines[0])
    order = {"models": model, "engines": engines, "targets": targets, "grace_s": grace}

    def again(dead: Child, in_hand: Event) -> Child:
        print(f"maskmill: the worker process {dead.death()}", file=sys.stderr, flush=True)
        try:
            _follow_up(fleet, dead, in_hand)
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


def _follow_up(fleet: Fleet, dead: Child, in_hand: Event) -> None:
    # What it said last of itself would keep the reconciler from a shard that nobody has.
    host = socket.gethostname().replace(":", "-")
    fleet.state.remove_worker(f"worker-{host}-{os.getpid()}-{dead.process.pid}")
    bury(in_hand)  # two of these bring careful mode
    job = read_job(in_hand["job"]) if in_hand else None
    if job is not None:  # the broker would wait for its timeout to give the message to another
        send_shards(fleet.app, in_hand["job"], job, [in_hand["shard"]])
