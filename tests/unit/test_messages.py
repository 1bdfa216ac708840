"""What a message may say, and what of the state folder is passed over."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from storage import list_entries, put
from tasks.broker import ShardMessage
from tasks.folder import Folder, JobError
from tasks.state import KnownJob, State

GOOD = {"job": "s3://b/out", "run": "3cb0548c4c9e", "shard": 3}


def test_a_shard_is_a_number_or_a_hash() -> None:
    assert msgspec.convert(GOOD, ShardMessage).shard == 3
    assert msgspec.convert(GOOD | {"shard": "0f" * 16}, ShardMessage).shard == "0f" * 16


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"shard": "../../../in/evil"}, "it would leave the job folder"),
        ({"shard": -1}, "no such shard"),
        ({"run": "../other"}, "it would leave the job folder"),
        ({"schema": 2}, "of another version"),
        ({"more": 1}, "a field that is not ours"),
        ({"job": 5}, "no URI"),
    ],
)
def test_a_message_that_does_not_fit(change, why) -> None:
    with pytest.raises(msgspec.ValidationError):
        msgspec.convert(GOOD | change, ShardMessage)


def test_a_shard_that_no_plan_has_is_no_passing_trouble(tmp_path: Path) -> None:
    with pytest.raises(JobError, match="no such shard"):
        Folder(str(tmp_path), "run").read_plan(999)


def test_a_damaged_entry_of_the_state_folder_is_passed_over(tmp_path: Path) -> None:
    state = State(str(tmp_path))
    known = KnownJob("s3://b/out", "run", 1.0)
    state.register(known)
    put(f"{state.uri}/jobs/zz.json", b"{")
    put(f"{state.uri}/workers/zz.json", b"{")
    assert list(state.jobs()) == [known]
    assert state.present() == []
    assert state.known(known.uri, "run") == known
    assert state.known(known.uri, "another") is None
    assert state.known("s3://b/other", "run") is None
    put(next(list_entries(f"{state.uri}/jobs/")).uri, b"{")
    assert state.known(known.uri, "run") is None
