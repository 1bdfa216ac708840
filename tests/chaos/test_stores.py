"""S3 in bad weather: storms, bodies that stall, replies that are lost, keys that are raced for."""

from __future__ import annotations

from pathlib import Path

import pytest

from tasks.broker import queue_of, send_shards
from tasks.folder import read_job
from tests.contract.test_s3_faults import Fault, commit_and_drop, drop, status, truncate
from tests.faults import (
    STORM,
    Oracle,
    OverS3,
    Storm,
    attempts,
    client_of,
    conflict,
    dead_letters,
    done,
    ends,
    over_s3,
    recover,
)
from tests.fleet import until


def submit(s3: OverS3, oracle: Oracle) -> None:
    oracle.submit(s3.fleet, s3.out, "--shard-size", 2, photos=s3.photos)


@pytest.mark.parametrize(
    ("name", "faults", "share"),
    [
        ("500, 503 and SlowDown", STORM, 0.25),
        ("stalled bodies", [("GET", truncate(300, stall=True))], 0.1),
        ("truncated bodies", [("GET", truncate(300)), ("GET", truncate(0))], 0.3),
        ("connections dropped", [(verb, drop) for verb in ("GET", "PUT", "HEAD", "POST")], 0.2),
    ],
)
def test_storms(
    tmp_path: Path,
    oracle: Oracle,
    moto: str,
    moto_s3: str,
    name: str,
    faults: list[tuple[str, Fault]],
    share: float,
) -> None:
    storm = Storm(moto, faults, share)
    with over_s3(tmp_path, oracle, moto_s3, storm) as s3:
        for _ in range(2):
            s3.fleet.worker()
        submit(s3, oracle)
        recover(s3.fleet, s3.out, seconds=240)
        oracle.check(s3.out, f"11. S3 storms: {name}", sum(storm.spoilt.values()))
        assert sum(storm.spoilt.values()) > 5
        assert "died" not in ends(s3.out), "the weather is no fault of the images"


def test_a_store_that_is_away_for_a_while(
    tmp_path: Path, oracle: Oracle, moto: str, moto_s3: str
) -> None:
    """Longer than any retry: attempts end without failure records, and the shards come again."""
    storm = Storm(moto, [], 0.0)
    with over_s3(tmp_path, oracle, moto_s3, storm) as s3:
        s3.fleet.worker()
        submit(s3, oracle)
        until(lambda: done(s3.out) > 0, 120, "", s3.fleet.logs)
        storm.always = dict.fromkeys(("GET", "HEAD", "PUT", "POST"), status(503, "SlowDown"))
        until(lambda: "will send" in s3.fleet.logs() or "does not answer" in s3.fleet.logs(), 120)
        storm.always = {}
        recover(s3.fleet, s3.out, seconds=240)
        oracle.check(s3.out, "11. S3 storms: away for longer than the retries")
        assert "died" not in ends(s3.out)
        assert dead_letters(s3.fleet) == [], "nothing is wrong with the messages"


def test_commits_and_drops_the_reply(
    tmp_path: Path, oracle: Oracle, moto: str, moto_s3: str
) -> None:
    storm = Storm(moto, [("PUT", commit_and_drop), ("POST", commit_and_drop)], 0.5)
    with over_s3(tmp_path, oracle, moto_s3, storm) as s3:
        for _ in range(2):
            s3.fleet.worker()
        submit(s3, oracle)
        recover(s3.fleet, s3.out, seconds=240)
        oracle.check(s3.out, "12. S3 commits and drops the reply", sum(storm.spoilt.values()))
        assert storm.spoilt["PUT"] > 6


def test_a_race_for_each_key(tmp_path: Path, oracle: Oracle, moto: str, moto_s3: str) -> None:
    """Every shard three times, to three workers that commit at about the same time; and 409."""
    storm = Storm(moto, [("PUT", conflict)], 0.4)
    late = {"who": "child", "call": "worker.jobs:_commit", "always": True, "sleep": 0.5}
    with over_s3(tmp_path, oracle, moto_s3, storm) as s3:
        submit(s3, oracle)
        job = read_job(s3.out)
        assert job is not None
        client_of(s3.fleet.broker).delete(queue_of(job))
        thrice = [number for number in range(job.counts.shards) for _ in range(3)]
        send_shards(s3.fleet.app, s3.out, job, thrice)
        for _ in range(3):
            s3.fleet.worker(fault=late)
        recover(s3.fleet, s3.out, seconds=240)
        copies = attempts(s3.out)
        oracle.check(
            s3.out, "13. workers race for one key, 409", sum(copies.values()) - len(copies)
        )
        assert max(copies.values()) > 1
