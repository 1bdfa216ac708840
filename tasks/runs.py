"""The runs of schedules. All that is known of them is in the state folder, so that any machine can
look after them, several at once.

schedules/schedules.toml        what there is to run
schedules/<name>/7.json         its seventh run, made create-only once the sixth has ended; 0.json
                                says when the schedule was first seen, for its past is not run
schedules/<name>/7.seen.json    how many shards its job had, and since when so many: it is there
                                once the job was submitted, or its inputs added to its dataset
schedules/<name>/7.written.json how many shards its dataset had when all of its own were there
schedules/<name>/7.end.json     how it ended, create-only
schedules/<name>/7.told.json    that its receiver took the word of that; 7.stalled.json of a stall

Nominal times only go forward: whatever clocks do, none is run twice.
"""

from collections.abc import Iterable, Iterator
from contextlib import suppress
from datetime import datetime, timedelta
from functools import partial
from typing import Any, NamedTuple, TypeVar

import msgspec
from msgspec.structs import asdict, astuple

from storage import basename, delete, get, join, list_entries, put, shown
from storage.errors import Exists, Full, NotFound, StorageError, Unavailable
from storage.http_requests import post
from tasks.broker import BrokerDown
from tasks.events import drain
from tasks.folder import Folder, JobError, ShardName, decoded, find_job, parts, read_job, read_run
from tasks.inputs import Found, InputError
from tasks.ledger import compared, ledger_uri, settle
from tasks.markers import cancel, halt_of, look_for_halt
from tasks.merge import is_merged
from tasks.open_jobs import append, append_inputs
from tasks.records import Failure, Problem, ProducedBy, Routing, Selection, Shard, Wishes, encode
from tasks.schedules import Schedule, interval, latest, looked_with, parse_schedules, stamp
from tasks.segments import key_of
from tasks.state import Fleet, State
from tasks.submit import options_as, submit

KEPT = 200  # runs that the state folder knows of
STALLED_S = 1800.0  # without a new shard
LATE = Problem("worker", "cancelled", "the run that was to annotate it took longer than its budget")
T = TypeVar("T")


class Run(msgspec.Struct, frozen=True):
    number: int
    nominal: datetime
    output: str
    made: datetime  # later than that of the run before
    schedule: Schedule  # as it was then

    def __str__(self) -> str:
        return f"schedule {self.schedule.name}: the run of {stamp(self.nominal)}"

    @property
    def turn(self) -> str:
        """What the names of the parts begin with that it adds to a dataset."""
        return f"{int(self.made.timestamp()):08x}{key_of(self.schedule.name)[:8]}"


class End(msgspec.Struct, frozen=True):
    state: str  # finished, finished-with-failures, nothing-new, failed, cancelled or stalled
    reason: str = ""
    images: int = 0
    failures: int = 0


class NothingNew(Exception):
    """No job is made of it."""


class Book(NamedTuple):
    """What one listing says of a schedule's runs."""

    place: str
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
    except (InputError, StorageError) as exc:
        yield f"no schedule can be looked after: {exc}"


def look_at(it: Schedule, fleet: Fleet, now: datetime, *, at_once: bool = False) -> Iterator[str]:
    """See how the last run stands, or make the next if it is due; `at_once`: in any case."""
    book = read_book(fleet.state, it)
    if book.last < 0:
        book.write("0.json", Run(0, now, "", now, it))
        book = read_book(fleet.state, it)
    if not book.running:
        before, nominal = book.run(book.last), latest(it, now)
        is_due = nominal > before.nominal
        if is_due or at_once:
            nominal = nominal if is_due else now
            made = max(now, before.made + timedelta(seconds=1))
            new = Run(book.last + 1, nominal, it.output_of(nominal), made, it)
            book.write(f"{new.number}.json", new)
            # Who was paused before this finds that others are far ahead.
            book = read_book(fleet.state, it)
            if book.last == new.number:
                yield f"{new} begins in {shown(new.output)}"
    if book.running:
        run = book.run(book.last)
        if end := _see_to(book, run, fleet, now):
            book.write(f"{book.last}.end.json", end)
            yield f"{run} is {end.state}" + (f": {end.reason}" if end.reason else "")
    for name in book.names:
        number = name.partition(".")[0]
        if number.isdigit() and int(number) <= book.last - KEPT:
            delete(book.at(name))
    _tell_all(it, read_book(fleet.state, it), now)


def _see_to(book: Book, run: Run, fleet: Fleet, now: datetime) -> End | None:
    """Begin a run, or see how it stands: its end, if it has one, or has to have one."""
    seen, limit = f"{run.number}.seen.json", run.schedule.budget
    is_late = bool(limit) and (now - run.made).total_seconds() > interval(limit)
    try:
        if seen not in book.names or read_job(run.output) is None:
            begin(run, fleet)
            book.write(seen, (0, now))
            return None
        end = stands(run, fleet.state)
        goes_on = end is None or end.state == "cancelled"  # it may be that we did so before
        if goes_on and is_late:
            end = End("failed", f"it took longer than its budget of {limit}")
            cut_off(run, fleet.state, end.reason)
        return end
    except (BrokerDown, Full, Unavailable) as exc:
        if is_late and seen not in book.names:
            return End("failed", f"it could not begin within its budget of {limit}: {exc}")
        raise
    except Exception as exc:  # noqa: BLE001  whoever cannot do what is asked says why
        return End("nothing-new" if isinstance(exc, NothingNew) else "failed", str(exc))


