"""When schedules are due, against tables and against a clock that is read minute by minute."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime, timedelta
from itertools import islice, pairwise, takewhile
from zoneinfo import ZoneInfo

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from tasks.schedules import UTC, Schedule, check_cron, following, interval, latest, stamp, zone_of

ZURICH = ZoneInfo("Europe/Zurich")
DAYS = ("sun", "mon", "tue", "wed", "thu", "fri", "sat")


def at(text: str) -> datetime:
    return datetime.fromisoformat(text).astimezone(UTC)


def cron(line: str, zone: str) -> Schedule:
    made = Schedule(name="nightly", model="shapes", cron=line, timezone=zone)
    check_cron(made)
    return made


def every(text: str) -> Schedule:
    return Schedule(name="often", model="shapes", every=text)


@pytest.mark.parametrize(
    ("line", "zone", "after", "expected"),
    [
        ("30 2 * * *", "Europe/Zurich", "2026-03-28T00:00+01:00",
         ["2026-03-28T02:30+01:00", "2026-03-29T03:00+02:00", "2026-03-30T02:30+02:00"]),
        ("30 2 * * *", "Europe/Zurich", "2026-10-24T12:00+02:00",
         ["2026-10-25T02:30+02:00", "2026-10-26T02:30+01:00"]),
        ("30 * * * *", "Europe/Zurich", "2026-10-25T01:40+02:00",
         ["2026-10-25T02:30+02:00", "2026-10-25T02:30+01:00", "2026-10-25T03:30+01:00"]),
        ("30 * * * *", "Europe/Zurich", "2026-03-29T01:00+01:00",
         ["2026-03-29T01:30+01:00", "2026-03-29T03:30+02:00", "2026-03-29T04:30+02:00"]),
        ("30 1-3 * * *", "Europe/Zurich", "2026-10-25T00:00+02:00",
         ["2026-10-25T01:30+02:00", "2026-10-25T02:30+02:00", "2026-10-25T03:30+01:00"]),
        ("0 1 * * *", "America/New_York", "2026-10-31T12:00-04:00",
         ["2026-11-01T01:00-04:00", "2026-11-02T01:00-05:00"]),
        ("15 2 * * *", "America/New_York", "2026-03-08T00:00-05:00",
         ["2026-03-08T03:00-04:00", "2026-03-09T02:15-04:00"]),
        ("15 2 * * *", "Australia/Lord_Howe", "2026-10-03T12:00+10:30",
         ["2026-10-04T02:30+11:00", "2026-10-05T02:15+11:00"]),
        ("45 1 * * *", "Australia/Lord_Howe", "2026-04-04T12:00+11:00",
         ["2026-04-05T01:45+11:00", "2026-04-06T01:45+10:30"]),
        ("0 * * * *", "Australia/Lord_Howe", "2026-10-04T00:30+10:30",
         ["2026-10-04T01:00+10:30", "2026-10-04T03:00+11:00"]),
        # Until 2011 clocks there went back from one minute past midnight.
        ("0,30 * * * *", "America/St_Johns", "2010-11-06T23:30-02:30",
         ["2010-11-07T00:00-02:30", "2010-11-06T23:30-03:30", "2010-11-07T00:00-03:30"]),
        ("30 0 * * *", "Africa/Cairo", "2026-04-23T12:00+02:00",
         ["2026-04-24T01:00+03:00", "2026-04-25T00:30+03:00"]),
        ("0 12 30 12 *", "Pacific/Apia", "2011-01-01T00:00-10:00",
         ["2011-12-31T00:00+14:00", "2012-12-30T12:00+14:00"]),
        ("0 0 29 2 *", "UTC", "2026-01-01T00:00+00:00",
         ["2028-02-29T00:00+00:00", "2032-02-29T00:00+00:00"]),
        ("0 0 29 2 *", "UTC", "2096-03-01T00:00+00:00", ["2104-02-29T00:00+00:00"]),
        ("0 0 13 * fri", "UTC", "2026-11-07T00:00+00:00",
         ["2026-11-13T00:00+00:00", "2026-11-20T00:00+00:00", "2026-11-27T00:00+00:00",
          "2026-12-04T00:00+00:00", "2026-12-11T00:00+00:00", "2026-12-13T00:00+00:00"]),
        ("0 0 */2 * mon", "UTC", "2026-11-01T00:00+00:00",
         ["2026-11-09T00:00+00:00", "2026-11-23T00:00+00:00"]),
        ("0 12 * * 5-7", "UTC", "2026-11-19T00:00+00:00",
         ["2026-11-20T12:00+00:00", "2026-11-21T12:00+00:00", "2026-11-22T12:00+00:00",
          "2026-11-27T12:00+00:00"]),
        ("*/20 9,17 * jan-feb mon-fri", "UTC", "2026-02-27T17:30+00:00",
         ["2026-02-27T17:40+00:00", "2027-01-01T09:00+00:00"]),
    ],
)  # fmt: skip
def test_a_line_of_cron(line: str, zone: str, after: str, expected: list[str]) -> None:
    found = list(islice(following(cron(line, zone), at(after)), len(expected)))
    assert found == [at(text) for text in expected]
    for one, other in pairwise(found):
        timing = cron(line, zone)
        assert latest(timing, other) == other
        assert latest(timing, other + timedelta(microseconds=1)) == other
        assert latest(timing, other - timedelta(microseconds=1)) == one
        assert next(following(timing, other - timedelta(microseconds=1))) == other


@pytest.mark.parametrize(
    ("line", "zone", "now", "expected"),
    [
        ("30 2 * * *", "Europe/Zurich", "2026-10-25T02:10+01:00", "2026-10-25T02:30+02:00"),
        ("30 2 * * *", "Europe/Zurich", "2026-10-25T02:40+01:00", "2026-10-25T02:30+02:00"),
        ("30 2 * * *", "Europe/Zurich", "2026-03-29T03:10+02:00", "2026-03-29T03:00+02:00"),
        ("30 * * * *", "Europe/Zurich", "2026-10-25T02:29:59+01:00", "2026-10-25T02:30+02:00"),
        ("47 * * * 3-6", "America/Santiago", "2027-04-04T09:28+00:00", "2027-04-04T03:47+00:00"),
    ],
)
def test_the_last_time_near_a_change(line: str, zone: str, now: str, expected: str) -> None:
    assert latest(cron(line, zone), at(now)) == at(expected)


@pytest.mark.parametrize(
    ("text", "after", "expected"),
    [
        ("10s", "2026-11-21T10:00:03+00:00", ["2026-11-21T10:00:10Z", "2026-11-21T10:00:20Z"]),
        ("15m", "2026-11-21T10:00:00+00:00", ["2026-11-21T10:15:00Z", "2026-11-21T10:30:00Z"]),
        ("6h", "2026-11-21T10:00:00+00:00", ["2026-11-21T12:00:00Z", "2026-11-21T18:00:00Z"]),
        ("1d", "2026-11-21T10:00:00+00:00", ["2026-11-22T00:00:00Z", "2026-11-23T00:00:00Z"]),
    ],
)
def test_an_interval_is_a_grid_from_the_epoch(text: str, after: str, expected: list[str]) -> None:
    found = [each.isoformat() for each in islice(following(every(text), at(after)), 2)]
    assert [each.replace("+00:00", "Z") for each in found] == expected
    before = latest(every(text), at(after))
    assert (at(after) - before).total_seconds() < interval(text)
    assert before <= at(after)


@pytest.mark.parametrize("text", ["", "0s", "-1s", "1.5h", "10", "s", "1w", " 5m", "5m ", "1e3s"])
def test_a_wrong_interval(text: str) -> None:
    with pytest.raises(ValueError, match="as in 15m"):
        interval(text)


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("* * * *", "five fields"),
        ("0 * * * * *", "five fields"),
        (
            "60 * * * *",
            r"'60 \* \* \* \*' has a bad minute; it takes what crontab\(5\) does, as in 30",
        ),
        ("* 24 * * *", "bad hour"),
        ("* * 0 * *", "bad day-of-month"),
        ("0 0 30 2 *", "bad day-of-month"),
        ("* * * 13 *", "bad month"),
        ("* * * * 8", "bad day-of-week"),
        ("mon * * * *", "bad minute"),
        ("1-5-7 * * * *", "bad minute"),
        ("*/0 * * * *", "bad minute"),
        ("1,,2 * * * *", "bad minute"),
        ("* * * * xyz", "bad day-of-week"),
        ("* * * * mon#6", "bad day-of-week"),
        ("0 0 */29 2 mon#5", "such a day never comes"),
    ],
)
def test_a_wrong_line_is_refused_with_its_field(line: str, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        cron(line, "UTC")


@pytest.mark.parametrize("name", ["", "Zurich", "Europe", "../etc", "/etc/passwd", "europe zurich"])
def test_a_wrong_zone(name: str) -> None:
    with pytest.raises(ValueError, match="no time zone"):
        zone_of(name)


def test_what_hardly_comes() -> None:
    """Every 28 years, until years end."""
    found = list(following(cron("0 0 * 2 mon#5", ZURICH.key), at("2026-01-01T00:00+00:00")))
    assert [each.year for each in found[:3]] == [2044, 2072, 2112]
    assert found[-1].year > 9970


def test_a_stamp_is_in_utc() -> None:
    assert stamp(datetime(2026, 11, 21, 4, tzinfo=ZoneInfo("Europe/Zurich"))) == "20261121T030000Z"


MINUTE = timedelta(minutes=1)


def ticking(zone: ZoneInfo, start: datetime, minutes: int) -> Iterator[tuple[datetime, datetime]]:
    """Each real minute with the wall clock's time."""
    for n in range(minutes):
        now = start + n * MINUTE
        yield now, now.astimezone(zone).replace(tzinfo=None)


