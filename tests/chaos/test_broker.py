"""A broker that loses, repeats, forgets, dies, hangs up or falls silent."""

from __future__ import annotations

import itertools
import json
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from storage import get
from tasks.broker import send_shards, waiting
from tasks.folder import read_job
from tests.faults import (
    KILL,
    SHARED,
    SWEEPING,
    KillableRedis,
    Oracle,
    Wire,
    attempts,
    client_of,
    dead_letters,
    done,
    killable_redis,
    left,
    recover,
)
from tests.fleet import Fleet, fleet, until
from tests.running import MASKMILL, environment

QUEUE = "maskmill.onnx.any.normal"


def slow(seconds: float) -> dict[str, object]:
    return {"who": "child", "call": "worker.shard:infer", "always": True, "sleep": seconds}


def watching(made: Fleet, out: Path) -> subprocess.Popen[bytes]:
    """`maskmill status --watch`, which sends again what was lost."""
    with (made.folder / "watch.log").open("ab") as log:
        command = [MASKMILL, "status", str(out), "--watch"]
        variables = environment(None, **made.variables)
        return subprocess.Popen(command, env=variables, stdout=log, stderr=log)


@pytest.mark.parametrize("finder", ["beat", "watch"])
def test_messages_lost_on_the_way(made: Fleet, out: Path, oracle: Oracle, finder: str) -> None:
    """As when a worker dies between BRPOP and what records the message as unacknowledged."""
    oracle.submit(made, out)
    redis = client_of(made.broker)
    for _ in range(5):
        assert redis.lpop(QUEUE) is not None
    made.worker()
    if finder == "beat":
        made.beat()
        made.await_merged(out, 180)
    else:
        watched = watching(made, out)
        made.await_merged(out, 180)
        assert watched.wait(60) == 0
    oracle.check(out, "3. message lost between BRPOP and unacked", 5)


def test_the_merge_message_lost(made: Fleet, tmp_path: Path, out: Path, oracle: Oracle) -> None:
    """The child dies with the merge in hand; nothing but the reconciler knows of it."""
    blow = {"signal": KILL, "ledger": str(tmp_path / "blow")}
    made.worker(fault={"who": "child", "call": "worker.jobs:run_merge", **blow})
    oracle.submit(made, out)
    made.beat()
    made.await_merged(out, 180)
    oracle.check(out, "3. message lost between BRPOP and unacked", 1)


def test_longer_than_the_visibility_timeout(tmp_path: Path, out: Path, oracle: Oracle) -> None:
    ledger = {"ledger": str(tmp_path / "slow"), "times": 5}
    with fleet(tmp_path / "fleet", MASKMILL_VISIBILITY_TIMEOUT="2") as made:
        for _ in range(3):
            made.worker(fault=[{"who": "child", **SWEEPING}, {**slow(9.0), **ledger}])
        oracle.submit(made, out)
        made.await_merged(out, 180)
        until(lambda: not client_of(made.broker).llen(QUEUE), 60)
        oracle.check(out, "4. longer than the visibility timeout", 5)
        copies = attempts(out)
        assert max(copies.values()) > 1, copies


def test_redis_killed_while_it_is_worked(tmp_path: Path, out: Path, oracle: Oracle) -> None:
    with killable_redis(tmp_path / "redis") as redis, fleet(tmp_path / "fleet", redis.url) as made:
        for _ in range(2):
            made.worker(fault=slow(0.3))
        oracle.submit(made, out)
        for number in range(1, 5):
            until(lambda n=number: done(out) >= 2 * n or not left(out), 120, "", made.logs)
            redis.kill()
            redis.start()
        watched = watching(made, out)
        made.await_merged(out, 180)
        assert watched.wait(60) == 0
        oracle.check(out, "6. Redis kill -9 with AOF", 4)


