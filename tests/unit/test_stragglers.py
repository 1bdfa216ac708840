"""What the reconciler sends again: which shards go to a second worker, and when patience ends."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from storage import put
from tasks import reconcile
from tasks.folder import Folder, attempt_uri
from tasks.reconcile import look_after, stragglers
from tasks.records import Attempt, encode
from tasks.state import KnownJob, State, WorkerNow

JOB: Any = SimpleNamespace(open=False, counts=SimpleNamespace(shards=2))


@pytest.mark.parametrize(
    ("in_hand", "slow"),
    [
        pytest.param([(1, 400.0)], [1], id="one worker has it"),
        pytest.param([(1, 980.0)], [], id="not yet for long"),
        pytest.param([(1, 400.0), (1, 990.0)], [], id="a second one has it as well"),
        pytest.param([(None, 400.0)], [], id="nobody has it: it is lost, not slow"),
    ],
)
def test_a_shard_that_one_worker_alone_has_for_too_long(
    tmp_path: Path, in_hand: list[Any], slow: list[int]
) -> None:
    folder = Folder(str(tmp_path), "0a")
    done = Attempt(worker="a", started=600, beat=610, ended="committed")
    put(attempt_uri(folder.attempts(0), 0), encode(done))
    busy = [
        WorkerNow(id=name, at=1000.0, cores=1, processor="", engines=(), shard=shard, since=since)
        for name, (shard, since) in zip("bc", in_hand, strict=False)
    ]
    assert stragglers(folder, JOB, [1], busy) == slow


def test_an_open_job_is_merged_though_others_fill_its_queue(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Looks alone do not renew the patience with messages that wait."""
    sent: list[float] = []
    clock = [1000.0]
    job = SimpleNamespace(open=True, run="0a", asked=None)
    monkeypatch.setattr(reconcile.time, "time", lambda: clock[0])
    monkeypatch.setattr(reconcile, "read_job", lambda uri: job)
    monkeypatch.setattr(reconcile, "missing_shards", lambda folder, job: [])
    monkeypatch.setattr(reconcile, "is_merged", lambda folder, job: False)
    monkeypatch.setattr(reconcile, "stragglers", lambda *_: [])
    monkeypatch.setattr(reconcile, "queue_of", lambda job: "queue")
    monkeypatch.setattr(reconcile, "waiting", lambda app, queue: True)
    monkeypatch.setattr(reconcile, "send_merge", lambda app, uri: sent.append(clock[0]))
    app: Any = None
    state = State(str(tmp_path / "state"))
    uri = str(tmp_path / "out")
    state.register(KnownJob(uri, "0a", clock[0]))
    for _ in range(60):
        clock[0] += 30
        (known,) = state.jobs()
        look_after(app, state, known, [])
    assert sent == [1600.0, 2200.0, 2800.0]
