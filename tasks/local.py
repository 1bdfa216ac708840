"""`maskmill annotate`: the parent that plans, watches the child that works, and starts it again."""

from __future__ import annotations

import os
import queue
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import msgspec

from tasks.cards import Model
from tasks.folder import Folder, every_attempt, write_attempt
from tasks.records import Attempt

Event = dict[str, Any]

# The child finds our packages by their place, never by the working directory, which may well have
# a folder called `worker` or `tasks` of its own.
_BOOT = "import sys; sys.path[0] = sys.argv.pop(); from {} import main; main()"
_ROOT = str(Path(__file__).resolve().parent.parent)
STOP_S = 60.0
IDLE_DEATHS = 3


class Refused(Exception):
    """The model cannot be used; nothing was run."""


class Stopped(Exception):
    """A cause that ends the run: what is written stays, and the same command goes on."""


class Interrupted(Exception):
    """A person asked for the run to end, and the child has handed back what it had."""


class Child:
    """One worker process: JSON lines in, JSON lines out, its standard error kept for the worst."""

    def __init__(self, model: Model) -> None:
        self._errors = tempfile.TemporaryFile(prefix="maskmill-worker-")  # noqa: SIM115 - closed by close()
        self._process = subprocess.Popen(
            child_command("worker.local"),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            env=child_environment(),
            start_new_session=True,  # Ctrl-C is for the parent, which asks the child to stop
        )
        self.events: queue.Queue[Event] = queue.Queue()
        self.name = f"local:{socket.gethostname()}:{os.getpid()}:{self._process.pid}"
        threading.Thread(target=self._read, daemon=True).start()
        self._send({"model": msgspec.to_builtins(model)})

    def begin(self, job: str, replace_edited: bool) -> None:
        self._send({"job": job, "worker": self.name, "replace_edited": replace_edited})

    def ask_to_stop(self) -> None:
        self._send({"stop": True})

    def close(self) -> None:
        if self._process.poll() is None:
            self._process.kill()
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                pipe.close()
        self._errors.close()

    def last_words(self) -> str:
        """The end of its standard error, for a death that nothing else explains."""
        self._errors.seek(0)
        lines = self._errors.read().decode("utf-8", "replace").strip().splitlines()
        return " | ".join(lines[-3:])

    def _send(self, order: Event) -> None:
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(msgspec.json.encode(order) + b"\n")
            self._process.stdin.flush()
        except (BrokenPipeError, ValueError):
            pass  # it has died, and its exit tells the rest

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            try:
                self.events.put(msgspec.json.decode(line))
            except msgspec.DecodeError:
                continue  # the end of a line that its writer did not live to finish
        self.events.put({"event": "exit", "code": self._process.wait()})


def child_command(module: str) -> list[str]:
    return [sys.executable, "-c", _BOOT.format(module), _ROOT]


def child_environment() -> dict[str, str]:
    """One BLAS thread beside the runtime's own, since post-processing runs while the network does;
    and few malloc arenas, since one a thread would keep what each once needed."""
    chosen = {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1", "MALLOC_ARENA_MAX": "2"}
    return chosen | os.environ


def await_ready(child: Child) -> None:
    """Wait until the model is loaded and warm; a model that does not fit is refused here."""
    while True:
        event = child.events.get()
        if event["event"] == "ready":
            return
        if event["event"] == "refused":
            raise Refused(event["message"])
        if event["event"] == "exit":
            how = death(event["code"])
            raise Refused(f"the worker process {how} while loading the model: {child.last_words()}")


def run(
    child: Child,
    model: Model,
    folder: Folder,
    hear: Callable[[Event], None],
    *,
    replace_edited: bool = False,
) -> None:
    """See a job through. A child that an image kills is started again; careful mode finds it."""
    bury(folder, lambda attempt: _gone(attempt.worker), "interrupted")
    idle_deaths = 0
    while True:
        child.begin(folder.uri, replace_edited)
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
        in_hand = bury(folder, partial(_is_by, child.name), "died")
        idle_deaths = 0 if in_hand else idle_deaths + 1
        if idle_deaths == IDLE_DEATHS:
            raise Stopped(f"the worker process {reason} {IDLE_DEATHS} times with no shard in hand")
        hear({"event": "restart", "reason": reason})
        child = Child(model)
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
        child.ask_to_stop()
        _drain(child)
        raise Interrupted from None


def _drain(child: Child) -> None:
    try:
        while child.events.get(timeout=STOP_S)["event"] != "exit":
            continue
    except queue.Empty:
        return


def death(code: int) -> str:
    return f"was killed by signal {-code}" if code < 0 else f"ended with exit code {code}"


def _gone(worker: str) -> bool:
    """A local worker of this machine whose process is no more: its run was cut off as a whole."""
    kind, _, rest = worker.partition(":")
    host, _, pids = rest.partition(":")
    if kind != "local" or host != socket.gethostname():
        return False
    return not all(alive(int(pid)) for pid in pids.split(":"))


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass  # somebody else's process is a process
    return True


def _is_by(worker: str, attempt: Attempt) -> bool:
    return attempt.worker == worker


def bury(folder: Folder, mine: Callable[[Attempt], bool], how: Any) -> int:
    """Say of attempts that can no longer say it themselves how they ended; how many these are."""
    open_ones = [
        (uri, attempt)
        for uri, attempt in every_attempt(folder)
        if attempt.ended == "" and mine(attempt)
    ]
    for uri, attempt in open_ones:
        write_attempt(uri, msgspec.structs.replace(attempt, ended=how))
    return len(open_ones)