def fits(fields: tuple[set[int], ...], either: bool, wall: datetime) -> bool:
    minutes, hours, days, months, weekdays = fields
    on = [wall.day in days, wall.isoweekday() % 7 in weekdays]
    day = any(on) if either else all(on)
    return wall.minute in minutes and wall.hour in hours and wall.month in months and day


def plain(
    words: list[str], fields: tuple[set[int], ...], zone: ZoneInfo, start: datetime, minutes: int
) -> list[datetime]:
    """The rule of cron(8) as a person would keep it, who looks at the wall clock at every real
    minute: a line with a * for minutes or hours goes by what it says; of another what it skips is
    due when it has, and what it says again was done."""
    stars = [word.startswith("*") for word in words]
    found, seen, before, at_fixed_times = set(), set(), None, not (stars[0] or stars[1])
    for now, wall in ticking(zone, start, minutes):
        if before is not None and wall > before + MINUTE and at_fixed_times:
            skipped = before + MINUTE
            while skipped < wall:
                if fits(fields, not (stars[2] or stars[4]), skipped):
                    found.add(now)
                skipped += MINUTE
        again = wall in seen and at_fixed_times
        if fits(fields, not (stars[2] or stars[4]), wall) and not again:
            found.add(now)
        seen.add(wall)
        before = wall
    return sorted(found)


