"""A fleet under faults, in short; tests/chaos has the long versions.

The oracle for all: expected ids are the committed ids, once each, and the merged bytes are those
of an undisturbed run.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tasks.broker import queue_of, send_shards
from tasks.folder import read_job
from tests.contract.test_s3_faults import commit_and_drop, truncate
from tests.faults import (
    KILL,
    STORM,
    SWEEPING,
    Oracle,
    Storm,
    attempts,
    client_of,
    conflict,
    done,
    ends,
    left,
    make_oracle,
    over_s3,
    recover,
)
from tests.fleet import Fleet, fleet, until
from tests.running import maskmill


@pytest.fixture(scope="module")
def oracle(tmp_path_factory: pytest.TempPathFactory) -> Oracle:
    return make_oracle(tmp_path_factory.mktemp("oracle"))


@pytest.fixture
def made(tmp_path: Path) -> Iterator[Fleet]:
    with fleet(tmp_path / "fleet") as fleet_here:
        yield fleet_here


def test_a_child_killed_at_each_step(made: Fleet, tmp_path: Path, oracle: Oracle) -> None:
    steps = {
        "fetch": ("worker.shard:fetch", "before", 2),
        "inference": ("worker.shard:infer", "after", 3),
        "put": ("worker.jobs:_commit", "before", 2),
        "ack": ("celery.worker.request:Request.acknowledge", "before", 4),
    }
    faults = [
        {"who": "child", "call": call, "when": when, "nth": nth, "signal": KILL, "ledger": ledger}
        for name, (call, when, nth) in steps.items()
        for ledger in [str(tmp_path / name)]
    ]
    made.worker(fault=faults)
    oracle.submit(made, tmp_path / "out")
    recover(made, tmp_path / "out")
    oracle.check(tmp_path / "out")
    assert {each.stem for each in tmp_path.glob("*.0")} == set(steps), "all were tried"
    assert ends(tmp_path / "out")["died"] == 3, "a shard that is written is not a death"


def test_a_supervisor_killed(made: Fleet, tmp_path: Path, oracle: Oracle) -> None:
    """The process that computes does not go on alone."""
    fault = {"who": "child", "call": "worker.shard:fetch", "signal": KILL, "kill": "parent"}
    made.worker(fault=fault)
    oracle.submit(made, tmp_path / "out")
    made.workers[0].process.wait(60)
    until(lambda: not made.processes(), 60, "the child ends", made.logs)
    assert 0 < left(tmp_path / "out") < 12, "it finished what it had in hand, and no more"
    made.worker()
    recover(made, tmp_path / "out")
    oracle.check(tmp_path / "out")


def test_longer_than_the_visibility_timeout(tmp_path: Path, oracle: Oracle) -> None:
    """Several copies of one message run at once; one object comes of it."""
    slow = {"call": "worker.shard:infer", "sleep": 8.0, "ledger": str(tmp_path / "slow")}
    with fleet(tmp_path / "fleet", MASKMILL_VISIBILITY_TIMEOUT="1") as made:
        for _ in range(2):
            made.worker(fault=[{"who": "child", **SWEEPING}, {"who": "child", **slow}])
        oracle.submit(made, tmp_path / "out")
        recover(made, tmp_path / "out")
        oracle.check(tmp_path / "out")
        assert max(attempts(tmp_path / "out").values()) >= 2


def test_the_broker_forgets_everything(made: Fleet, tmp_path: Path, oracle: Oracle) -> None:
    made.worker(fault={"who": "child", "call": "worker.shard:infer", "nth": 4, "always": True,
                       "sleep": 0.5})  # fmt: skip
    oracle.submit(made, tmp_path / "out")
    until(lambda: done(tmp_path / "out") > 2)
    client_of(made.broker).flushall()
    assert left(tmp_path / "out") > 2
    recover(made, tmp_path / "out")
    oracle.check(tmp_path / "out")


def test_a_merger_killed_at_each_step(tmp_path: Path, oracle: Oracle) -> None:
    """What stands there at any time is the whole dataset or none."""
    out = tmp_path / "out"
    assert maskmill("annotate", oracle.photos, "-m", oracle.card, "-o", out).code == 0
    derived = ["instances.json", "results.json", "failures.jsonl", "contact-sheet.jpg", "run.json"]
    for name in ("shards", *derived):
        for each in derived:
            (out / each).unlink(missing_ok=True)
        fault = {"who": "parent", "path": f"/out/{name}", "signal": KILL}
        assert maskmill("merge", out, fault=fault).code == -KILL
        if (out / "instances.json").exists():
            assert (out / "instances.json").read_bytes() == oracle.expected
        assert not (out / "run.json").exists() or name == "run.json"
    assert maskmill("merge", out).code == 0
    oracle.check(out)


def test_storms_on_s3(tmp_path: Path, oracle: Oracle, moto: str, moto_s3: str) -> None:
    storm = Storm(moto, STORM, 0.15)
    with over_s3(tmp_path, oracle, moto_s3, storm) as s3:
        s3.fleet.worker()
        storm.plan("GET", truncate(300, stall=True))
        for number in range(5):  # how many requests a job takes is a matter of how busy we are
            out = f"{s3.out}{number}"
            oracle.submit(s3.fleet, out, "--shard-size", 2, photos=s3.photos)
            recover(s3.fleet, out)
            oracle.check(out)
            if min(storm.spoilt["GET"], storm.spoilt["PUT"]) > 5:
                break
        assert storm.spoilt["GET"] > 5
        assert storm.spoilt["PUT"] > 5


def test_s3_commits_and_drops_the_reply(
    tmp_path: Path, oracle: Oracle, moto: str, moto_s3: str
) -> None:
    storm = Storm(moto, [("PUT", commit_and_drop)], 0.5)
    with over_s3(tmp_path, oracle, moto_s3, storm) as s3:
        s3.fleet.worker()
        oracle.submit(s3.fleet, s3.out, "--shard-size", 2, photos=s3.photos)
        recover(s3.fleet, s3.out)
        oracle.check(s3.out)
        assert storm.spoilt["PUT"] > 6


def test_two_workers_race_for_each_key(
    tmp_path: Path, oracle: Oracle, moto: str, moto_s3: str
) -> None:
    """Every shard is sent twice and committed by both at about the same time; some get a 409."""
    storm = Storm(moto, [("PUT", conflict)], 0.3)
    late = {"who": "child", "call": "worker.jobs:_commit", "always": True, "sleep": 0.3}
    with over_s3(tmp_path, oracle, moto_s3, storm) as s3:
        oracle.submit(s3.fleet, s3.out, "--shard-size", 2, photos=s3.photos)
        job = read_job(s3.out)
        assert job is not None
        client_of(s3.fleet.broker).delete(queue_of(job))
        send_shards(s3.fleet.app, s3.out, job, [n for n in range(6) for _ in range(2)])
        for _ in range(2):
            s3.fleet.worker(fault=late)
        recover(s3.fleet, s3.out)
        oracle.check(s3.out)
        assert storm.spoilt["PUT"] > 5
        assert max(attempts(s3.out).values()) >= 2
