"""A fleet of real processes on this machine: a broker, a state folder, and workers to kill."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from storage.uris import parent
from tasks import state as states
from tasks.broker import make_app
from tasks.state import State
from tests.running import MASKMILL, Ran, environment, maskmill
from tests.services import redis_server


def until(
    done: Callable[[], Any],
    seconds: float = 60.0,
    what: str = "",
    logs: Callable[[], str] = lambda: "",
) -> Any:
    """Poll; what is not so after a while fails the test, with what `logs` says then."""
    end = time.monotonic() + seconds
    while not (found := done()):
        assert time.monotonic() < end, f"not so after {seconds:g} s: {what or done}\n{logs()}"
        time.sleep(0.05)
    return found


class Worker:
    """One `maskmill worker`; its log is a file, read when something went wrong."""

    def __init__(self, command: list[str], log: Path, variables: dict[str, str]) -> None:
        self.log = log
        with log.open("ab") as file:
            self.process = subprocess.Popen(command, env=variables, stdout=file, stderr=file)

    def child(self) -> int:
        """The process that computes."""
        path = f"/proc/{self.process.pid}/task/{self.process.pid}/children"
        return int(until(lambda: Path(path).read_text().split(), 60, "a child", self.said)[0])

    def said(self) -> str:
        return self.log.read_text(errors="replace")

    def signal_child(self, number: int) -> None:
        os.kill(self.child(), number)

    def kill_child(self) -> None:
        self.signal_child(signal.SIGKILL)

    def kill(self) -> None:
        """Both processes at once, as when a machine goes down."""
        children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text()
        self.process.kill()
        for child in children.split():
            os.kill(int(child), signal.SIGKILL)
        self.process.wait()

    def stop(self) -> int:
        self.process.terminate()
        return self.process.wait(60)


class Fleet:
    def __init__(self, folder: Path, broker: str, **variables: str) -> None:
        self.folder, self.broker = folder, broker
        self.state = State(variables.pop("MASKMILL_STATE", str(folder / "state")))
        roots = f"/,{parent(self.state.uri)}" if "://" in self.state.uri else "/"
        self.variables: dict[str, str] = {
            "MASKMILL_BROKER_URL": broker,
            "MASKMILL_STATE": self.state.uri,
            "MASKMILL_INPUT_ROOTS": roots,
            "MASKMILL_OUTPUT_ROOTS": roots,
            "MASKMILL_THREADS": "1",
            **variables,
        }
        self.worker_variables: dict[str, str] = {}  # that commands do not get
        self.app = make_app(broker)
        self.sending = states.Fleet(self.app, self.state)
        self.workers: list[Worker] = []

    def run(self, *arguments: object, **options: Any) -> Ran:
        """A command of maskmill, as a person types it."""
        return maskmill(*arguments, **{**self.variables, **options})

    def worker(self, *arguments: str, fault: Any = None) -> Worker:
        log = self.folder / f"worker-{len(self.workers)}.log"
        command = [MASKMILL, "worker", "--grace", "1", *arguments]
        variables = environment(fault, **{**self.variables, **self.worker_variables})
        self.workers.append(Worker(command, log, variables))
        return self.workers[-1]

    def plain_celery(self, *arguments: str, part: str = "worker") -> Worker:
        """A worker as Celery's own command starts it."""
        command = [sys.executable, "-m", "celery", "-A", "worker.app", part, *arguments]
        log = self.folder / f"worker-{len(self.workers)}.log"
        self.workers.append(Worker(command, log, environment(None, **self.variables)))
        return self.workers[-1]

    def beat(self) -> Worker:
        """Celery's beat, which has the reconciler look every half minute."""
        made = self.folder / f"beat-{len(self.workers)}"
        return self.plain_celery(*("-l", "WARNING", "--pidfile", f"{made}.pid"), part="beat")

    def serve(self, schedules: Path) -> Worker:
        """`maskmill schedule serve`: beat, which has what is in the file run."""
        log = self.folder / f"worker-{len(self.workers)}.log"
        command = [MASKMILL, "schedule", "serve", str(schedules)]
        self.workers.append(Worker(command, log, environment(None, **self.variables)))
        return self.workers[-1]

    def logs(self) -> str:
        return "\n".join(f"--- {each.log.name}\n{each.said()[-2500:]}" for each in self.workers)

    def await_merged(self, output: Path, seconds: float = 60.0) -> bytes:
        """The dataset of a job, once it is sealed."""
        until((output / "run.json").exists, seconds, f"{output} is not merged", self.logs)
        return (output / "instances.json").read_bytes()

    def processes(self) -> list[int]:
        """All that works for this fleet, be its supervisor alive or not."""
        mark = f"MASKMILL_STATE={self.state.uri}".encode()
        found = []
        for path in Path("/proc").glob("[0-9]*/environ"):
            with suppress(OSError):  # gone, or not ours
                if mark in path.read_bytes().split(b"\0"):
                    found.append(int(path.parent.name))
        return found

    def close(self) -> None:
        for pid in self.processes():
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        for each in self.workers:
            each.process.wait()
        self.app.close()


@contextmanager
def fleet(folder: Path, broker: str = "", **variables: str) -> Iterator[Fleet]:
    """A fleet without workers yet; with a Redis of its own unless a broker is given."""
    folder.mkdir(parents=True, exist_ok=True)
    with redis_server() if not broker else _as_it_is(broker) as url:
        made = Fleet(folder, url, **variables)
        try:
            yield made
        finally:
            made.close()


@contextmanager
def _as_it_is(broker: str) -> Iterator[str]:
    yield broker
