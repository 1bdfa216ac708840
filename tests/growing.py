"""A schedule under a clock of its own, with real jobs that are worked off in this process."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from storage import get, list_entries
from tasks.broker import ShardMessage, make_app
from tasks.folder import find_job, missing_shards, read_job
from tasks.merge import merge_all
from tasks.records import Job
from tasks.runs import End, Run, look_at, read_book
from tasks.schedules import UTC, Schedule
from tasks.state import Fleet, State
from tasks.submit import submit
from worker.jobs import run_shard
from worker.station import Station

NEW_YEAR = datetime(2026, 1, 1, tzinfo=UTC)
MARKS = ("vanished", "dropped", "returned")


def fleet_of(folder: Path) -> Fleet:
    return Fleet(
        make_app("memory://"), State(str(folder / "state")), lambda asked: None, lambda uri: ""
    )


def work_off(output: str, station: Station | None = None, only: int | None = None) -> None:
    """What a fleet's workers do with a job's messages: its shards and the merge, or one of them."""
    job, folder = find_job(output)
    missing = missing_shards(folder, job)
    for shard in missing if only is None else [missing[only]]:
        run_shard(ShardMessage(job=output, run=job.run, shard=shard), job, station or Station())
    if only is None:
        merge_all(folder, job, lambda *_: False)


@dataclass
class Nights:
    """One schedule that is due at each midnight."""

    schedule: Schedule
    fleet: Fleet
    now: datetime = NEW_YEAR
    station: Station = field(default_factory=Station)

    def look(self, hours: float = 0) -> list[str]:
        self.now += timedelta(hours=hours)
        return list(look_at(self.schedule, self.fleet, self.now))

    def begin(self) -> list[str]:
        if read_book(self.fleet.state, self.schedule).last < 0:
            self.look()
        midnight = (self.now + timedelta(days=1)).replace(hour=0)
        return self.look((midnight - self.now) / timedelta(hours=1))

    def night(self) -> End:
        """A run from its beginning to its end."""
        self.begin()
        return self.finish()

    def finish(self) -> End:
        self.look()
        for _ in range(4):  # looks until it has ended
            if not read_book(self.fleet.state, self.schedule).running:
                break
            if read_job(self.run.output):
                work_off(self.run.output, self.station)
            self.look(0.1)
        return self.end

    @property
    def run(self) -> Run:
        book = read_book(self.fleet.state, self.schedule)
        return book.run(book.last)

    @property
    def end(self) -> End:
        book = read_book(self.fleet.state, self.schedule)
        return book.end(book.last)

    def taken(self) -> Counter[str]:
        """The inputs of the last run by their last names, without marks."""
        job, folder = find_job(self.run.output)
        turn = self.run.turn if job.open else ""
        names = [each.uri for each in list_entries(folder.file(f"plan/{job.run}/"))]
        parts = [each.rpartition("/")[2].removesuffix(".jsonl") for each in names]
        ours = [each for each in parts if each.startswith(turn)]
        items = [i for part in ours for i in folder.read_plan(part if job.open else int(part))]
        plain = [i for i in items if not (i.problem and i.problem.kind in MARKS)]
        return Counter(each.file_name.rpartition("/")[2] for each in plain)


def dataset(output: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(get(f"{output}/instances.json"))
    return found


def failed(output: str) -> set[tuple[str, str]]:
    lines = [json.loads(line) for line in get(f"{output}/failures.jsonl").splitlines()]
    return {(each["file_name"], each["kind"]) for each in lines}


def ids(found: dict[str, Any]) -> tuple[dict[str, int], dict[int, str]]:
    """Of images by name; and of annotations, each with what it says of which image."""
    names = {each["id"]: each["file_name"] for each in found["images"]}
    return {name: number for number, name in names.items()}, {
        each["id"]: json.dumps({**each, "image_id": names[each["image_id"]]})
        for each in found["annotations"]
    }


def but_for_ids(found: dict[str, Any], *, without_vanished: bool = False) -> dict[str, Any]:
    """A dataset by file names, so that two can be compared."""
    left = {
        each["id"]: each
        for each in found["images"]
        if not (without_vanished and each.get("vanished"))
    }
    of: dict[str, list[str]] = {each["file_name"]: [] for each in left.values()}
    for each in found["annotations"]:
        if each["image_id"] in left:
            said = {name: value for name, value in each.items() if name not in ("id", "image_id")}
            of[left[each["image_id"]]["file_name"]].append(json.dumps(said))
    images = {each["file_name"]: {**each, "id": 0} for each in left.values()}
    return {"images": images, "annotations": of, "categories": found["categories"]}


def fresh_run(schedule: Schedule, output: str, fleet: Fleet) -> Job:
    """A job over what is there now, by the same words."""
    done = submit(
        schedule.inputs, schedule.model, output, fleet=fleet, shared_paths=True, **schedule.options
    )
    work_off(output)
    return done.job
