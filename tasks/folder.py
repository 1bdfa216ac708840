"""Where the parts of a job lie in its folder, and what they say about how far it is."""

import itertools
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeVar

import msgspec

from storage import Entry, NotFound, delete, exists, get, join, list_entries, shown, side_by_side
from tasks.records import Attempt, Image, Item, Job, Shard

SHEET = "contact-sheet.jpg"
READERS = 4  # shards read side by side where all are held to be merged
_NAME = re.compile(r"([^.]+)(?:\.r([0-9]+))?\.jsonl?")  # of a shard, and its generation
T = TypeVar("T")

ShardName = int | str  # a planned shard's number, or the hash that names a part of an open job


class JobError(Exception):
    """A job that cannot go on as asked, in one sentence."""


class JobDiffers(JobError):
    """The output holds a job that was asked for in other words."""


def _stem(shard: ShardName, generation: int = 0) -> str:
    stem = f"{shard:05d}" if isinstance(shard, int) else shard
    return f"{stem}.r{generation}" if generation else stem


@dataclass(frozen=True)
class Folder:
    """A job folder and the run in it that job.json names."""

    uri: str
    run: str

    def plan(self, shard: ShardName, generation: int = 0) -> str:
        """What is to be done; in a later generation the failed inputs that are tried again."""
        part = "retries" if generation else "plan"
        return join(self.uri, f"{part}/{self.run}/{_stem(shard, generation)}.jsonl")

    def shard(self, shard: ShardName, generation: int = 0) -> str:
        return join(self.uri, f"shards/{self.run}/{_stem(shard, generation)}.json")

    def attempts(self, shard: ShardName, generation: int = 0) -> str:
        return join(self.uri, f"attempts/{self.run}/{_stem(shard, generation)}")

    def file(self, name: str) -> str:
        return join(self.uri, name)

    def read_plan(self, shard: ShardName, generation: int = 0) -> tuple[Item, ...]:
        uri = self.plan(shard, generation)
        try:
            return tuple(decoded(line, Item, uri) for line in get(uri).splitlines())
        except NotFound as exc:
            raise JobError(f"{shown(uri)} is not there: the job has no such shard") from exc

    def read_shard(self, shard: ShardName, generation: int = 0) -> Shard:
        uri = self.shard(shard, generation)
        return decoded(get(uri), Shard, uri)

    def written(self) -> dict[ShardName, set[int]]:
        """The generations that are there of each shard."""
        done: dict[ShardName, set[int]] = {}
        for shard, generation in self.shard_objects():
            done.setdefault(shard, set()).add(generation)
        return done

    def shard_objects(self) -> Iterator[tuple[ShardName, int]]:
        """The shard objects that are there, with their generations, from one listing."""
        return self._named("shards")

    def retries(self) -> Iterator[tuple[ShardName, int]]:
        """The shards of which failed inputs are to be tried again, each with its generation."""
        return self._named("retries")

    def generation_due(self, shard: ShardName) -> int | None:
        """Which object of a shard is still to come, if any is."""
        if not exists(self.shard(shard)):
            return 0
        again = sorted(generation for name, generation in self.retries() if name == shard)
        return next((each for each in again if not exists(self.shard(shard, each))), None)

    def whole_shard(self, shard: ShardName, generations: Iterable[int]) -> Shard:
        """A shard with each input as the highest generation that tried it left it."""
        whole = self.read_shard(shard)
        for generation in sorted(set(generations) - {0}):
            again = self.read_shard(shard, generation)
            tried = {_image_of(each) for each in (*again.images, *again.failures)}
            changed: dict[str, Any] = {"empty_masks": whole.empty_masks + again.empty_masks}
            for name in ("images", "annotations", "failures"):
                kept = (each for each in getattr(whole, name) if _image_of(each) not in tried)
                changed[name] = tuple(sorted([*kept, *getattr(again, name)], key=_image_of))
            whole = msgspec.structs.replace(whole, **changed)
        return whole

    def whole_shards(self, job: Job) -> Iterator[Shard]:
        """Those that are there, in order: of a job that is done, all."""
        done = self.written()
        there = (shard for shard in parts(self, job) if shard in done)
        return side_by_side(lambda n: self.whole_shard(n, done[n]), there, READERS, READERS)

    def _named(self, part: str) -> Iterator[tuple[ShardName, int]]:
        for entry in list_entries(self.file(f"{part}/{self.run}/")):
            if found := _NAME.fullmatch(entry.uri.rpartition("/")[2]):
                stem = found[1]
                yield int(stem) if stem.isdigit() and len(stem) < 16 else stem, int(found[2] or 0)


class Due(NamedTuple):
    """A shard's object that is still to come."""

    folder: Folder
    shard: ShardName
    generation: int

    @property
    def uri(self) -> str:
        return self.folder.shard(self.shard, self.generation)


def read_job(uri: str) -> Job | None:
    """The job in this folder, or None where nothing has been planned."""
    return read_any(join(uri, "job.json"), Job)


def find_job(uri: str) -> tuple[Job, Folder]:
    job = read_job(uri)
    if job is None:
        raise JobError(f"{shown(uri)} holds no job")
    return job, Folder(uri, job.run)


def _image_of(each: Any) -> int:
    return int(each.id if isinstance(each, Image) else each.image_id)


def read_run(folder: Folder) -> dict[str, Any] | None:
    """run.json, which seals a merge; None while there is none."""
    uri = folder.file("run.json")
    record = read_any(uri, dict[str, Any])
    if record is not None and not {"run", "instances_sha256", "files"} <= set(record):
        raise JobError(f"{shown(uri)} is not of this program; delete it to merge anew")
    return record


def missing_shards(folder: Folder, job: Job) -> list[ShardName]:
    """Shards with an object still to come, in order: one listing, and one of the retries."""
    done = folder.written()
    wanted = itertools.chain(((shard, 0) for shard in parts(folder, job)), folder.retries())
    return sorted({shard for shard, generation in wanted if generation not in done.get(shard, ())})


def parts(folder: Folder, job: Job) -> Sequence[ShardName]:
    """The names of all shards that there are to be, in order."""
    if not job.open:
        return range(job.counts.shards)
    return sorted(shard for shard, _ in folder._named("plan"))


def attempt_uri(attempts: str, number: int) -> str:
    return join(attempts, f"{number:03d}.json")


def read_attempts(attempts: str) -> Iterator[tuple[str, Attempt]]:
    """The attempts below a folder with their URIs, from one listing and reads side by side."""

    def read(entry: Entry) -> tuple[str, Attempt]:
        return entry.uri, decoded(get(entry.uri), Attempt, entry.uri)

    return side_by_side(read, list_entries(attempts + "/"))


def every_attempt(folder: Folder) -> Iterator[tuple[str, Attempt]]:
    return read_attempts(join(folder.uri, f"attempts/{folder.run}"))


def delete_run(folder: Folder) -> None:
    """A run that job.json names no longer, or never did. Nothing but its own folders is touched."""
    for part in ("plan", "shards", "attempts", "retries", "segments", "edits", "unfit"):
        for entry in list_entries(join(folder.uri, f"{part}/{folder.run}/")):
            delete(entry.uri)


def read_any(uri: str, kind: type[T]) -> T | None:
    """What is written there, None where nothing is."""
    try:
        return decoded(get(uri), kind, uri)
    except NotFound:
        return None


def decoded(data: bytes, kind: type[T], uri: str) -> T:
    try:
        return msgspec.json.decode(data, type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError) as exc:
        raise JobError(f"{shown(uri)} is damaged, or not of this program: {exc}") from exc
