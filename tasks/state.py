"""The state folder that a fleet shares.

jobs/<id>.json: a job's URI and run, from before its job.json is there until it is merged or halted
models/<sha256>/: a model file that only its submitter had
dead/<time>-<id>.json: a message that could not be read, with the reason
workers/<id>.json: a worker's hardware, speed and shard in hand, every few seconds
"""

import hashlib
import json
import os
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from secrets import token_hex
from typing import Any, NamedTuple, TypeVar

import msgspec
from celery import Celery

from storage import delete, exists, get, join, list_entries, put, storable
from storage.errors import NotFound, without_queries
from tasks.broker import Asking, broker_url, make_app
from tasks.cards import Model
from tasks.environment import SettingError
from tasks.frames import may_read
from tasks.records import encode
from tasks.shelf import copy_build

AWAY_S = 30.0  # without a word, a worker is taken to be gone
GONE_S = 3600.0


T = TypeVar("T")


class KnownJob(msgspec.Struct, frozen=True):
    """A job that the reconciler looks after. `sent` is when its messages were last sent."""

    uri: str
    run: str
    sent: float


class WorkerNow(msgspec.Struct, frozen=True, kw_only=True):
    """What a worker says of itself. With a job but no shard in hand it merges."""

    id: str
    at: float
    cores: int
    processor: str
    engines: tuple[str, ...]
    targets: tuple[str, ...] = ()
    models: tuple[str, ...] = ()
    job: str = ""
    shard: int | str | None = None
    since: float = 0.0  # it has what it has in hand
    images_per_s: float = 0.0  # of late


class State:
    def __init__(self, uri: str) -> None:
        self.uri = storable(uri)

    def register(self, job: KnownJob) -> None:
        put(self._job(job.uri, job.run), encode(job))

    def forget(self, job: KnownJob) -> None:
        delete(self._job(job.uri, job.run))

    def jobs(self) -> Iterator[KnownJob]:
        return self._all("jobs", KnownJob)

    def known(self, uri: str, run: str) -> KnownJob | None:
        with suppress(NotFound, msgspec.DecodeError):
            return msgspec.json.decode(get(self._job(uri, run)), type=KnownJob)
        return None

    def keep_model(self, model: Model) -> Model:
        """The model with its build where every worker can read it, by its hash."""
        there = join(self.uri, f"models/{model.sha256}/{os.path.basename(model.path)}")
        if not exists(there):
            with ExitStack() as written:  # the main file is there last, so that it means all
                copy_build(model.path, there, written)
        return msgspec.structs.replace(model, path=there)

    def bury_message(self, reason: str, letter: dict[str, Any]) -> None:
        """Keep a message that nobody can read."""
        uri = join(self.uri, f"dead/{time.time():.3f}-{token_hex(8)}.json")
        text = json.dumps({"reason": reason, "at": time.time(), **letter}, ensure_ascii=False)
        # JSON can escape what no UTF-8 can hold.
        put(uri, without_queries(text).encode(errors="backslashreplace"))

    def say_worker(self, worker: WorkerNow) -> None:
        put(join(self.uri, f"workers/{worker.id}.json"), encode(worker))

    def remove_worker(self, worker: str) -> None:
        delete(join(self.uri, f"workers/{worker}.json"))

    def present(self) -> list[WorkerNow]:
        """The workers that are there. What is left of those that are long gone is cleared away."""
        present = []
        for each in self._all("workers", WorkerNow):
            silent_s = abs(time.time() - each.at)  # of a clock ahead of ours too
            if silent_s < AWAY_S:
                present.append(each)
            elif silent_s > GONE_S:
                self.remove_worker(each.id)
        return present

    def _job(self, uri: str, run: str) -> str:
        digest = hashlib.sha256(f"{uri} {run}".encode()).hexdigest()[:24]
        return join(self.uri, f"jobs/{digest}.json")

    def _all(self, part: str, kind: type[T]) -> Iterator[T]:
        """What lies in a part of the folder; what cannot be read is somebody else's."""
        for entry in list_entries(join(self.uri, f"{part}/")):
            with suppress(NotFound, msgspec.DecodeError):  # gone, or damaged
                yield msgspec.json.decode(get(entry.uri), type=kind)


def fleet_state() -> State:
    uri = os.environ.get("MASKMILL_STATE", "")
    if not uri:
        raise SettingError(
            "MASKMILL_STATE is not set; it names the folder that a fleet shares,"
            " for example s3://bucket/maskmill-state"
        )
    return State(uri)


class Fleet(NamedTuple):
    """What jobs are sent with; and of whoever sends them, what it may do."""

    app: Celery
    state: State
    allow: Callable[[Asking], None] = lambda message: None  # raises where it may not
    refused: Callable[[str], str] = may_read  # why it may not look at a video, empty if it may


def fleet_here() -> Fleet:
    return Fleet(make_app(broker_url()), fleet_state())
