"""The runs of schedules, over a simulated year and one by one; the state folder is a real one."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from random import Random
from typing import Any
from zoneinfo import ZoneInfo

import msgspec
import pytest

from storage import delete, put
from storage.errors import Unavailable
from tasks import runs
from tasks.broker import SubmitMessage, make_app
from tasks.folder import Folder, JobError, read_job
from tasks.markers import cancel as cancel_job
from tasks.markers import halt_of, stop
from tasks.runs import Book, End, Run, look_at, place_of, read_book, tick
from tasks.schedules import UTC, Schedule, stamp
from tasks.state import Fleet, State
from tests.graphs import write_model
from tests.pictures import write_folder
from tests.schedules import toml

NIGHTLY = Schedule(
    name="nightly",
    cron="30 2 * * *",
    timezone="Europe/Zurich",
    inputs=("s3://bucket/new/",),
    model="shapes",
    output="s3://bucket/{name}/{run}",
)
NEW_YEAR = datetime(2026, 1, 1, tzinfo=UTC)


def fleet_of(folder: Path, allow: Callable[[SubmitMessage], None] = lambda it: None) -> Fleet:
    return Fleet(make_app("memory://"), State(str(folder / "state")), allow, lambda uri: "")


def changed(**fields: Any) -> Schedule:
    return msgspec.structs.replace(NIGHTLY, **fields)


@dataclass
class World:
    """Jobs that take their time, in place of a fleet's."""

    takes: Callable[[datetime], timedelta] = lambda nominal: timedelta(minutes=5)
    now: datetime = NEW_YEAR  # as it truly is
    began: dict[str, datetime] = field(default_factory=dict)
    nominal: list[datetime] = field(default_factory=list)
    overlapped: bool = False

    def begin(self, run: Run, fleet: Fleet) -> None:
        if run.output not in self.began:
            running = [out for out in self.began if not self._over(out)]
            self.overlapped |= bool(running)
            self.began[run.output] = self.now
            self.nominal.append(run.nominal)

    def stands(self, run: Run, state: State) -> End | None:
        return End("finished") if self._over(run.output) else None

    def _over(self, output: str) -> bool:
        nominal = self.nominal[list(self.began).index(output)]
        return self.now >= self.began[output] + self.takes(nominal)


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch) -> World:
    made = World()
    monkeypatch.setattr(runs, "begin", made.begin)
    monkeypatch.setattr(runs, "stands", made.stands)
    monkeypatch.setattr(runs, "read_job", lambda uri: "a job")
    monkeypatch.setattr(runs, "KEPT", 12)
    return made


def nights(first: datetime, days: int) -> list[datetime]:
    """02:30 in Zurich of each day; on one day in March clocks skip it, to 03:00."""
    zone = ZoneInfo("Europe/Zurich")
    made = []
    for day in range(-1, days):
        local = (first + timedelta(days=day)).date()
        at = (3, 0) if local.isoformat() == "2026-03-29" else (2, 30)
        made.append(datetime(local.year, local.month, local.day, *at, tzinfo=zone))
    return [each.astimezone(UTC) for each in made]


def expected(
    looks: list[tuple[datetime, datetime]], nominal: list[datetime], world: World
) -> list[datetime]:
    """In the words of the rule: no run before the last is over; of those that came, the latest."""
    over, running, last, found = looks[0][0], False, looks[0][1], []
    for truly, clock in looks:
        if running:
            running = truly < over
            continue
        come = [each for each in nominal if last < each <= clock]
        if come:
            last, running = come[-1], True
            found.append(last)
            over = truly + world.takes(last)
    return found


def year_of_looks(seed: int, wrong_clocks: bool) -> list[tuple[datetime, datetime]]:
    """True times and what a clock says at them: two beats, each away for days now and then."""
    random, truly, looks = Random(seed), NEW_YEAR, [(NEW_YEAR, NEW_YEAR)]
    away = [NEW_YEAR, NEW_YEAR]
    step, until = timedelta(0), NEW_YEAR
    while truly < NEW_YEAR + timedelta(days=365):
        truly += timedelta(minutes=random.randint(30, 600))
        if wrong_clocks and truly > until:
            hours = random.choice([0, 0, 0, -30, -3, 3, 20])
            step, until = timedelta(hours=hours), truly + timedelta(days=random.randint(1, 9))
        for beat in (0, 1):
            if random.random() < 0.01:
                away[beat] = truly + timedelta(hours=random.randint(1, 200))
            if truly >= away[beat]:
                skew = timedelta(seconds=random.randint(-20, 20))
                looks.append((truly, truly + step + skew))
    return looks


