"""The runs of schedules. All that is known of them is in the state folder, so that any machine can
look after them, several at once.

schedules/schedules.toml        what there is to run
schedules/<name>/7.json         its seventh run, made create-only once the sixth has ended; 0.json
                                says when the schedule was first seen, for its past is not run
schedules/<name>/7.sent.json    that its job was submitted, or its inputs added to its dataset
schedules/<name>/7.written.json how many shards its dataset had when all of its own were there
schedules/<name>/7.end.json     how that ended, create-only; 7.stalled.json that it stood still
schedules/<name>/7.end.told.json, 7.stalled.told.json    that its receiver took the word of it
schedules/<name>/7.seen.json    how many shards it had written, and since when so many

Nominal times only go forward: whatever clocks do, none is run twice.
"""

from collections.abc import Iterator
from contextlib import suppress
from datetime import datetime, timedelta
from itertools import product
from typing import Any, NamedTuple, TypeVar

import msgspec

from storage import basename, delete, get, join, list_entries, put, shown
from storage.errors import Exists, Full, NotFound, StorageError, Unavailable
from storage.http_requests import post
from tasks.broker import BrokerDown
from tasks.folder import JobError, decoded, read_any, read_job
from tasks.nominal import interval, latest, stamp
from tasks.records import encode
from tasks.running import End, NothingNew, Run, begin, cut_off, stands
from tasks.schedules import Schedule, ScheduleError, parse_schedules
from tasks.state import Fleet, State

KEPT = 200  # runs that the state folder knows of
STALLED_S = 1800.0  # without a new shard
T = TypeVar("T")


class Book(NamedTuple):
    """What one listing says of a schedule's runs."""

    place: str  # with a slash
    names: frozenset[str]

    @property
    def last(self) -> int:
        """-1 where there is nothing yet."""
        return max((int(each[:-5]) for each in self.names if each[:-5].isdigit()), default=-1)

    @property
    def running(self) -> bool:
        return self.last > 0 and f"{self.last}.end.json" not in self.names

    def at(self, name: str) -> str:
        return join(self.place, name)

    def run(self, number: int) -> Run:
        return self.read(f"{number}.json", Run)

    def end(self, number: int) -> End:
        return self.read(f"{number}.end.json", End)

    def read(self, name: str, kind: type[T]) -> T:
        return decoded(get(self.at(name)), kind, self.at(name))

    def write(self, name: str, value: Any) -> None:
        """Create-only: what another look wrote before stays."""
        with suppress(Exists):
            put(self.at(name), encode(value), create_only=True)


def place_of(state: State) -> str:
    return join(state.uri, "schedules/schedules.toml")


def read_schedules(state: State) -> tuple[Schedule, ...]:
    try:
        return parse_schedules(get(place_of(state)), shown(place_of(state)))
    except NotFound:
        return ()


def read_book(state: State, schedule: Schedule) -> Book:
    place = join(state.uri, f"schedules/{schedule.name}")
    return Book(place, frozenset(basename(each.uri) for each in list_entries(f"{place}/")))


def tick(fleet: Fleet, now: datetime) -> Iterator[str]:
    """Look after every schedule; yields a sentence for each thing done, or that could not be."""
    try:
        for each in read_schedules(fleet.state):
            try:
                yield from look_at(each, fleet, now)
            except (BrokerDown, JobError, StorageError) as exc:
                yield f"schedule {each.name}: {exc}; the next look tries again"
    except (ScheduleError, StorageError) as exc:
        yield f"no schedule can be looked after: {exc}"


def look_at(it: Schedule, fleet: Fleet, now: datetime, *, at_once: bool = False) -> Iterator[str]:
    """See how the last run stands, or make the next if it is due; `at_once`: in any case."""
    book, begun = read_book(fleet.state, it), None
    if book.last < 0:
        book.write("0.json", Run(0, now, "", now, it))
        book = read_book(fleet.state, it)
    if not book.running:
        before, come = book.run(book.last), latest(it.timing(), now)
        late = come is not None and come > before.nominal
        begun = come if late else now if at_once else None
    if begun is not None:
        made = max(now, before.made + timedelta(seconds=1))
        new = Run(book.last + 1, begun, it.output_of(begun), made, it)
        book.write(f"{new.number}.json", new)
        # Who was paused before this finds that others are far ahead.
        book = read_book(fleet.state, it)
    if book.running:
        run = book.run(book.last)
        if run.nominal == begun:
            yield f"{run} begins in {shown(run.output)}"
        if end := _see_to(book, run, fleet, now):
            book.write(f"{book.last}.end.json", end)
            yield f"{run} is {end.state}" + (f": {end.reason}" if end.reason else "")
        elif it.webhook:
            _look_for_stall(book, run, now)
    for name in book.names:
        number = name.partition(".")[0]
        if number.isdigit() and int(number) <= book.last - KEPT:
            delete(book.at(name))
    _tell(it, read_book(fleet.state, it))


def _see_to(book: Book, run: Run, fleet: Fleet, now: datetime) -> End | None:
    """Begin a run, or see how it stands: its end, if it has one, or has to have one."""
    sent, limit = f"{run.number}.sent.json", run.schedule.budget
    try:
        if sent not in book.names or read_job(run.output) is None:
            begin(run, fleet)
            book.write(sent, run.made)
            return None
        end = stands(run, fleet.state)
        goes_on = end is None or end.state == "cancelled"  # it may be that we did so before
        if goes_on and limit and (now - run.made).total_seconds() > interval(limit):
            end = End("failed", f"it took longer than its budget of {limit}")
            cut_off(run, fleet.state, end.reason)
        return end
    except (BrokerDown, Full, Unavailable):
        raise
    except Exception as exc:  # noqa: BLE001  whoever cannot do what is asked says why
        return End("nothing-new" if isinstance(exc, NothingNew) else "failed", str(exc))


def _look_for_stall(book: Book, run: Run, now: datetime) -> None:
    job, uri = read_job(run.output), book.at(f"{book.last}.seen.json")
    shards = sum(1 for _ in list_entries(join(run.output, f"shards/{job.run}/"))) if job else 0
    before, since = read_any(uri, tuple[int, datetime]) or (-1, now)
    if before != shards or since > now:
        put(uri, encode((shards, now)))
    elif (now - since).total_seconds() > STALLED_S:
        reason = f"no shard was written for {STALLED_S / 60:.0f} minutes"
        book.write(f"{book.last}.stalled.json", End("stalled", reason))


def _tell(schedule: Schedule, book: Book) -> None:
    """In their order: one that cannot be told now holds up the later ones. Where the word that it
    was told is lost, it is told again under the same key."""
    numbers = range(max(1, book.last - KEPT + 1), book.last + 1)
    for number, kind in product(numbers, ("stalled", "end")):
        name, told = f"{number}.{kind}.json", f"{number}.{kind}.told.json"
        if name in book.names and told not in book.names:
            run, end = book.run(number), book.read(name, End)
            if schedule.webhook and end.state not in ("cancelled", "nothing-new"):
                about = {"schedule": schedule.name, "nominal": stamp(run.nominal)}
                key = "/".join((*about.values(), end.state))
                about |= {"output": shown(run.output), **msgspec.to_builtins(end)}
                headers = {"Content-Type": "application/json", "Idempotency-Key": key}
                post(schedule.webhook, encode({"schema": 1, **about}), headers)
            book.write(told, end)
