"""Who tried a shard and how it ended: how an input that kills its process is found."""

import os
import socket
import threading
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress

import msgspec

from storage import Exists, StorageError, put
from tasks.folder import attempt_uri, read_attempts
from tasks.markers import Halted
from tasks.records import Attempt, encode
from worker import memory
from worker.shard import Stopwatch

BEAT_S = 5.0
SILENCE_S = 60.0  # without a beat and without an end, an attempt is a death
DEATHS = 2  # of a shard before careful mode; of one image in careful mode before it is given up


class Released(Exception):
    """The shard in hand is handed back: the worker was asked to stop."""


class Overtaken(Exception):
    """Another worker was faster with the shard in hand."""


NO_FAULT = (Halted, Overtaken, Released, StorageError)  # of the inputs


def worker_name(kind: str) -> str:
    """Who tries: kind, host, and the processes of the supervisor and of the one that computes."""
    return f"{kind}:{socket.gethostname()}:{os.getppid()}:{os.getpid()}"


class History:
    """What the earlier attempts at a shard say of it."""

    def __init__(self, attempts: Sequence[Attempt], now: float) -> None:
        dead = [each for each in attempts if _is_dead(each, now)]
        self.next_number = len(attempts)
        self.careful = len(dead) >= DEATHS
        killers = Counter(each.item for each in dead if each.careful and each.item is not None)
        self.given_up = frozenset(item for item, times in killers.items() if times >= DEATHS)


def _is_dead(attempt: Attempt, now: float) -> bool:
    """On one machine the parent says so itself; where it is gone too, all was cut off."""
    if attempt.ended or attempt.worker.startswith("local:"):
        return attempt.ended == "died"
    return now - attempt.beat > SILENCE_S


def read_history(attempts: str) -> History:
    return History([each for _, each in read_attempts(attempts)], time.time())


class Trying:
    """The record of one attempt, written before the first image is opened and kept beating."""

    def __init__(self, attempts: str, worker: str, history: History) -> None:
        now = time.time()
        self.history, self.watch = history, Stopwatch()
        self._attempts = attempts
        self._attempt = Attempt(worker=worker, started=now, beat=now, careful=history.careful)
        self._number = history.next_number
        self._lock = threading.Lock()
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._keep_beating, daemon=True)

    def __enter__(self) -> "Trying":
        while True:
            try:
                uri = attempt_uri(self._attempts, self._number)
                put(uri, encode(self._attempt), create_only=True)
                break
            except Exists:
                self._number += 1
        self._thread.start()
        return self

    def __exit__(self, kind: object, exc: BaseException | None, trace: object) -> None:
        """Out of memory and the like are deaths: careful mode finds an input that does it."""
        self._over.set()
        self._thread.join()
        ended = "died" if exc else "committed"
        if isinstance(exc, NO_FAULT):
            ended = "released"
        rounded = {stage: round(value, 3) for stage, value in self.watch.seconds.items()}
        self._write(ended=ended, seconds=rounded, peak=memory.peak())

    def in_hand(self, item: int) -> None:
        """Say, before it is opened, which image may be about to kill this process."""
        self._write(item=item)

    def _write(self, **changes: object) -> None:
        with self._lock:
            self._attempt = msgspec.structs.replace(self._attempt, beat=time.time(), **changes)
            put(attempt_uri(self._attempts, self._number), encode(self._attempt))

    def _keep_beating(self) -> None:
        while not self._over.wait(BEAT_S):
            with suppress(StorageError):  # it may come back before this is taken for a death
                self._write()
