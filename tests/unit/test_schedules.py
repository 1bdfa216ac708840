"""schedules.toml: what it means, and that what is wrong is named with line and field."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path

import pytest

from tasks.inputs import InputError
from tasks.schedules import UTC, Schedule, parse_schedules
from tests.running import maskmill

GOOD = """\
# What runs by itself.
[[schedule]]
name = "nightly"
cron = "30 2 * * *"
timezone = "Europe/Zurich"
inputs = [
    "s3://bucket/new/",
    "/data/more/*.jpg",
]
model = "shapes"
output = "s3://bucket/{name}/{date}"
budget = "6h"
webhook = "https://hooks.example/maskmill"

[schedule.options]
threshold = 0.5
priority = "high"

[[schedule]]
name = "often"
every = "10m"
inputs = ["s3://bucket/new/"]
model = "shapes"
output = "s3://bucket/{name}/{run}"
options = { limit = 5 }
"""
NIGHT = datetime(2026, 11, 21, 23, 30, tzinfo=UTC)


def parsed(text: str, *, here: bool = False) -> tuple[Schedule, ...]:
    return parse_schedules(text.encode(), "s.toml", here=here)


def test_a_file() -> None:
    nightly, often = parsed(GOOD)
    assert nightly.inputs == ("s3://bucket/new/", "/data/more/*.jpg")
    assert nightly.options == {"threshold": 0.5, "priority": "high"}
    assert (often.every, often.options) == ("10m", {"limit": 5})
    assert parsed("") == ()
    message = nightly.message("s3://bucket/x")
    assert (message.output, message.inputs) == ("s3://bucket/x", nightly.inputs)


def test_a_dataset_that_grows() -> None:
    text = GOOD.replace('output = "s3://bucket/{name}/{run}"', 'into = "s3://b/x"\n')
    text = text.replace("limit = 5", "fps = 2").replace('"10m"', '"10m"\ndrop_vanished = true')
    _, grown = parsed(text)
    assert grown.output_of(NIGHT) == "s3://b/x"
    with_events = text.replace('inputs = ["s3://bucket/new/"]', 'events = "sqs://new"')
    with pytest.raises(InputError, match="line 22: drop_vanished: it goes with inputs"):
        parsed(with_events)
    _, told = parsed(with_events.replace("\ndrop_vanished = true", ""))
    assert (told.inputs, told.events) == ((), "sqs://new")


def test_the_date_is_that_of_the_zone_and_the_run_is_utc() -> None:
    nightly, often = parsed(GOOD)
    assert nightly.output_of(NIGHT) == "s3://bucket/nightly/2026-11-22"
    assert often.output_of(NIGHT) == "s3://bucket/often/20261121T233000Z"


WRONG = [
    ('cron = "30 2 * * *"', 'cron = "30 25 * * *"', 4, "cron: '30 25 * * *' has a bad hour"),
    ('cron = "30 2 * * *"', 'cron = "30 2 30 2 *"', 4, "cron: '30 2 30 2 *' has a bad day"),
    ('cron = "30 2 * * *"', 'cron = "0 0 */29 2 mon#5"', 4, "cron: such a day never comes"),
    ('cron = "30 2 * * *"', 'cron = "30 2 * * *"\nevery = "1d"', 4, "cron: exactly one of cron"),
    ('cron = "30 2 * * *"\n', "", 2, "cron: exactly one of cron and every"),
    ("Zurich", "Zuerich", 5, "timezone: 'Europe/Zuerich' is no time zone"),
    ('timezone = "Europe/Zurich"', 'timezone = ""', 5, "timezone: Expected `str` of length >= 1"),
    ('"s3://bucket/new/",\n', "3,\n", 6, r"inputs: Expected `str`, got `int`"),
    ('"s3://bucket/new/",\n', '"new/",\n', 6, "inputs: new/ is neither a URI nor a path from"),
    ('"s3://bucket/new/",\n', '"-",\n', 6, "inputs: - is neither a URI nor a path from"),
    ('"s3://bucket/new/",\n', '"gs://bucket/x/",\n', 6, "inputs: gs://bucket/x/ is not a usable"),
    ('model = "shapes"\noutput = "s3://bucket/{name}/{d', 'output = "s3://bucket/{name}/{d', 2,
     "model: Object missing required field `model`"),
    ('model = "shapes"', 'model = ""', 10, "model: Expected `str` of length >= 1"),
    ("{name}/{date}", "{name}/{day}", 11, "output: between braces it takes {date}, {name} and"),
    ("{name}/{date}", "{name.__class__}/{date}", 11, "output: between braces it takes"),
    ("{name}/{date}", "{name}", 11, "output: two runs would have the same"),
    ("s3://bucket/{name}/{date}", "out/{date}", 11, "output: out/{date} is neither a URI"),
    ("{name}/{run}", "{name}/{date}", 24, "output: two runs would have the same"),
    ('"6h"', '"6 hours"', 12, "budget: it takes a whole number of s, m, h or d, as in 15m"),
    ('"6h"', "6", 12, "budget: Expected `str`, got `int`"),
    ("budget", "bugdet", 12, "bugdet: Object contains unknown field `bugdet`"),
    ("threshold = 0.5", "treshold = 0.5", 15, "options: options has no 'treshold'"),
    ("threshold = 0.5", "threshold = 5", 15, "options: Expected `float` <= 1.0"),
    ("threshold = 0.5", "overwrite = true", 15, "options: overwrite would start a run anew"),
    ("threshold = 0.5", 'target = "A B"', 15, "options: the target 'A B' is no name"),
    ("limit = 5", "max_failures = 5", 25, "options: options has no 'max_failures'"),
    ('"often"', '"nightly"', 20, "name: another schedule has it"),
    ('"often"', '"../often"', 20, "name: Expected `str` matching regex"),
    ('"often"', '"schedules.toml"', 20, "name: Expected `str` matching regex"),
    ('every = "10m"', 'every = "0m"', 21, "every: it takes a whole number"),
    ('every = "10m"', 'every = "10m"\nincremental = 1', 22, "incremental: Expected `bool`, got"),
    ('every = "10m"', 'every = "10m"\ninto = "s3://b/x"', 25, "output: exactly one of output and"),
    ('every = "10m"', 'every = "10m"\ndrop_vanished = true', 22, "drop_vanished: it goes with"),
    ('every = "10m"', 'every = "10m"\nevents = "redis://h/x"', 23, "inputs: exactly one of inputs"),
    ('inputs = ["s3://bucket/new/"]', 'events = "redis://h/0/x"', 22, "events: it goes with into"),
    ('inputs = ["s3://bucket/new/"]', 'events = "redis://h"', 22, "events: it takes sqs://NAME or"),
    ('output = "s3://bucket/{name}/{run}"', 'into = "grown"', 24, "into: grown is neither a URI"),
    ('output = "s3://bucket/{name}/{run}"', 'into = "s3://b/x"', 25, "options: options has no"),
    ('output = "s3://bucket/{name}/{run}"', 'into = "s3://b/{run}"', 24, "into: it is one dataset"),
]  # fmt: skip


@pytest.mark.parametrize(("old", "new", "line", "said"), WRONG, ids=lambda v: str(v)[:30])
def test_what_is_wrong_is_named_with_line_and_field(
    old: str, new: str, line: int, said: str
) -> None:
    assert old in GOOD
    place = GOOD.rfind(old) if line > 18 else GOOD.find(old)
    with pytest.raises(InputError) as wrong:
        parsed(GOOD[:place] + new + GOOD[place + len(old) :])
    assert str(wrong.value).startswith(f"s.toml, line {line}: {said}")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[[schedule]]\nname = 3 4", r"s.toml cannot be read: .*line 2"),
        ("\xff", "s.toml cannot be read"),
        ("[schedule]\nname = 'a'", "s.toml, line 1: schedule: Expected `array`, got `object`"),
        ("schedules = 3", "s.toml, line 1: schedules: Object contains unknown field `schedules`"),
        ("schedule = [3]", "s.toml, line 1: schedule: Expected `object`, got `int`"),
        ("schedule = [{name = 'a'}]", "s.toml, line 1: model: Object missing required field"),
    ],
)
def test_a_file_that_is_none(text: str, said: str) -> None:
    with pytest.raises(InputError, match=said):
        parse_schedules(text.encode("latin-1"), "s.toml")


def test_what_this_machine_can_say(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InputError, match=r"line 13: webhook: .*MASKMILL_WEBHOOK_ALLOW"):
        parsed(GOOD, here=True)
    monkeypatch.setenv("MASKMILL_WEBHOOK_ALLOW", "hooks.example")
    assert len(parsed(GOOD, here=True)) == 2
    with pytest.raises(InputError, match="line 10: model: there is no model 'unknown'"):
        parsed(GOOD.replace('"shapes"', '"unknown"', 1), here=True)
    with pytest.raises(InputError, match=r"line 10: model: .*lion"):
        parsed(GOOD.replace("threshold = 0.5", 'classes = ["lion"]'), here=True)


def test_check_says_the_next_five_times(tmp_path: Path) -> None:
    file = tmp_path / "s.toml"
    file.write_text(GOOD)
    allowed = {"MASKMILL_WEBHOOK_ALLOW": "hooks.example"}
    done = maskmill("schedule", "check", file, "--json", **allowed)
    assert done.code == 0, done.err
    assert [each["name"] for each in done.events] == ["nightly", "often"]
    assert [len(each["next"]) for each in done.events] == [5, 5]
    assert all("T02:30:00+0" in text for text in done.events[0]["next"])
    assert "next      2" in maskmill("schedule", "check", file, **allowed).out
    file.write_text(GOOD.replace("10m", "10x"))
    done = maskmill("schedule", "check", file, **allowed)
    assert (done.code, done.out) == (2, "")
    assert f"{file}, line 21: every:" in done.err


def test_the_commands_say_what_they_take() -> None:
    for word in ("check", "list", "run", "serve"):
        done = maskmill("schedule", word, "--help")
        assert done.code == 0
        assert f"maskmill schedule {word}" in done.out
        assert "Example" in done.out