@pytest.mark.parametrize("wrong_clocks", [False, True])
@pytest.mark.parametrize("slow", [False, True])
def test_a_year(tmp_path: Path, world: World, slow: bool, wrong_clocks: bool) -> None:
    """With changes of the clocks, restarts, two beats, runs that take days, clocks that step."""
    if slow:
        world.takes = lambda nominal: timedelta(hours=Random(stamp(nominal)).choice([1, 5, 30, 70]))
    looks = year_of_looks(7, wrong_clocks)
    fleet = fleet_of(tmp_path)
    for truly, clock in looks:
        world.now = truly
        for _ in look_at(NIGHTLY, fleet, clock):
            pass
    nominal = nights(NEW_YEAR, 370)
    assert world.nominal == expected(looks, nominal, world)
    assert len(set(world.nominal)) == len(world.nominal)
    assert not world.overlapped
    assert len(world.nominal) > (100 if slow else 270)
    assert len(list((tmp_path / "state/schedules/nightly").glob("*"))) < 5 * 13


def test_a_quiet_year_has_a_run_each_night(tmp_path: Path, world: World) -> None:
    fleet = fleet_of(tmp_path)
    for hour in range(0, 365 * 24, 3):
        world.now = NEW_YEAR + timedelta(hours=hour)
        list(look_at(NIGHTLY, fleet, world.now))
    assert world.nominal == [each for each in nights(NEW_YEAR, 365) if each > NEW_YEAR]
    assert len(world.nominal) == 365


