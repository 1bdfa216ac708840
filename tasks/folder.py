"""Where the parts of a job lie in its folder, and what they say about how far it is."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import msgspec

from storage import Entry, delete, get, list_entries, put
from storage.errors import NotFound
from storage.uris import join
from tasks.ordered import ordered_map
from tasks.records import SCHEMA, Attempt, Item, Job, Shard, encode

READERS = 8


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
    try:
        job = msgspec.json.decode(data, type=Job)
    except msgspec.DecodeError as exc:
        raise JobError(f"{join(uri, 'job.json')} is not a job of this program: {exc}") from exc
    if job.schema != SCHEMA:
        raise JobError(f"{join(uri, 'job.json')} has schema {job.schema}; this program reads 1")
    return job


def read_plan(folder: Folder, shard: int) -> tuple[Item, ...]:
    lines = get(folder.plan(shard)).splitlines()
    return tuple(msgspec.json.decode(line, type=Item) for line in lines)


def read_shard(folder: Folder, shard: int) -> Shard:
    return msgspec.json.decode(get(folder.shard(shard)), type=Shard)


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
        number: msgspec.json.decode(get(folder.attempt(shard, number)), type=Attempt)
        for number in _numbers(folder.attempts(shard) + "/")
    }


def every_attempt(folder: Folder) -> Iterator[tuple[str, Attempt]]:
    """All attempts of a run with their URIs, from one listing and reads side by side."""

    def read(entry: Entry) -> tuple[str, Attempt]:
        return entry.uri, msgspec.json.decode(get(entry.uri), type=Attempt)

    with ThreadPoolExecutor(READERS) as pool:
        try:
            entries = list_entries(join(folder.uri, f"attempts/{folder.run}/"))
            yield from ordered_map(pool, read, entries, window=2 * READERS)
        except NotFound:
            return


def write_attempt(uri: str, attempt: Attempt) -> None:
    put(uri, encode(attempt))


def delete_other_runs(folder: Folder) -> None:
    """What earlier or abandoned plannings left behind. Only the run in job.json counts."""
    for part in ("plan", "shards", "attempts"):
        keep = join(folder.uri, f"{part}/{folder.run}/")
        try:
            for entry in list_entries(join(folder.uri, f"{part}/")):
                if not entry.uri.startswith(keep):
                    delete(entry.uri)
        except NotFound:
            continue