# (zone, start in UTC): three days around a change of the clocks, and ones without.
ODD = {"Africa/Cairo", "Australia/Lord_Howe", "America/St_Johns"}
CHANGES = [
    ("Europe/Zurich", "2026-03-28T00:00+00:00"),
    ("Europe/Zurich", "2026-10-24T00:00+00:00"),
    ("America/New_York", "2026-03-07T05:00+00:00"),
    ("America/New_York", "2026-10-31T05:00+00:00"),
    ("Australia/Lord_Howe", "2026-04-03T18:00+00:00"),
    ("Australia/Lord_Howe", "2026-10-02T18:00+00:00"),
    ("America/Havana", "2026-10-31T05:00+00:00"),
    ("Africa/Cairo", "2026-04-22T22:00+00:00"),
    ("America/Santiago", "2027-04-02T12:00+00:00"),
    ("America/St_Johns", "2010-11-05T12:00+00:00"),
    ("Asia/Kathmandu", "2026-02-27T00:00+00:00"),
    ("UTC", "2028-02-28T00:00+00:00"),
]


def some(least: int, most: int) -> st.SearchStrategy[tuple[str, set[int]]]:
    """A field of a line, and what it means."""
    whole = range(least, most + 1)
    numbers = st.sets(st.integers(least, most), min_size=1, max_size=5)
    steps = st.sampled_from([1, 2, 3, 5, 15]).map(lambda n: (f"*/{n}", set(whole[::n])))
    listed = numbers.map(lambda found: (",".join(map(str, sorted(found))), found))
    return st.just(("*", set(whole))) | steps | listed


@settings(max_examples=100, deadline=None)
@given(
    place=st.sampled_from(CHANGES),
    given_fields=st.tuples(some(0, 59), some(0, 23), some(1, 31), some(1, 12), some(0, 6)),
)
def test_as_a_clock_read_minute_by_minute(
    place: tuple[str, str], given_fields: tuple[tuple[str, set[int]], ...]
) -> None:
    zone, start, minutes = ZoneInfo(place[0]), at(place[1]), 3 * 1440
    words, fields = [word for word, _ in given_fields], tuple(each for _, each in given_fields)
    # Where clocks skip midnight, or go by half an hour, cronsim is a little off with such lines.
    assume(place[0] not in ODD or not (words[0].startswith("*") or words[1].startswith("*")))
    expected = plain(words, fields, zone, start, minutes)
    try:
        timing = cron(" ".join(words), zone.key)
    except ValueError:
        assert expected == []  # the 31st of some months
        return
    first, end = start + timedelta(hours=3), start + timedelta(hours=69)
    found = list(takewhile(lambda each: each <= end, following(timing, first)))
    assert found == [each for each in expected if first < each <= end]
    for now in (first + timedelta(minutes=m, seconds=59) for m in range(0, 60 * 60, 97)):
        last = latest(timing, now)
        known = [each for each in expected if each <= now]
        assert last == known[-1] if known else last < start


def test_names_of_days_and_months() -> None:
    now = at("2026-11-21T00:00+00:00")

    def times(line: str) -> list[datetime]:
        return list(islice(following(cron(line, ZURICH.key), now), 5))

    for number, name in enumerate(DAYS):
        assert times(f"0 0 * * {name}") == times(f"0 0 * * {name.upper()}")
        assert times(f"0 0 * * {name}") == times(f"0 0 * * {number}")
    assert times("0 0 * * 7") == times("0 0 * * 0")
    assert times("0 0 1 mar *") == times("0 0 1 3 *")
    assert [each.day for each in times("0 12 L * *")] == [30, 31, 31, 28, 31]
