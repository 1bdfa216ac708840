"""`maskmill annotate`: the parent that plans, watches the child that works, and starts it again."""

import os
import queue
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any, BinaryIO

import msgspec

from storage import put
from tasks.cards import Model, ModelError
from tasks.folder import Folder, every_attempt
from tasks.records import Attempt, encode

Event = dict[str, Any]

# The child finds our packages by their place, never by the working directory, which may well have
# a folder called `worker` or `tasks` of its own.
_BOOT = "import sys; sys.path[0] = sys.argv.pop(); from {} import main; main()"
_ROOT = str(Path(__file__).resolve().parent.parent)
# One BLAS thread beside the runtime's own, since post-processing runs while the network does; and
# few malloc arenas, since one a thread would keep what each once needed.
_BESIDE = {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1", "MALLOC_ARENA_MAX": "2"}
STOP_S = 60.0
IDLE_DEATHS = 3  # in a row, with no shard in hand: what kills the process is not an input


class Stopped(Exception):
    """A cause that ends the run: what is written stays, and the same command goes on."""


class Interrupted(Exception):
    """A person asked for the run to end, and the child has handed back what it had."""


class Child:
    """One worker process: JSON lines in, JSON lines out."""

    def __init__(self, module: str, order: Event, errors: BinaryIO | None = None) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", _BOOT.format(module), _ROOT],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
            env=_BESIDE | os.environ,
            start_new_session=True,  # Ctrl-C is for the parent, which asks the child to stop
        )
        self.events: queue.Queue[Event] = queue.Queue()
        self._errors = errors
        threading.Thread(target=self._read, daemon=True).start()
        self.send(order)

    def close(self) -> None:
        with self.process as process:
            process.kill()
        if self._errors is not None:
            self._errors.close()

    def last_words(self) -> str:
        """The end of its standard error, for a death that nothing else explains."""
        assert self._errors is not None
        self._errors.seek(0)
        lines = self._errors.read().decode("utf-8", "replace").strip().splitlines()
        return " | ".join(lines[-3:])

    def send(self, order: Event) -> None:
        assert self.process.stdin is not None
        with suppress(BrokenPipeError, ValueError):  # it has died, and its exit tells the rest
            self.process.stdin.write(msgspec.json.encode(order) + b"\n")
            self.process.stdin.flush()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            with suppress(msgspec.DecodeError):  # of a line that its writer did not live to finish
                self.events.put(msgspec.json.decode(line))
        self.events.put({"event": "exit", "code": self.process.wait()})


def start(model: Model) -> Child:
    """A process that loads this model. What it says of itself is kept for the worst."""
    errors = tempfile.TemporaryFile(prefix="maskmill-worker-")  # noqa: SIM115 - goes with the child
    return Child("worker.local", {"model": msgspec.to_builtins(model)}, errors)


def await_ready(child: Child) -> None:
    """Wait until the model is loaded and warm; a model that does not fit is refused here."""
    while True:
        event = child.events.get()
        if event["event"] == "ready":
            return
        if event["event"] == "warning":
            print(f"maskmill: {event['message']}", file=sys.stderr)
        if event["event"] == "refused":
            raise ModelError(event["message"])
        if event["event"] == "exit":
            how = death(event["code"])
            raise ModelError(
                f"the worker process {how} while loading the model: {child.last_words()}"
            )


def run(
    child: Child,
    model: Model,
    folder: Folder,
    hear: Callable[[Event], None],
    *,
    replace_edited: bool = False,
) -> None:
    """See a job through. A child that an image kills is started again; careful mode finds it."""
    bury(every_attempt(folder), _gone, "interrupted")
    idle_deaths = 0
    while True:
        name = f"local:{socket.gethostname()}:{os.getpid()}:{child.process.pid}"
        child.send({"job": folder.uri, "worker": name, "replace_edited": replace_edited})
        try:
            merged, code = _watch(child, hear)
            words = child.last_words()
        finally:
            child.close()
        if merged:
            return
        reason = death(code)
        if code >= 0:
            raise Stopped(f"the worker process {reason}: {words}")
        in_hand = bury(every_attempt(folder), name.__eq__, "died")
        idle_deaths = 0 if in_hand else idle_deaths + 1
        if idle_deaths == IDLE_DEATHS:
            raise Stopped(f"the worker process {reason} {IDLE_DEATHS} times with no shard in hand")
        hear({"event": "restart", "reason": reason})
        child = start(model)
        await_ready(child)


def _watch(child: Child, hear: Callable[[Event], None]) -> tuple[bool, int]:
    """One child's life, from its orders to its exit code; and whether it merged the job."""
    merged = False
    try:
        while True:
            event = child.events.get()
            if event["event"] == "stopped":
                raise Stopped(event["message"])
            if event["event"] == "exit":
                return merged, int(event["code"])
            merged = merged or event["event"] == "merged"
            hear(event)
    except KeyboardInterrupt:
        hear({"event": "stopping"})
        child.send({"stop": True})
        with suppress(queue.Empty):
            while child.events.get(timeout=STOP_S)["event"] != "exit":
                continue
        raise Interrupted from None


def death(code: int) -> str:
    return f"was killed by signal {-code}" if code < 0 else f"ended with exit code {code}"


def _gone(worker: str) -> bool:
    """A local worker of this machine whose process is no more: its run was cut off as a whole."""
    return worker.startswith("local:") and not all(map(alive, processes_here(worker)))


def processes_here(worker: str) -> list[int]:
    """The supervisor's process and the one that computes, of a worker's name; of this machine's."""
    host, *processes = worker.partition(":")[2].split(":")
    return [int(each) for each in processes] if host == socket.gethostname() else []


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass  # somebody else's process is a process
    return True


def bury(attempts: Iterable[tuple[str, Attempt]], mine: Callable[[str], bool], how: Any) -> int:
    """Say of attempts that can no longer say it themselves how they ended; how many these are."""
    open_ones = [(uri, each) for uri, each in attempts if not each.ended and mine(each.worker)]
    for uri, attempt in open_ones:
        put(uri, encode(msgspec.structs.replace(attempt, ended=how)))
    return len(open_ones)