def test_beats_at_the_same_moment_make_one_run(
    tmp_path: Path, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of half of them the clock is ahead by one nominal time, so that they want another run."""
    fleet, every = fleet_of(tmp_path), changed(cron="", every="10m")
    list(look_at(every, fleet, NEW_YEAR))
    barrier, lock, failed = threading.Barrier(4), threading.Lock(), []
    begin = world.begin

    def locked(run: Run, fleet: Fleet) -> None:
        with lock:
            begin(run, fleet)

    monkeypatch.setattr(runs, "begin", locked)

    def beat(ahead: timedelta) -> None:
        try:
            for n in range(60):
                barrier.wait(30)
                world.now = NEW_YEAR + timedelta(minutes=10 * n, seconds=1)
                list(look_at(every, fleet, world.now + ahead))
        except Exception as exc:
            failed.append(exc)
            raise

    ahead = [timedelta(minutes=10 * (n % 2)) for n in range(4)]
    threads = [threading.Thread(target=beat, args=(each,)) for each in ahead]
    for each in threads:
        each.start()
    for each in threads:
        each.join(60)
    assert not failed
    assert world.nominal == sorted(set(world.nominal))
    assert len(world.nominal) > 10
    assert not world.overlapped


def test_a_beat_that_was_paused_makes_no_run(
    tmp_path: Path, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It looked, was away for long, and would go on where it was."""
    fleet = fleet_of(tmp_path)
    day = timedelta(days=1)
    list(look_at(NIGHTLY, fleet, NEW_YEAR))
    world.now = NEW_YEAR + day
    list(look_at(NIGHTLY, fleet, world.now))
    list(look_at(NIGHTLY, fleet, world.now + day / 4))
    for away in (3, 60):  # days: of the second, what it saw is forgotten
        before, old = len(world.nominal), read_book(fleet.state, NIGHTLY)
        then = world.now + day
        for _ in range(away * 2):
            world.now += day / 2
            list(look_at(NIGHTLY, fleet, world.now))
        assert len(world.nominal) > before
        made, seen = len(world.nominal), [old]

        def stale(state: State, schedule: Schedule, seen: list[Book] = seen) -> Book:
            return seen.pop() if seen else read_book(state, schedule)

        monkeypatch.setattr(runs, "read_book", stale)
        if away < 10:  # its own record is there yet, so that it sees how far others are
            list(look_at(NIGHTLY, fleet, then))
        else:
            with pytest.raises(FileNotFoundError):
                list(look_at(NIGHTLY, fleet, then))
        monkeypatch.setattr(runs, "read_book", read_book)
        assert len(world.nominal) == made


def test_a_beat_that_was_paused_as_it_made_a_run(
    tmp_path: Path, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its number is free again when it goes on, for what was there is long forgotten."""
    fleet, then = fleet_of(tmp_path), NEW_YEAR + timedelta(days=1)
    list(look_at(NIGHTLY, fleet, NEW_YEAR))
    write = Book.write

    def paused(book: Book, name: str, value: object) -> None:
        monkeypatch.setattr(Book, "write", write)
        world.now += timedelta(days=3)  # so that nobody else makes the run that it wants
        for _ in range(120):
            world.now += timedelta(hours=12)
            list(look_at(NIGHTLY, fleet, world.now))
        write(book, name, value)

    monkeypatch.setattr(Book, "write", paused)
    assert "1.json" not in read_book(fleet.state, NIGHTLY).names
    list(look_at(NIGHTLY, fleet, then))
    assert len(world.nominal) > 50
    assert world.nominal == sorted(set(world.nominal))
    assert "1.json" not in read_book(fleet.state, NIGHTLY).names


def test_a_schedule_does_not_run_its_past(tmp_path: Path, world: World) -> None:
    fleet = fleet_of(tmp_path)
    for hours in (0, 1, 2):
        list(look_at(NIGHTLY, fleet, NEW_YEAR + timedelta(hours=12 + hours)))
    assert world.nominal == []
    list(look_at(NIGHTLY, fleet, NEW_YEAR + timedelta(hours=26)))
    assert [stamp(each) for each in world.nominal] == ["20260102T013000Z"]


def test_a_run_at_once(tmp_path: Path, world: World) -> None:
    """It comes on top; one that was due is what it is then."""
    fleet, noon = fleet_of(tmp_path), NEW_YEAR + timedelta(hours=12, seconds=7)
    said = list(look_at(NIGHTLY, fleet, noon, at_once=True))
    assert said == [
        "schedule nightly: the run of 20260101T120007Z begins in"
        " s3://bucket/nightly/20260101T120007Z"
    ]
    list(look_at(NIGHTLY, fleet, noon + timedelta(hours=1), at_once=True))
    assert len(world.nominal) == 1  # that of noon is seen to be over
    night = noon + timedelta(hours=15)
    world.now = night
    list(look_at(NIGHTLY, fleet, night))
    list(look_at(NIGHTLY, fleet, night, at_once=True))
    assert [stamp(each) for each in world.nominal] == ["20260101T120007Z", "20260102T013000Z"]


def test_the_later_run_is_made_later(tmp_path: Path, world: World) -> None:
    """Also in the same second, and by a clock that was set back: of a dataset its turn counts."""
    world.takes, fleet = lambda nominal: timedelta(0), fleet_of(tmp_path)
    for now in (NEW_YEAR, NEW_YEAR, NEW_YEAR - timedelta(hours=3)):
        list(look_at(NIGHTLY, fleet, now, at_once=True))
        list(look_at(NIGHTLY, fleet, now))
    book = read_book(fleet.state, NIGHTLY)
    turns = [book.run(number).turn for number in (1, 2, 3)]
    assert turns == sorted(set(turns))


@pytest.fixture
def card(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(write_model(tmp_path_factory.mktemp("model"), "b"))


@dataclass
class Case:
    """One schedule with real jobs, planned in folders, and nobody who works them off."""

    fleet: Fleet
    schedule: Schedule
    now: datetime = NEW_YEAR

    def look(self, hours: float = 0) -> list[str]:
        self.now += timedelta(hours=hours)
        return list(look_at(self.schedule, self.fleet, self.now))

    @property
    def book(self) -> Book:
        return read_book(self.fleet.state, self.schedule)

    @property
    def run(self) -> Run:
        return self.book.run(self.book.last)

    @property
    def folder(self) -> Folder:
        job = read_job(self.run.output)
        assert job is not None
        return Folder(self.run.output, job.run)

    def end(self) -> End:
        return self.book.end(self.book.last)


@pytest.fixture
def case(tmp_path: Path, card: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Case]:
    photos = write_folder(tmp_path / "photos", 3)
    made = changed(
        inputs=(str(photos),), model=card, output=str(tmp_path / "out/{run}"), budget="6h"
    )
    case = Case(fleet_of(tmp_path), made)
    case.look()
    case.look(24)
    yield case
    case.fleet.app.close()


def test_a_run_is_a_job(case: Case) -> None:
    job = read_job(case.run.output)
    assert job is not None
    assert job.counts.items == 3
    assert case.run.output.endswith("/out/20260101T013000Z")
    assert case.look(1) == []
    assert case.book.running


def test_a_submit_that_was_lost_is_done_again(case: Case) -> None:
    delete(f"{case.run.output}/job.json")
    case.look(1)
    assert read_job(case.run.output) is not None
    assert case.book.last == 1


def test_a_job_that_a_person_cancels(case: Case) -> None:
    cancel_job(case.folder)
    assert "is cancelled: a person cancelled it" in case.look(1)[0]
    assert case.end().state == "cancelled"
    assert case.look(24)[0].endswith(f"begins in {case.run.output}")


def test_a_job_that_a_cause_stopped(case: Case) -> None:
    stop(case.folder, "s3://bucket is a bucket that does not exist")
    case.look(1)
    assert case.end() == End("failed", "s3://bucket is a bucket that does not exist")


def test_a_run_over_its_budget_is_cancelled_and_reported(case: Case) -> None:
    assert case.look(5.9) == []
    assert "longer than its budget of 6h" in case.look(0.2)[0]
    halt = halt_of(case.folder)
    assert halt is not None
    assert (halt.kind, halt.reason) == ("cancelled", "it took longer than its budget of 6h")
    assert case.end() == End("failed", halt.reason)


def test_a_look_that_was_killed_after_it_cancelled(case: Case) -> None:
    cancel_job(case.folder, "it took longer than its budget of 6h")
    case.look(6.1)
    assert case.end() == End("failed", "it took longer than its budget of 6h")


def test_the_next_run_waits_and_is_the_latest(case: Case) -> None:
    case.schedule = msgspec.structs.replace(case.schedule, budget="")
    delete(case.book.at("1.json"))
    record = Run(1, NEW_YEAR, case.schedule.output_of(NEW_YEAR), NEW_YEAR, case.schedule)
    put(case.book.at("1.json"), runs.encode(record))
    for _ in range(5):
        case.look(24)
    assert case.book.last == 1
    cancel_job(case.folder)
    case.look(1)
    case.look(1)
    assert (case.book.last, stamp(case.run.nominal)) == (2, "20260107T013000Z")


def test_a_run_that_cannot_be_planned_has_failed(case: Case) -> None:
    nothing = msgspec.structs.replace(case.schedule, inputs=("/nowhere/",))
    case.schedule = nothing
    cancel_job(case.folder)
    case.look(1)
    case.look(24)
    assert case.end() == End("failed", "no inputs match /nowhere/")


def test_a_job_of_somebody_else_is_not_taken_for_its_own(case: Case) -> None:
    cancel_job(case.folder)
    case.look(1)
    night = datetime(2026, 1, 2, 1, 30, tzinfo=UTC)
    there = read_job(case.run.output)
    assert there is not None
    theirs = msgspec.structs.replace(there.asked, inputs=("/other/",))
    job = msgspec.structs.replace(there, asked=theirs)
    put(f"{case.schedule.output_of(night)}/job.json", runs.encode(job))
    case.look(24)
    assert case.end().state == "failed"
    assert "holds a job with other inputs" in case.end().reason


def test_limits_of_a_worker_hold(case: Case) -> None:
    def deny(message: SubmitMessage) -> None:
        raise JobError(f"{message.output} is not below any of this worker's MASKMILL_OUTPUT_ROOTS")

    cancel_job(case.folder)
    case.look(1)
    case.fleet = case.fleet._replace(allow=deny)
    case.look(24)
    assert case.end().state == "failed"
    assert "MASKMILL_OUTPUT_ROOTS" in case.end().reason
    assert read_job(case.run.output) is None


def test_a_store_that_is_away_is_tried_again(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    """The look ends with a sentence; a run whose inputs' store is away has not failed."""
    cancel_job(case.folder)
    case.look(1)

    def away(*_: Any, **__: Any) -> None:
        raise Unavailable("s3://bucket")

    real = runs.submit
    monkeypatch.setattr(runs, "submit", away)
    put(place_of(case.fleet.state), toml(case.schedule))
    case.now += timedelta(days=1)
    begins, away_now = tick(case.fleet, case.now)
    assert begins.startswith("schedule nightly: the run of 20260102T013000Z begins")
    assert away_now == (
        "schedule nightly: s3://bucket could not be reached: its store does not answer;"
        " the next look tries again"
    )
    late = case.now + timedelta(hours=7)
    with monkeypatch.context() as later:
        later.setattr(Book, "write", lambda *_: None)
        (failed,) = tick(case.fleet, late)
    assert "is failed: it could not begin within its budget of 6h: s3://bucket" in failed
    monkeypatch.setattr(runs, "submit", real)
    assert list(tick(case.fleet, case.now)) == []
    assert read_job(case.run.output) is not None
    monkeypatch.setattr(runs, "get", away)
    (said,) = tick(case.fleet, case.now)
    assert said.startswith("no schedule can be looked after: s3://bucket could not be reached")


def test_one_that_fails_keeps_none_of_the_others_back(tmp_path: Path, world: World) -> None:
    fleet = fleet_of(tmp_path)
    others = changed(name="a"), changed(name="b", output="s3://bucket/b/{run}")
    put(place_of(fleet.state), toml(*others))
    put(read_book(fleet.state, others[0]).at("0.json"), b"no JSON")
    list(tick(fleet, NEW_YEAR))
    said = list(tick(fleet, NEW_YEAR + timedelta(days=1)))
    assert "a/0.json is damaged" in said[0]
    assert "schedule b: the run of" in said[1]
    put(place_of(fleet.state), b"[[schedule]]")
    assert "line 1: name: Object missing" in next(iter(tick(fleet, NEW_YEAR)))
