"""How a shard that keeps dying is told from one that was merely interrupted."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from storage.errors import Unavailable
from tasks.folder import Folder, every_attempt, read_attempts
from tasks.markers import Halted
from tasks.records import Attempt
from worker.attempts import History, Released, Trying, read_history

NOW = 1000.0


def attempt(**changes: Any) -> Attempt:
    return Attempt(**({"worker": "w", "started": 0.0, "beat": NOW} | changes))


DEAD = attempt(ended="died")


@pytest.mark.parametrize(
    ("attempts", "careful"),
    [
        ([], False),
        ([DEAD], False),
        ([DEAD, DEAD], True),
        ([attempt(beat=NOW - 61), attempt(beat=NOW - 61)], True),
        ([attempt(beat=NOW - 59), attempt(beat=NOW - 59), DEAD], False),
        ([attempt(ended="released"), attempt(ended="committed"), DEAD], False),
        ([attempt(worker="local:h:1:2", beat=0.0)] * 2, False),
        ([attempt(worker="local:h:1:2", ended="died")] * 2, True),
    ],
    ids=[
        "never tried",
        "one death may be bad luck",
        "two deaths",
        "silence is a death",
        "a beat within a minute is life",
        "clean ends are no deaths",
        "a run killed as a whole says nothing of its images",
        "its parent saw it die",
    ],
)
def test_careful_after_two_deaths(attempts: list[Attempt], careful: bool) -> None:
    assert History(attempts, NOW).careful == careful


def test_an_image_is_given_up_after_two_careful_deaths_on_it() -> None:
    deaths = [DEAD, DEAD, *(attempt(ended="died", careful=True, item=n) for n in (7, 8, 7))]
    assert History(deaths, NOW).given_up == {7}
    hasty = [DEAD, attempt(ended="died", item=7), attempt(ended="died", item=7)]
    assert History(hasty, NOW).given_up == frozenset()


def test_an_attempt_is_written_before_the_first_image_and_says_how_it_ended(tmp_path: Path) -> None:
    folder = Folder(str(tmp_path), "run")
    place = folder.attempts(3)
    with Trying(place, "me", read_history(place)) as trying:
        [(_, first)] = read_attempts(place)
        assert first.ended == ""
        with Trying(place, "other", History([], NOW)):
            assert len(list(read_attempts(place))) == 2, "a number taken is not taken again"
        trying.in_hand(5)
        assert next(each for _, each in read_attempts(place)).item == 5
        trying.watch.seconds["fetch"] = 1.23456
    (_, first), (_, second) = every_attempt(folder)
    assert (first.worker, first.ended, first.seconds) == ("me", "committed", {"fetch": 1.235})
    assert second.worker == "other"


@pytest.mark.parametrize(
    ("reason", "ended"),
    [
        (Released("told to stop"), "released"),
        (Halted("cancelled"), "released"),
        (Unavailable("s3://bucket/out"), "released"),
        (MemoryError(), "died"),
    ],
)
def test_what_is_no_fault_of_an_input_is_no_death(
    tmp_path: Path, reason: Exception, ended: str
) -> None:
    place = Folder(str(tmp_path), "run").attempts(3)
    with pytest.raises(type(reason)), Trying(place, "me", read_history(place)):
        raise reason
    [(_, attempt)] = read_attempts(place)
    assert attempt.ended == ended
