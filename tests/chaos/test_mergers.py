"""Mergers that die, mergers that race, and schedulers that are paused past their time."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
from pathlib import Path

import pytest

from tests.faults import KILL, Oracle, client_of, failures, left, recover
from tests.fleet import Fleet, until
from tests.pictures import jpeg
from tests.running import MASKMILL, environment, maskmill

DERIVED = ("instances.json", "results.json", "failures.jsonl", "contact-sheet.jpg", "run.json")
STEPS = {
    "before all": {"call": "worker.jobs:merge_all"},
    "the first shard": {"call": "tasks.folder:Folder.whole_shard"},
    "the tenth shard": {"call": "tasks.folder:Folder.whole_shard", "nth": 10},
    "the sheet": {"call": "worker.jobs:write_sheet"},
    "the seal": {"call": "tasks.merge:seal"},
    "after all": {"call": "worker.jobs:merge_all", "when": "after"},
    **{name: {"path": f"/out/{name}"} for name in DERIVED},
}


@pytest.mark.parametrize("step", STEPS)
def test_a_merger_killed_at_each_step(
    made: Fleet, tmp_path: Path, out: Path, oracle: Oracle, step: str
) -> None:
    blow = {"who": "child", "signal": KILL, "ledger": str(tmp_path / "blow")}
    made.worker(fault={**STEPS[step], **blow})
    oracle.submit(made, out)
    until((tmp_path / "blow.0").exists, 120, step, made.logs)
    if (out / "instances.json").exists():
        assert (out / "instances.json").read_bytes() == oracle.expected
    assert left(out) == 0
    recover(made, out)
    oracle.check(out, "14. merger killed at a step")
    assert maskmill("doctor", out).code == 0


@pytest.mark.parametrize("name", DERIVED)
def test_two_mergers_one_paused(
    made: Fleet, tmp_path: Path, out: Path, oracle: Oracle, name: str
) -> None:
    """One stops in front of a file and goes on when the other has long finished."""
    assert maskmill("annotate", oracle.photos, "-m", oracle.card, "-o", out).code == 0
    for each in DERIVED:
        (out / each).unlink()
    paused = _paused_merger(out, {"path": f"/out/{name}", "signal": signal.SIGSTOP})
    assert made.run("merge", out).code == 0
    oracle.check(out)
    paused.send_signal(signal.SIGCONT)
    assert paused.wait(60) == 0
    oracle.check(out, "15. two mergers, one paused past its time")


def test_a_merger_paused_through_a_retry(
    made: Fleet, tmp_path: Path, out: Path, oracle: Oracle
) -> None:
    """It holds the dataset as it was before the retry, and must not put that in its place."""
    places = [tmp_path / f"{number}.jpg" for number in range(6)]
    for number, path in enumerate(places):
        path.write_bytes(jpeg(number))
    listed = tmp_path / "list.jsonl"
    listed.write_text(
        "".join(json.dumps({"uri": str(p), "file_name": p.name}) + "\n" for p in places)
    )
    broken, whole = places[3], places[3].read_bytes()
    made.worker()
    for place in ("shards", *DERIVED):
        job = tmp_path / place / "out"
        broken.write_bytes(b"no image")
        oracle.submit(made, job, "--shard-size", 2, photos=listed)
        made.await_merged(job)
        for each in DERIVED:
            (job / each).unlink(missing_ok=True)
        paused = _paused_merger(job, {"path": f"/out/{place}", "signal": signal.SIGSTOP})
        assert made.run("merge", job).code == 0
        assert failures(job) == {"3.jpg": "decode/not-an-image"}
        broken.write_bytes(whole)
        ran = made.run("retry", job)
        assert ran.code == 0, ran.err
        until(lambda job=job: failures(job) != {"3.jpg": "decode/not-an-image"}, 60, place)
        # the failures are not the last file that is replaced
        until(lambda job=job: maskmill("doctor", job).code == 0, 60, place)
        after = (job / "instances.json").read_bytes()
        paused.send_signal(signal.SIGCONT)
        paused.wait(60)
        assert (job / "instances.json").read_bytes() == after, place
        assert maskmill("doctor", job).code == 0, place


def test_a_late_merge_message_in_mid_retry(
    made: Fleet, tmp_path: Path, out: Path, oracle: Oracle
) -> None:
    """It must not seal the dataset as if the retry were in it."""
    places = [tmp_path / f"{number}.jpg" for number in range(4)]
    for number, path in enumerate(places):
        path.write_bytes(jpeg(number))
    listed = tmp_path / "list.txt"
    listed.write_text("".join(f"{path}\n" for path in places))
    whole = places[2].read_bytes()
    places[2].write_bytes(b"no image")
    worker = made.worker()
    oracle.submit(made, out, photos=listed)
    made.await_merged(out)
    assert worker.stop() == 0
    places[2].write_bytes(whole)
    assert made.run("retry", out).code == 0
    made.app.send_task("maskmill.merge", kwargs={"job": str(out), "schema": 1}, queue="celery")
    made.worker()
    until(lambda: not failures(out), 60, "the retry is merged", made.logs)
    assert maskmill("doctor", out).code == 0


def test_a_merge_that_fails_is_sent_again(
    made: Fleet, tmp_path: Path, out: Path, oracle: Oracle
) -> None:
    """The worker that it failed on lives on, and does not keep the reconciler from it."""
    full = {"errno": errno.ENOSPC, "ledger": str(tmp_path / "full")}
    made.worker(fault={"who": "child", "path": "/out/instances.json", **full})
    made.beat()
    oracle.submit(made, out)
    made.await_merged(out, 180)
    oracle.check(out, "18. disk full")
    assert (tmp_path / "full.0").exists()


def test_two_beats_one_paused(made: Fleet, tmp_path: Path, out: Path, oracle: Oracle) -> None:
    """One scheduler sleeps through two rounds and then catches up; messages are lost meanwhile."""
    beats = [made.beat() for _ in range(2)]
    made.worker()
    for number in range(2):
        job = out / str(number)
        beats[0].process.send_signal(signal.SIGSTOP)
        oracle.submit(made, job)
        client_of(made.broker).delete("maskmill.onnx.any.normal")
        made.await_merged(job, 180)
        beats[0].process.send_signal(signal.SIGCONT)
        oracle.check(job, "15. two beats, one paused past its time")


def _paused_merger(out: Path, fault: dict[str, object]) -> subprocess.Popen[bytes]:
    """A merger that has stopped itself."""
    merger = subprocess.Popen(
        [MASKMILL, "merge", str(out)],
        env=environment({"who": "parent", **fault}),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )

    def stopped() -> bool:
        pid, how = os.waitpid(merger.pid, os.WUNTRACED | os.WNOHANG)
        assert pid == 0 or os.WIFSTOPPED(how), "it ended"
        return pid == merger.pid

    until(stopped, 60, f"the merger stops: {fault}")
    return merger
