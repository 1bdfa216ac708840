"""The commands of `maskmill schedule`."""

from collections.abc import Iterator
from datetime import datetime
from itertools import islice
from typing import Any

import msgspec

from storage import get, put
from storage.uris import shown
from tasks.broker import broker_url, make_app
from tasks.exits import OK, STOPPED
from tasks.folder import JobError, read_job
from tasks.inputs import absolute
from tasks.nominal import UTC, following, latest, stamp, zone_of
from tasks.progress import tell
from tasks.runs import Fleet, look_at, place_of, read_book, read_schedules
from tasks.schedules import Schedule, ScheduleError, parse_schedules
from tasks.state import fleet_state

TIMES = 5


def check(file: str, as_json: bool) -> int:
    uri = absolute(file) if file else place_of(fleet_state())
    for each in parse_schedules(get(uri), shown(file or uri), here=True):
        _say({"name": each.name, "next": list(islice(_coming(each), TIMES))}, as_json)
    return OK


def list_schedules(as_json: bool) -> int:
    """The last run and how it ended, the next, and the job that this waits for."""
    state = fleet_state()
    for each in read_schedules(state):
        book, last = read_book(state, each), {}
        if book.last > 0:
            run = book.run(book.last)
            last = {"last": stamp(run.nominal), "state": "running", "output": shown(run.output)}
            if not book.running:
                last |= msgspec.to_builtins(book.end(book.last))
            elif (come := latest(each.timing(), datetime.now(UTC))) and come > run.nominal:
                last["one_waits_since"] = _local(each, come)
        _say({"name": each.name, **last, "next": next(_coming(each), None)}, as_json)
    return OK


def _say(about: dict[str, Any], as_json: bool) -> None:
    lines = (
        f"{name.replace('_', ' '):<17}{value}"
        for name, values in about.items()
        for value in (values if isinstance(values, list) else [values])
    )
    tell({"event": "schedule", **about}, lines, as_json)


def _coming(schedule: Schedule) -> Iterator[str]:
    times = following(schedule.timing(), datetime.now(UTC))
    return (_local(schedule, at) for at in times)


def _local(schedule: Schedule, at: datetime) -> str:
    return at.astimezone(zone_of(schedule.timezone)).isoformat()


def run_schedule(name: str, as_json: bool) -> int:
    fleet = Fleet(make_app(broker_url()), fleet_state(), lambda message: None)
    schedule = next((each for each in read_schedules(fleet.state) if each.name == name), None)
    if schedule is None:
        raise ScheduleError(f"there is no schedule {name!r}; see maskmill schedule list")
    now, book = datetime.now(UTC), read_book(fleet.state, schedule)
    if book.running:
        raise JobError(f"{book.run(book.last)} is not over yet")
    if read_job(schedule.output_of(now)) is not None:
        raise JobError(f"{shown(schedule.output_of(now))} holds a job; put {{run}} into its output")
    for line in look_at(schedule, fleet, now, at_once=True):
        tell({"event": "done", "message": line}, [line], as_json)
    return OK if read_book(fleet.state, schedule).running else STOPPED


def serve(file: str, as_json: bool) -> int:
    """Until it is told to stop."""
    data = get(absolute(file))
    parse_schedules(data, shown(file), here=True)
    put(place_of(fleet_state()), data)
    app = make_app(broker_url())
    app.conf.imports = ()  # who only sends needs nothing of what a worker does
    app.Beat(loglevel="WARNING", quiet=True).run()
    return OK
