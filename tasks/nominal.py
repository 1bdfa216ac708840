"""When a schedule is due: its nominal times, as pure functions of what it says and of a time.

All instants are aware and in UTC. A line of cron is about local time. One that does not exist, when
clocks go ahead, is the instant that follows from the offset before. One that comes twice, when they
go back, counts the first time only, save where the hour is every hour: then each real hour counts.
"""

import re
from collections.abc import Iterator
from contextlib import suppress
from datetime import date, datetime, time, timedelta, timezone
from functools import lru_cache
from itertools import product
from typing import NamedTuple
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from celery.schedules import ParseException, crontab_parser

UTC = timezone.utc
UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400}
FIELDS = {"minute": (60, 0), "hour": (24, 0), "day": (31, 1), "month": (12, 1), "weekday": (8, 0)}
REACH = 8 * 366  # days; leap days are at most so far apart


class Cron(NamedTuple):
    fields: tuple[frozenset[int], ...]  # as in FIELDS; Sunday is 0
    either: bool  # the day of the month or that of the week will do: both are restricted
    zone: ZoneInfo


Timing = int | Cron  # seconds between the multiples since the epoch, or a line of cron


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


def cron(line: str, zone: ZoneInfo) -> Cron:
    words = line.lower().split()
    if len(words) != len(FIELDS):
        raise ValueError("it takes five fields: minute, hour, day of month, month, day of week")
    *others, weekday = map(_field, words, FIELDS)
    either = "*" not in words[2] and "*" not in words[4]  # as cron has it
    return Cron((*others, frozenset(n % 7 for n in weekday)), either, zone)


def _field(word: str, name: str) -> frozenset[int]:
    one = "[0-9a-z]+" if name in ("month", "weekday") else "[0-9]+"
    part = rf"((\*|{one}-{one})(/[1-9][0-9]*)?|{one})"
    size, least = FIELDS[name]
    with suppress(ParseException, ValueError):
        if re.fullmatch(rf"{part}(,{part})*", word):  # Celery's parser overlooks what follows 1-5
            return frozenset(crontab_parser(size, least).parse(word))
    most = least + size - 1
    raise ValueError(f"its {name} {word!r} is not of {least} to {most}, as in 5, 1-3, */15 or 1,2")


def latest(timing: Timing, now: datetime) -> datetime | None:
    """The last nominal time up to and with `now`; None if there was none for eight years."""
    return _nearest(timing, now, -1)


def following(timing: Timing, now: datetime) -> Iterator[datetime]:
    """The nominal times after `now`, in order; they end where there is none for eight years."""
    at = _nearest(timing, now, +1)
    while at is not None:
        yield at
        at = _nearest(timing, at, +1)


def _nearest(timing: Timing, now: datetime, step: int) -> datetime | None:
    """Of a line of cron by local days, and one more than has any: where clocks change at midnight,
    times of two days may be mixed."""
    if isinstance(timing, int):
        return datetime.fromtimestamp((now.timestamp() // timing + (step > 0)) * timing, UTC)
    today = now.astimezone(timing.zone).date() - timedelta(days=step)

    def near(days: int) -> list[datetime]:
        times = _of_day(timing, today + timedelta(days=step * days))
        return [at for at in times if (at > now) == (step > 0)]

    for n in range(REACH):
        if found := near(n):
            found += near(n + 1)
            return min(found) if step > 0 else max(found)
    return None


@lru_cache(maxsize=4096)
def _of_day(line: Cron, day: date) -> frozenset[datetime]:
    minutes, hours, days, months, weekdays = line.fields
    fits = (day.day in days, day.isoweekday() % 7 in weekdays)
    if day.month not in months or not (any(fits) if line.either else all(fits)):
        return frozenset()
    folds = (0, 1) if len(hours) == 24 else (0,)
    clock = [time(*each, tzinfo=line.zone) for each in product(hours, minutes)]
    local = (datetime.combine(day, at.replace(fold=n)) for at in clock for n in folds)
    pairs = ((each, each.astimezone(UTC)) for each in local)
    # In a gap the second fold is an instant that the clocks never call so.
    return frozenset(at for each, at in pairs if not each.fold or at.astimezone(line.zone) == each)


def stamp(at: datetime) -> str:
    """An instant as {run} has it: 20261121T030000Z."""
    return at.astimezone(UTC).strftime("%Y%m%dT%H%M%SZ")
