"""Where the parts of a job lie in its folder, and what they say about how far it is."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, TypeVar

import msgspec

from storage import Entry, delete, get, head, list_entries, put
from storage.errors import NotFound
from storage.uris import join, shown
from tasks.ordered import ordered_map
from tasks.records import SCHEMA, Attempt, Item, Job, Shard, encode

SHEET = "contact-sheet.jpg"
READERS = 8
T = TypeVar("T")


class JobError(Exception):
    """A job that cannot go on as asked, in one sentence."""


class JobDiffers(JobError):
    """The output holds a job that was asked for in other words."""


@dataclass(frozen=True)
class Folder:
    """A job folder and the run in it that job.json names."""

    uri: str
    run: str

    def plan(self, shard: int) -> str:
        return join(self.uri, f"plan/{self.run}/{shard:05d}.jsonl")

    def shard(self, shard: int) -> str:
        return join(self.uri, f"shards/{self.run}/{shard:05d}.json")

    def attempts(self, shard: int) -> str:
        return join(self.uri, f"attempts/{self.run}/{shard:05d}")

    def attempt(self, shard: int, number: int) -> str:
        return join(self.attempts(shard), f"{number:03d}.json")

    def file(self, name: str) -> str:
        return join(self.uri, name)


def read_job(uri: str) -> Job | None:
    """The job in this folder, or None where nothing has been planned."""
    try:
        data = get(join(uri, "job.json"))
    except NotFound:
        return None
    job = _decoded(data, Job, join(uri, "job.json"))
    if job.schema != SCHEMA:
        raise JobError(f"{join(uri, 'job.json')} has schema {job.schema}; this program reads 1")
    return job


def read_plan(folder: Folder, shard: int) -> tuple[Item, ...]:
    uri = folder.plan(shard)
    return tuple(_decoded(line, Item, uri) for line in get(uri).splitlines())


def read_shard(folder: Folder, shard: int) -> Shard:
    uri = folder.shard(shard)
    return _decoded(get(uri), Shard, uri)


def read_run(folder: Folder) -> dict[str, Any] | None:
    """run.json, which seals a merge; None while there is none."""
    uri = folder.file("run.json")
    try:
        record = _decoded(get(uri), dict[str, Any], uri)
    except NotFound:
        return None
    if not {"run", "instances_sha256", "files"} <= set(record):
        raise JobError(f"{shown(uri)} is not of this program; delete it to merge anew")
    return record


def missing_shards(folder: Folder, shards: int) -> list[int]:
    """Shard numbers with no object yet, ascending, from one listing."""
    done = bytearray(shards)
    for number in _numbers(join(folder.uri, f"shards/{folder.run}/")):
        if number < shards:
            done[number] = 1
    return [number for number in range(shards) if not done[number]]


def _numbers(prefix: str) -> Iterator[int]:
    try:
        for entry in list_entries(prefix):
            stem = entry.uri.rpartition("/")[2].partition(".")[0]
            if stem.isdigit():
                yield int(stem)
    except NotFound:
        return


def read_attempts(folder: Folder, shard: int) -> dict[int, Attempt]:
    return {
        number: _decoded(get(folder.attempt(shard, number)), Attempt, folder.attempts(shard))
        for number in _numbers(folder.attempts(shard) + "/")
    }


def every_attempt(folder: Folder) -> Iterator[tuple[str, Attempt]]:
    """All attempts of a run with their URIs, from one listing and reads side by side."""

    def read(entry: Entry) -> tuple[str, Attempt]:
        return entry.uri, _decoded(get(entry.uri), Attempt, entry.uri)

    with ThreadPoolExecutor(READERS) as pool:
        try:
            entries = list_entries(join(folder.uri, f"attempts/{folder.run}/"))
            yield from ordered_map(pool, read, entries, window=2 * READERS)
        except NotFound:
            return


def write_attempt(uri: str, attempt: Attempt) -> None:
    put(uri, encode(attempt))


def delete_run(folder: Folder) -> None:
    """A run that job.json names no longer, or never did. Nothing but its own folders is touched."""
    for part in ("plan", "shards", "attempts"):
        try:
            for entry in list_entries(join(folder.uri, f"{part}/{folder.run}/")):
                delete(entry.uri)
        except NotFound:
            continue


def exists(uri: str) -> bool:
    try:
        head(uri)
    except NotFound:
        return False
    return True


def _decoded(data: bytes, kind: type[T], uri: str) -> T:
    try:
        return msgspec.json.decode(data, type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError) as exc:
        raise JobError(f"{shown(uri)} is damaged, or not of this program: {exc}") from exc
