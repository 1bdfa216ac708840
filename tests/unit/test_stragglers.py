"""Which shards go to a second worker."""

from __future__ import annotations

import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from storage import put
from tasks.folder import Folder, attempt_uri
from tasks.records import Attempt, encode
from tasks.stragglers import stragglers

JOB: Any = SimpleNamespace(open=False, counts=SimpleNamespace(shards=2))


@pytest.mark.parametrize(
    ("in_hand", "slow"),
    [
        pytest.param([1], [1], id="one worker has it, after another that lost its power"),
        pytest.param([1, 1], [], id="a second one has it as well"),
        pytest.param([None], [], id="nobody has it: it is lost, not slow"),
    ],
)
def test_a_shard_that_one_worker_alone_has_for_too_long(
    tmp_path: Path, in_hand: list[Any], slow: list[int]
) -> None:
    folder, now = Folder(str(tmp_path), "0a"), time.time()
    tried = {
        (0, 0): Attempt(worker="a", started=now - 400, beat=now - 390, ended="committed"),
        (1, 0): Attempt(worker="b", started=now - 900, beat=now - 800),
        (1, 1): Attempt(worker="c", started=now - 600, beat=now),
    }
    for (shard, number), attempt in tried.items():
        put(attempt_uri(folder.attempts(shard), number), encode(attempt))
    assert stragglers(folder, JOB, [1], in_hand) == slow