def begin(run: Run, fleet: Fleet) -> None:
    """Submit its job, or add to its dataset. Twice is once: the same is stored under the same name.

    What lies at its output is refused if it is another's.
    """
    it, message = run.schedule, run.schedule.message(run.output)
    fleet.allow(message)
    selection, routing, wished = options_as(message, Selection, Routing, Wishes)
    how = {"routing": routing, "fleet": fleet, **asdict(wished), "shared_paths": True}
    if it.into or it.incremental:
        how["fresh"] = partial(_new, run, fleet.state)
    if not it.into:
        submit(it.inputs, selection=selection, **how)
        return
    if job := read_job(run.output):
        look_for_halt(Folder(run.output, job.run))
    if it.inputs:
        append_inputs(it.inputs, selection=selection, stdin="", turn=run.turn, **how)
    else:
        add = partial(append, sampling=selection, turn=run.turn, **how)
        drain(it.events, add, fleet.state.bury_message)
    if not _parts(run):
        raise NothingNew


def _new(run: Run, state: State, found: Iterable[Found]) -> Iterator[Found]:
    it, some = run.schedule, bool(run.schedule.into)
    absent = ("dropped" if it.drop_vanished else "vanished") if it.into and it.inputs else ""
    for each in compared(found, _ledger(run, state), absent):
        some |= each.is_image
        yield each
    if not some:
        raise NothingNew


def _ledger(run: Run, state: State) -> str:
    """Of what this schedule has annotated with the same models and settings, in one dataset."""
    job, it = read_job(run.output), run.schedule
    asked = job.asked if job else looked_with(it)
    models = [each.sha256 for each in (asked.model, *asked.alternates)]
    place = [run.output, job.run] if job and it.into else []
    return ledger_uri(state.uri, it.name, models, asked.settings, *place)


def _parts(run: Run) -> set[ShardName]:
    """Those of a dataset that it added."""
    job = read_job(run.output)
    there = parts(Folder(run.output, job.run), job) if job else ()
    return {each for each in there if str(each).startswith(run.turn)}


def stands(run: Run, state: State) -> End | None:
    """How its job ended, if it has. What it added to a dataset has to be in it."""
    (job, folder), into = find_job(run.output), run.schedule.into
    if halt := halt_of(folder):
        return End("cancelled" if halt.kind == "cancelled" else "failed", halt.reason)
    merged = _is_in(run, folder, state) if into else is_merged(folder, job)
    record = read_run(folder) if merged else None
    if record is None:
        return None
    images, failures = record["images"], record["failures"]
    if into or run.schedule.incremental:
        turn = run.turn if into else ""
        images, failures = settle(_ledger(run, state), run.number, folder, turn)
    return End("finished-with-failures" if failures else "finished", "", images, failures)


def _is_in(run: Run, folder: Folder, state: State) -> bool:
    """Whether a dataset has what a run added: for what others add meanwhile, it is not waited."""
    there, record = folder.written(), read_run(folder)
    if record is None or _parts(run) - set(there):
        return False
    book, name = read_book(state, run.schedule), f"{run.number}.written.json"
    book.write(name, sum(map(len, there.values())))  # that many objects or more have to be in it
    return bool(record["run"] == folder.run and record["shard_objects"] >= book.read(name, int))


def cut_off(run: Run, state: State, reason: str) -> None:
    """Cancel its job. A dataset goes on: what it was to get is failures there, and comes again."""
    job, folder = find_job(run.output)
    if not run.schedule.into:
        cancel(folder, reason)
        return
    model = job.asked.model
    maker = ProducedBy(model.sha256, model.engine, "", model.build.precision, "", "")
    for part in _parts(run) - set(folder.written()):
        failures = tuple(
            Failure(each.id, shown(each.uri), each.file_name, *astuple(each.problem or LATE))
            for each in folder.read_plan(part)
        )
        with suppress(Exists):  # done in time after all
            put(folder.shard(part), encode(Shard(part, maker, (), (), failures)), create_only=True)
    settle(_ledger(run, state), run.number, folder, run.turn)


def _tell_all(it: Schedule, book: Book, now: datetime) -> None:
    """In their order: one that cannot be told now holds up the later ones. Where the word that it
    was told is lost, it is told again under the same key."""
    for number in range(max(1, book.last - KEPT + 1), book.last + 1):
        if f"{number}.end.json" in book.names and f"{number}.told.json" not in book.names:
            _tell(it.webhook, book.run(number), book.end(number))
            book.write(f"{number}.told.json", now)
    stalled = f"{book.last}.stalled.json"
    if it.webhook and book.running and stalled not in book.names:
        run = book.run(book.last)
        if _stands_still(book, run, now):
            reason = f"no shard was written for {STALLED_S / 60:.0f} minutes"
            _tell(it.webhook, run, End("stalled", reason))
            book.write(stalled, now)


def _stands_still(book: Book, run: Run, now: datetime) -> bool:
    name, (_, folder) = f"{run.number}.seen.json", find_job(run.output)
    before, since = book.read(name, tuple[int, datetime])
    shards = sum(map(len, folder.written().values()))
    if before != shards or since > now:
        put(book.at(name), encode((shards, now)))
        return False
    return (now - since).total_seconds() > STALLED_S


def _tell(url: str, run: Run, end: End) -> None:
    if not url or end.state in ("cancelled", "nothing-new"):
        return
    about = {"schedule": run.schedule.name, "nominal": stamp(run.nominal)}
    key = "/".join((*about.values(), end.state))
    about |= {"output": shown(run.output), **msgspec.to_builtins(end)}
    headers = {"Content-Type": "application/json", "Idempotency-Key": key}
    post(url, encode({"schema": 1, **about}), headers)
