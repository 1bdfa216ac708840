"""A schedule of a few seconds for a fleet of real processes, and what is true of its runs."""

from __future__ import annotations

import json
from pathlib import Path

import msgspec

from tasks.folder import Folder, read_job, read_run
from tasks.runs import End, Run, read_book, read_schedules
from tasks.schedules import Schedule
from tests.fleet import Fleet

EVERY_S = 3


def write_schedule(folder: Path, photos: Path, card: Path, more: str = "") -> Path:
    file = folder / "schedules.toml"
    file.write_text(
        f"""[[schedule]]
name = "often"
every = "{EVERY_S}s"
inputs = ["{photos}/"]
model = "{card}"
output = "{folder}/out/{{run}}"
{more}
[schedule.options]
shard_size = 2
"""
    )
    return file


def ended(made: Fleet) -> list[tuple[Run, End]]:
    """The runs that are over, in order."""
    (schedule,) = read_schedules(made.state) or [None]
    if schedule is None:
        return []
    book = read_book(made.state, schedule)
    over = [n for n in range(1, book.last + 1) if f"{n}.end.json" in book.names]
    return [(book.run(n), book.end(n)) for n in over]


def check_runs(made: Fleet, out: Path, whole: bytes) -> None:
    """Each has its own nominal time and its own job, whole; there is no job besides."""
    runs, images = ended(made), len(json.loads(whole)["images"])
    times = [run.nominal for run, _ in runs]
    assert times == sorted(set(times))
    assert all(each.timestamp() % EVERY_S == 0 for each in times)
    for run, end in runs:
        assert end == End("finished", "", images, 0), f"{run.nominal} {end}\n{made.logs()}"
        assert (Path(run.output) / "instances.json").read_bytes() == whole
        job = read_job(run.output)
        assert job is not None
        record = read_run(Folder(run.output, job.run))
        assert record is not None
        assert record["images"] == images
    jobs = {str(each.parent) for each in out.glob("*/job.json")}
    assert jobs >= {run.output for run, _ in runs}
    assert len(jobs) <= len(runs) + 1  # one may be running


def toml(*schedules: Schedule) -> bytes:
    """A file of these."""
    lines = []
    for each in schedules:
        lines.append("[[schedule]]")
        given = msgspec.to_builtins(each)
        for field in msgspec.structs.fields(Schedule):
            if (value := given[field.name]) not in (field.default, {}, []):
                lines.append(f"{field.name} = {_in_toml(value)}")
    return "\n".join(lines).encode()


def _in_toml(value: object) -> str:
    if isinstance(value, dict):
        return "{" + ", ".join(f"{name} = {_in_toml(each)}" for name, each in value.items()) + "}"
    return msgspec.json.encode(value).decode()
