"""The process of a fleet worker that computes; `maskmill worker` watches it.

It is ordered what to serve, and tells which shard it has in hand: one that kills it is not
forgotten.
"""

import logging
import os
import platform
import socket
import threading
import time
from collections import deque
from contextlib import suppress
from pathlib import Path
from typing import Any

import msgspec
from msgspec.structs import replace

from storage import StorageError
from tasks.broker import queues_for
from tasks.shelf import find_model
from tasks.state import WorkerNow
from tasks.supervisor import LAST_WORDS_S
from worker import jobs, memory
from worker.app import app
from worker.child import begin, heed, refusing, tell, worker_of
from worker.model import instruction_set
from worker.station import FleetStation

SAY_S = 5.0
RATE_OVER_S = 60.0
STUCK_S = 900.0  # without a word of an image in hand: a driver hangs, and a watchdog may end us

log = logging.getLogger("maskmill.worker")


class Serving(msgspec.Struct, frozen=True):
    """What `maskmill worker` was asked for."""

    models: tuple[str, ...]
    engines: tuple[str, ...]
    targets: tuple[str, ...]
    grace_s: float


class Presence:
    """Says every few seconds that this worker is there, what it has in hand and how fast it is."""

    def __init__(self, station: FleetStation, serving: Serving) -> None:
        self._station = station
        self._times: deque[float] = deque()
        self._now = WorkerNow(
            id=station.worker.replace(":", "-"),
            at=time.time(),
            cores=os.cpu_count() or 1,
            processor=f"{platform.machine()} {instruction_set()}",
            engines=serving.engines,
            targets=serving.targets,
            models=serving.models,
        )
        self._moved = time.monotonic()
        threading.Thread(target=self._keep_beating, daemon=True).start()
        threading.Thread(target=self._keep_saying, daemon=True).start()

    def hear(self, event: dict[str, Any]) -> None:
        """The station's events: shards taken in hand and let go, images done."""
        self._moved = time.monotonic()
        if event["event"] == "image":
            self._times.append(self._moved)
        elif event["event"] in ("taken", "merging", "let-go"):
            job, shard = event.get("job", ""), event.get("shard")
            self._now = replace(self._now, job=job, shard=shard, since=time.time())
        if event["event"] in ("taken", "let-go"):
            tell(event)

    def _keep_beating(self) -> None:
        """For probes and watchdogs: this process is alive, even while a store does not answer."""
        beat = os.environ.get("MASKMILL_HEARTBEAT_FILE")
        while True:
            if self._now.shard is None or time.monotonic() - self._moved < STUCK_S:
                if beat:
                    with suppress(OSError):  # a probe notices that it cannot be touched
                        Path(beat).touch()
                _tell_systemd("READY=1\nWATCHDOG=1")
            time.sleep(SAY_S)

    def _keep_saying(self) -> None:
        while True:
            now = time.monotonic()
            while self._times and now - self._times[0] > RATE_OVER_S:
                self._times.popleft()
            span = max(now - self._times[0], SAY_S) if self._times else SAY_S
            rate = round(len(self._times) / span, 3)
            said = replace(self._now, at=time.time(), images_per_s=rate)
            try:
                self._station.state.say_worker(said)
                jobs.deliver(self._station)
            except (OSError, StorageError) as exc:  # OSError: of the disk that the spool is on
                log.warning("the store does not answer: %s", exc)
            time.sleep(SAY_S)


def _tell_systemd(what: str) -> None:
    """Where a unit of Type=notify started us; see sd_notify(3)."""
    address = os.environ.get("NOTIFY_SOCKET", "")
    if address:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as wire, suppress(OSError):
            wire.sendto(what.encode(), address.replace("@", "\0", 1))


def main() -> None:
    for name in ("celery", "kombu", "amqp"):
        logging.getLogger(name).setLevel(logging.WARNING)
    serving = begin(logging.INFO, Serving)
    station = jobs.station
    assert isinstance(station, FleetStation)
    heed(station, serving.grace_s, LAST_WORDS_S)
    station.engines = serving.engines
    with refusing():
        log.info("%s", station.settings)
        for name in serving.models:
            usual = find_model(name)
            served = usual.engine in serving.engines
            station.model(usual if served else find_model(name, serving.engines[0]))
            log.info("the model %s is loaded and warm", name)
    presence = Presence(station, serving)
    station.tell = presence.hear
    queues = queues_for(serving.engines, serving.targets)
    name = station.worker.replace(":", "-")
    worker = worker_of(
        app,
        queues,
        hostname=f"{name}@{platform.node()}",
        loglevel="INFO",  # Celery sets the root logger's
        without_gossip=True,
        without_mingle=True,
    )
    station.celery = worker
    log.info("serving %s", ", ".join(queues))
    worker.start()
    with suppress(StorageError):  # it is forgotten by its silence then
        station.state.remove_worker(name)
    log.info("the peak of memory was %d MiB", memory.peak() >> 20)
    os._exit(worker.exitcode or 0)  # threads that wait on a store must not hold the process


if __name__ == "__main__":
    main()
