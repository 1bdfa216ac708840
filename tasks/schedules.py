"""schedules.toml: what runs when, as frozen values. What is wrong is named with line and field.

All instants are aware and in UTC. A line of cron is about local time, and means what it does to
Debian's cron: where it begins with two fixed fields, what clocks skip is due when they have, and
what comes twice counts the first time; with a * in one of them it goes by what clocks say.
"""

import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from datetime import datetime, timedelta, timezone
from itertools import islice, takewhile
from typing import Annotated, Any
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import msgspec
from cronsim import CronSim, CronSimError

from storage import parse, shown
from storage.http_requests import webhook_rules
from tasks.broker import SubmitMessage
from tasks.environment import check_target
from tasks.events import check_queue
from tasks.inputs import InputError
from tasks.opening import asked_for, sources
from tasks.records import Asked, Routing, Sampling, Selection, Wishes
from tasks.shelf import find_models
from tasks.submit import options_as

UTC = timezone.utc
UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400}
LOOKED_AT = 400  # nominal times of which no two may have the same output
_TOGETHER = ("events", "into"), ("drop_vanished", "into"), ("drop_vanished", "inputs")
_FROM = datetime(2026, 1, 1, tzinfo=UTC)  # whatever today is, a file is right or wrong
_TABLE = re.compile(r"(?m)^[ \t]*\[\[\s*schedule\s*\]\]")
_PLACE = re.compile(r"\$\.schedule\[(\d+)\](?:\.(\w+))?")  # as msgspec says where it is
Word = Annotated[str, msgspec.Meta(min_length=1)]
Name = Annotated[str, msgspec.Meta(pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]{0,63}\Z")]  # of a folder


class Schedule(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    name: Name
    model: Word
    cron: str = ""
    every: str = ""
    timezone: Word = "UTC"  # of `cron` and of {date}
    inputs: tuple[str, ...] = ()
    events: str = ""  # a queue in place of inputs
    output: str = ""  # a template
    into: str = ""  # a dataset that grows
    incremental: bool = False
    drop_vanished: bool = False
    budget: str = ""
    webhook: str = ""
    options: dict[str, Any] = {}  # of `maskmill submit`, with underscores

    def output_of(self, nominal: datetime) -> str:
        """Where a run's job is: {date} is the nominal day in the schedule's zone, {run} in UTC."""
        if self.into:
            return self.into
        day = nominal.astimezone(zone_of(self.timezone)).date().isoformat()
        output = self.output.replace("{name}", self.name).replace("{date}", day)
        return output.replace("{run}", stamp(nominal))

    def message(self, output: str) -> SubmitMessage:
        """What a client would send to have it done once."""
        told = msgspec.convert(self, SubmitMessage, from_attributes=True)
        return msgspec.structs.replace(told, output=output)


class _File(msgspec.Struct, forbid_unknown_fields=True):
    schedule: tuple[Schedule, ...] = ()


def parse_schedules(data: bytes, file: str, *, here: bool = False) -> tuple[Schedule, ...]:
    """The schedules in a file of this name; `here`: also held against this machine's models."""
    try:
        made = msgspec.toml.decode(data, type=_File).schedule
        wrong = next(_faults(made, here), None)
    except msgspec.ValidationError as exc:
        place, unknown = _PLACE.search(str(exc)), re.search(r"field `(\w+)`", str(exc))
        field = (place and place[2]) or (unknown and unknown[1]) or "schedule"
        wrong = int(place[1]) if place else 0, field, str(exc)
    except (UnicodeDecodeError, msgspec.DecodeError) as exc:
        raise InputError(f"{file} cannot be read: {exc}") from exc
    if wrong:
        line = _line(data.decode(), *wrong[:2])
        raise InputError(f"{file}, line {line}: {wrong[1]}: {wrong[2]}")
    return made


def _line(text: str, number: int, field: str) -> int:
    """Where a field of the n-th table stands, or else where that begins."""
    starts = [each.start() for each in _TABLE.finditer(text)] or [0]
    places = [*starts, *[len(text)] * (number + 2)]
    pattern = re.compile(rf"(?m)^[ \t]*(\[\s*schedule\s*\.\s*)?{field}\b")
    found = pattern.search(text, places[number], places[number + 1])
    return text.count("\n", 0, found.start() if found else places[number]) + 1


def _faults(made: Sequence[Schedule], here: bool) -> Iterator[tuple[int, str, str]]:
    """What is wrong with schedules: of which, the field, and why."""
    for number, it in enumerate(made):
        for one, other in (("cron", "every"), ("output", "into"), ("inputs", "events")):
            if bool(getattr(it, one)) == bool(getattr(it, other)):
                yield number, one, f"exactly one of {one} and {other} has to be given"
        for field, check in _CHECKS.items():
            if getattr(it, field) and (here or field not in _HERE):
                try:
                    check(it)
                except Exception as exc:  # noqa: BLE001  whoever reads the field says what it must be
                    yield number, field, str(exc)
        for field, needed in _TOGETHER:
            if getattr(it, field) and not getattr(it, needed):
                yield number, field, f"it goes with {needed}"
        for each in made[:number]:
            if it.name == each.name:
                yield number, "name", "another schedule has it"


def interval(text: str) -> int:
    """The seconds of 90s, 15m, 6h or 1d."""
    if not re.fullmatch("[1-9][0-9]{0,6}[smhd]", text):
        raise ValueError("it takes a whole number of s, m, h or d, as in 15m")
    return int(text[:-1]) * UNITS[text[-1]]


def zone_of(name: str) -> ZoneInfo:
    try:
        return ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError):  # a folder of zones is the last
        raise ValueError(f"{name!r} is no time zone; they have names as Europe/Zurich") from None


def stamp(at: datetime) -> str:
    """An instant as {run} has it: 20261121T030000Z."""
    return at.astimezone(UTC).strftime("%Y%m%dT%H%M%SZ")


def latest(it: Schedule, now: datetime) -> datetime:
    """The last nominal time up to and with `now`."""
    if it.every:
        every = interval(it.every)
        return datetime.fromtimestamp(now.timestamp() // every * every, UTC)
    after = now.replace(microsecond=0) + timedelta(seconds=1)
    found = next(CronSim(it.cron, after.astimezone(zone_of(it.timezone)), reverse=True))
    at = found.astimezone(UTC)  # backwards, it overlooks some times near a change of the clocks
    return max([at, *takewhile(lambda coming: coming <= now, following(it, at))])


def following(it: Schedule, now: datetime) -> Iterator[datetime]:
    """The nominal times after `now`, in order; they end where there is none for fifty years."""
    if it.every:
        at, every = latest(it, now), timedelta(seconds=interval(it.every))
        while True:
            at += every
            yield at
    with suppress(OverflowError):  # the year 9999
        for each in CronSim(it.cron, now.astimezone(zone_of(it.timezone))):
            if each > now:  # in an hour that comes twice it takes the second for the first
                yield each.astimezone(UTC)


def check_cron(it: Schedule) -> None:
    if len(it.cron.split()) != 5:
        raise ValueError("it takes five fields: minute, hour, day of month, month, day of week")
    try:
        if next(CronSim(it.cron, _FROM.astimezone(zone_of(it.timezone))), None) is None:
            raise ValueError("such a day never comes")
    except CronSimError as exc:
        why = f"{it.cron!r} has a {str(exc).lower()}"
        raise ValueError(f"{why}; it takes what crontab(5) does, as in 30 2 * * mon-fri") from None


def _check_places(*words: str) -> None:
    for word in words:
        parse(word)
        if "://" not in word and not word.startswith("/"):
            raise ValueError(f"{shown(word)} is neither a URI nor a path from the root")


def _check_into(it: Schedule) -> None:
    _check_places(it.into)
    if "{" in it.into:
        raise ValueError("it is one dataset for all runs, with nothing between braces")


def _check_output(it: Schedule) -> None:
    _check_places(it.output)
    outputs = [it.output_of(at) for at in islice(following(it, _FROM), LOOKED_AT)]
    if "{" in outputs[0]:
        raise ValueError("between braces it takes {date}, {name} and {run}")
    if len(set(outputs)) < len(outputs):
        raise ValueError("two runs would have the same; give {run}, or {date} for one a day")


def _asked(it: Schedule) -> Wishes:
    if it.options.get("overwrite"):
        raise ValueError("overwrite would start a run anew that was cut off")
    wished: Wishes
    chosen = Sampling if it.into else Selection
    _, routing, wished = options_as(it.message("out"), chosen, Routing, Wishes)
    check_target(routing.target)
    return wished


def looked_with(it: Schedule) -> Asked:
    """What a run is to use: models as this machine has them, and settings."""
    wished = _asked(it)
    models = find_models(it.model, wished.runtime, wished.precision, wished.mixed)
    return asked_for(sources((), Selection()), models, wished, "any")


_HERE = ("model", "webhook")
_CHECKS: dict[str, Callable[[Schedule], object]] = {
    "timezone": lambda it: zone_of(it.timezone),
    "cron": check_cron,
    "every": lambda it: interval(it.every),
    "inputs": lambda it: _check_places(*it.inputs),
    "events": lambda it: check_queue(it.events),
    "into": _check_into,
    "output": _check_output,
    "budget": lambda it: interval(it.budget),
    "options": _asked,
    "model": looked_with,
    "webhook": lambda it: webhook_rules(it.webhook),
}
