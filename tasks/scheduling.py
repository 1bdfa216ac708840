"""The commands of `maskmill schedule`."""

from datetime import datetime
from itertools import islice
from typing import Any

import msgspec

from storage import get, put, shown
from tasks.broker import broker_url, make_app
from tasks.exits import OK, STOPPED, tell
from tasks.folder import JobError
from tasks.inputs import InputError, absolute
from tasks.runs import look_at, place_of, read_book, read_schedules
from tasks.schedules import UTC, Schedule, following, parse_schedules, stamp, zone_of
from tasks.state import fleet_here, fleet_state


def check(file: str, as_json: bool) -> int:
    uri = absolute(file) if file else place_of(fleet_state())
    for each in parse_schedules(get(uri), shown(uri), here=True):
        _say(each, {}, 5, as_json)
    return OK


def list_schedules(as_json: bool) -> int:
    """The last run and how it ended, and the next."""
    state = fleet_state()
    schedules = read_schedules(state)
    if not schedules:
        raise InputError("the fleet has no schedules; maskmill schedule serve FILE gives it some")
    for each in schedules:
        book, last = read_book(state, each), dict[str, Any]()
        if book.last > 0:
            run = book.run(book.last)
            last = {"last": stamp(run.nominal), "output": shown(run.output), "state": "running"}
            last |= {} if book.running else msgspec.to_builtins(book.end(book.last))
        _say(each, last, 1, as_json)
    return OK


def _say(schedule: Schedule, last: dict[str, Any], times: int, as_json: bool) -> None:
    zone, now = zone_of(schedule.timezone), datetime.now(UTC)
    coming = [at.astimezone(zone) for at in islice(following(schedule, now), times)]
    about = {"name": schedule.name, **last, "next": [at.isoformat() for at in coming]}
    lines = [f"{name:<10}{value}" for name, value in about.items() if name != "next"]
    tell({"event": "schedule", **about}, [*lines, *(f"next      {at}" for at in coming)], as_json)


def run_schedule(name: str, as_json: bool) -> int:
    fleet = fleet_here()
    schedule = {each.name: each for each in read_schedules(fleet.state)}.get(name)
    if schedule is None:
        raise InputError(f"there is no schedule {name!r}; see maskmill schedule list")
    now, book = datetime.now(UTC), read_book(fleet.state, schedule)
    if book.running:
        raise JobError(f"{book.run(book.last)} is not over yet")
    if not schedule.into and "{run}" not in schedule.output:
        raise JobError(f"{name} would meet its nominal runs there: put {{run}} into its output")
    for line in look_at(schedule, fleet, now, at_once=True):
        tell({"event": "done", "message": line}, [line], as_json)
    book = read_book(fleet.state, schedule)
    return OK if book.running or book.end(book.last).state == "nothing-new" else STOPPED


def serve(file: str, as_json: bool) -> int:
    """Until it is told to stop."""
    if file:
        data = get(absolute(file))
        parse_schedules(data, shown(file), here=True)
        put(place_of(fleet_state()), data)
    app = make_app(broker_url())
    app.conf.imports = ()  # who only sends needs nothing of what a worker does
    app.Beat(loglevel="WARNING", quiet=True).run()
    return OK