@pytest.mark.parametrize("comes_back", [True, False])
def test_redis_killed_while_messages_are_published(
    tmp_path: Path, out: Path, many: Oracle, comes_back: bool
) -> None:
    with killable_redis(tmp_path / "redis") as redis, fleet(tmp_path / "fleet", redis.url) as made:
        one_by_one = [
            {"call": "celery.app.base:Celery.send_task", "always": True, "sleep": 0.02},
            {"set": {"tasks.broker:BATCH": 5}},
        ]
        command = ["submit", many.photos, "-m", many.card, "-o", out, SHARED, "--shard-size", "1"]
        submitting = subprocess.Popen(
            [MASKMILL, *map(str, command)], env=environment(one_by_one, **made.variables),
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
        until(lambda: _depth(redis) > 30, 120)
        redis.kill()
        if comes_back:
            redis.start()
        said, complaint = submitting.communicate(timeout=120)
        if not comes_back:
            assert submitting.returncode == 4, (said, complaint)
            assert "Traceback" not in complaint
            redis.start()
        assert submitting.returncode in (0, 4), complaint
        made.worker()
        if submitting.returncode == 4:
            assert made.run("resume", out).code == 0
        recover(made, out)
        many.check(out, "6. Redis kill -9 while publishing")


def _depth(redis: KillableRedis) -> int:
    return int(client_of(redis.url).llen(QUEUE.replace("normal", "low")))


def test_the_broker_forgets_everything(made: Fleet, out: Path, oracle: Oracle) -> None:
    """FLUSHALL three times in one job: queues, bindings and what is unacknowledged are gone."""
    for _ in range(2):
        made.worker(fault=slow(0.5))
    oracle.submit(made, out)
    watched = watching(made, out)
    for number in (2, 5, 8):
        until(lambda n=number: done(out) >= n, 120, "", made.logs)
        client_of(made.broker).flushall()
    made.await_merged(out, 180)
    assert watched.wait(60) == 0
    oracle.check(out, "7. FLUSHALL in mid-job", 3)


@contextmanager
def wired(folder: Path) -> Iterator[tuple[Fleet, Wire]]:
    """Workers reach the broker through a wire; what the test does itself goes past it."""
    with fleet(folder) as made:
        wire = Wire(int(made.broker.rpartition(":")[2].partition("/")[0]))
        made.worker_variables = {"MASKMILL_BROKER_URL": f"redis://127.0.0.1:{wire.port}/0"}
        try:
            yield made, wire
        finally:
            wire.close()


@pytest.mark.parametrize("moment", ["idle", "busy"])
@pytest.mark.parametrize("silent_s", [0, 90])
def test_a_half_open_socket(
    tmp_path: Path, out: Path, oracle: Oracle, moment: str, silent_s: int
) -> None:
    """The connections of one moment never carry anything again; for a while new ones neither."""
    with wired(tmp_path / "fleet") as (made, wire):
        made.worker(fault=slow(0.5))
        oracle.submit(made, tmp_path / "first", "--limit", 1)
        made.await_merged(tmp_path / "first")
        if moment == "busy":
            oracle.submit(made, out)
            until(lambda: done(out) > 2, 120, "", made.logs)
        wire.silent = silent_s > 0
        assert wire.fall_silent() > 0
        fallen = time.monotonic()
        if moment == "idle":
            oracle.submit(made, out)
        made.beat()  # past the wire
        while time.monotonic() - fallen < silent_s:
            time.sleep(1)
        wire.silent = False
        before = done(out)
        # The shard in hand is written without the broker; what comes after needs it.
        enough = min(before + 2, 12)
        until(lambda: done(out) >= enough, 240, "it works on", made.logs)
        print(f"half-open, {moment}, {silent_s} s silent: back after"
              f" {time.monotonic() - fallen - silent_s:.0f} s")  # fmt: skip
        made.await_merged(out, 300)
        oracle.check(out, "8. half-open broker socket")


def test_ten_flaps_in_three_seconds(tmp_path: Path, out: Path, oracle: Oracle) -> None:
    with wired(tmp_path / "fleet") as (made, wire):
        for _ in range(2):
            made.worker(fault=slow(0.3))
        for number in range(2):
            job = out / str(number)
            oracle.submit(made, job)
            until(lambda job=job: done(job) > 1, 120, "", made.logs)
            for _ in range(10):
                wire.accepting = False
                wire.hang_up()
                time.sleep(0.15)
                wire.accepting = True
                time.sleep(0.15)
            recover(made, job)
            oracle.check(job, "9. ten broker flaps in 3 s")
        oracle.submit(made, out / "after")
        made.await_merged(out / "after", 120)
        oracle.check(out / "after")
        assert not client_of(made.broker).llen(QUEUE), "the consumers consume"


def test_duplicates_early_and_late(made: Fleet, out: Path, oracle: Oracle) -> None:
    """As SQS delivers: more than once, out of order, and long after."""
    oracle.submit(made, out)
    job = read_job(str(out))
    assert job is not None
    for number in range(3):
        send_shards(made.app, str(out), job, range(job.counts.shards - 1, number, -1))
    for _ in range(2):
        made.worker()
    made.await_merged(out, 120)
    until(lambda: waiting(made.app, QUEUE) == 0, 60)
    oracle.check(out, "10. duplicates and late delivery", 30)
    tried = sum(attempts(out).values())
    before = {path: path.stat().st_mtime_ns for path in out.glob("*.json*")}
    send_shards(made.app, str(out), job, range(job.counts.shards))
    made.app.send_task("maskmill.merge", kwargs={"job": str(out), "schema": 1}, queue="celery")
    until(lambda: waiting(made.app, QUEUE) == 0 and waiting(made.app, "celery") == 0, 60)
    for each in made.workers:
        assert each.stop() == 0
    oracle.check(out, "10. duplicates and late delivery", 13)
    assert sum(attempts(out).values()) == tried, "what is done is not tried again"
    assert before.keys() == set(out.glob("*.json*"))


def test_a_rolling_upgrade(made: Fleet, out: Path, oracle: Oracle) -> None:
    """Messages of an older program, of a newer one and of none lie in the queue."""
    oracle.submit(made, out)
    job = read_job(str(out))
    assert job is not None
    client_of(made.broker).delete(QUEUE)
    base = {"job": str(out), "run": job.run}
    send = made.app.send_task
    send("maskmill.shard", kwargs={**base, "shard": 0}, queue=QUEUE)  # before there was a schema
    send("maskmill.shard", kwargs={**base, "shard": 1, "schema": 1, "lease": 7}, queue=QUEUE)
    send("maskmill.shard", kwargs={**base, "shard": 2, "schema": 2}, queue=QUEUE)
    send("maskmill.shard", args=[str(out), job.run, 3], queue=QUEUE)
    send("maskmill.inspect", kwargs=base, queue=QUEUE)
    client_of(made.broker).lpush(QUEUE, json.dumps(_envelope("not celery's form")))
    made.worker()
    until(lambda: len(dead_letters(made)) == 5, 120, "", made.logs)
    until(lambda: done(out) == 1, 120, "the oldest one is read", made.logs)
    recover(made, out)
    oracle.check(out, "18. rolling upgrade, messages of other versions", 6)
    reasons = [json.loads(get(uri))["reason"] for uri in dead_letters(made)]
    for words in ("lease", "$.schema", "positional", "maskmill.inspect", "form"):
        assert any(words in reason for reason in reasons), reasons


def _envelope(text: str) -> dict[str, object]:
    """A message of kombu whose body no Celery made."""
    tag = next(_tags)
    properties = {
        "delivery_tag": f"tag-{tag}",
        "delivery_mode": 2,
        "priority": 0,
        "body_encoding": "utf-8",
        "delivery_info": {"exchange": "", "routing_key": QUEUE},
    }
    envelope = {"headers": {}, "properties": properties, "content-encoding": "utf-8"}
    return {**envelope, "content-type": "application/json", "body": json.dumps({"text": text})}


_tags = itertools.count()
