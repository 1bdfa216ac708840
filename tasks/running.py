"""One run of a schedule: how it is begun, how it stands, and how it is cut off."""

import json
from collections.abc import Iterable, Iterator
from contextlib import suppress
from datetime import datetime
from functools import partial

import msgspec
from msgspec.structs import asdict, astuple

from storage import Exists, get, join, put, shown
from tasks.events import drain
from tasks.folder import Folder, ShardName, find_job, parts, read_job, read_run
from tasks.inputs import Found
from tasks.ledger import compared, ledger_uri, settle
from tasks.markers import cancel, halt_of, look_for_halt
from tasks.merge import is_merged
from tasks.nominal import stamp
from tasks.open_jobs import append, append_inputs
from tasks.records import Failure, Problem, ProducedBy, Routing, Selection, Shard, Wishes, encode
from tasks.schedules import Schedule, looked_with
from tasks.segments import key_of
from tasks.state import Fleet, State
from tasks.submit import options_as, submit

LATE = Problem("worker", "cancelled", "the run that was to annotate it took longer than its budget")


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
    if job is None:
        models, settings = looked_with(it)
    else:
        models, settings = [job.asked.model, *job.asked.alternates], job.asked.settings
    place = [run.output, job.run] if job and it.into else []
    return ledger_uri(state.uri, it.name, [each.sha256 for each in models], settings, *place)


def _parts(run: Run) -> set[ShardName]:
    """Those of a dataset that it added."""
    job = read_job(run.output)
    there = parts(Folder(run.output, job.run), job) if job else ()
    return {each for each in there if str(each).startswith(run.turn)}


def stands(run: Run, state: State) -> End | None:
    """How its job ended, if it has. What it added to a dataset has to be in it."""
    job, folder = find_job(run.output)
    if halt := halt_of(folder):
        return End("cancelled" if halt.kind == "cancelled" else "failed", halt.reason)
    merged = _is_in(run, folder, state) if run.schedule.into else is_merged(folder, job)
    record = read_run(folder) if merged else None
    if record is None:
        return None
    images, failures = record["images"], record["failures"]
    if run.schedule.into or run.schedule.incremental:
        images, failures = _settle(run, folder, state)
    return End("finished-with-failures" if failures else "finished", "", images, failures)


def _is_in(run: Run, folder: Folder, state: State) -> bool:
    """Whether a dataset has what a run added: for what others add meanwhile, it is not waited."""
    there, record = folder.written(), read_run(folder)
    if record is None or _parts(run) - set(there):
        return False
    uri = join(state.uri, f"schedules/{run.schedule.name}/{run.number}.written.json")
    with suppress(Exists):  # that many objects or more have to be in it
        put(uri, encode(sum(map(len, there.values()))), create_only=True)
    return bool(record["run"] == folder.run and record["shard_objects"] >= json.loads(get(uri)))


def _settle(run: Run, folder: Folder, state: State) -> tuple[int, int]:
    return settle(_ledger(run, state), run.number, folder, run.turn if run.schedule.into else "")


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
    _settle(run, folder, state)
