"""Which shards go to a second worker."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from storage import put
from tasks.folder import Folder, attempt_uri
from tasks.reconcile import stragglers
from tasks.records import Attempt, encode
from tasks.state import WorkerNow

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
