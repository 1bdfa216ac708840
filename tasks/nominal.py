"""When a schedule is due: its nominal times, as functions of what it says and of a time.

All instants are aware and in UTC. A line of cron is about local time, and means what it does to
Debian's cron: where it begins with two fixed fields, what clocks skip is due when they have, and
what comes twice counts the first time; with a * in one of them it goes by what clocks say.
"""

import re
from collections.abc import Iterator
from contextlib import suppress
from datetime import datetime, timedelta, timezone
from itertools import takewhile
from typing import NamedTuple
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from cronsim import CronSim, CronSimError

UTC = timezone.utc
UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400}


class Cron(NamedTuple):
    line: str
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
    if len(line.split()) != 5:
        raise ValueError("it takes five fields: minute, hour, day of month, month, day of week")
    try:
        CronSim(line, datetime.now(zone))
    except CronSimError as exc:
        why = f"{line!r} has a {str(exc).lower()}"
        raise ValueError(f"{why}; it takes what crontab(5) does, as in 30 2 * * mon-fri") from None
    return Cron(line, zone)


def latest(timing: Timing, now: datetime) -> datetime | None:
    """The last nominal time up to and with `now`; None if there was none for fifty years."""
    if isinstance(timing, int):
        return datetime.fromtimestamp(now.timestamp() // timing * timing, UTC)
    after = now.replace(microsecond=0) + timedelta(seconds=1)
    found = next(CronSim(timing.line, after.astimezone(timing.zone), reverse=True), None)
    if found is None:
        return None
    at = found.astimezone(UTC)  # backwards, it overlooks some times near a change of the clocks
    return max([at, *takewhile(lambda coming: coming <= now, following(timing, at))])


def following(timing: Timing, now: datetime) -> Iterator[datetime]:
    """The nominal times after `now`, in order; they end where there is none for fifty years."""
    if isinstance(timing, int):
        at = now.timestamp() // timing * timing
        while True:
            at += timing
            yield datetime.fromtimestamp(at, UTC)
    with suppress(OverflowError):  # the year 9999
        for each in CronSim(timing.line, now.astimezone(timing.zone)):
            if each > now:  # in an hour that comes twice it takes the second for the first
                yield each.astimezone(UTC)


def stamp(at: datetime) -> str:
    """An instant as {run} has it: 20261121T030000Z."""
    return at.astimezone(UTC).strftime("%Y%m%dT%H%M%SZ")
