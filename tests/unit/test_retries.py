"""Failed inputs that are tried again: a part of each shard that has some, beside the plan."""

from __future__ import annotations

from pathlib import Path

import pytest
from msgspec.structs import replace

from storage import put
from tasks.folder import Folder, missing_shards
from tasks.following import retry_job
from tasks.merge import Outdated, is_merged, merge_all
from tasks.records import Problem, encode, encode_lines
from tests.unit.test_dataset_videos import MIXED, NOTHING_DRAWN, dataset, ended, item, planned

ITEMS = [item(n, *each) for n, each in enumerate(MIXED, 1)]


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    return Folder(str(tmp_path / "out"), "run")


@pytest.fixture
def sent(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[list[int]]:
    """What a retry would send."""
    sent: list[list[int]] = []
    monkeypatch.setenv("MASKMILL_STATE", str(tmp_path / "state"))
    monkeypatch.setattr(
        "tasks.submit.send_shards", lambda app, uri, job, shards: sent.append(shards) or len(shards)
    )
    return sent


def test_a_retry_plans_what_failed_and_no_more(folder: Folder, sent: list[list[int]]) -> None:
    planned(folder, 3, failing=[2, 3, 7])
    retry_job(folder.uri, "model")
    assert not sent, "nothing failed there"
    retry_job(folder.uri, "fetch, decode")
    assert sent == [[0, 2]]
    assert folder.read_plan(0, 1) == tuple(ITEMS[1:3])
    assert folder.read_plan(2, 1) == (ITEMS[6],)
    assert [folder.generation_due(shard) for shard in (0, 1, 2)] == [1, None, 1]


def test_what_was_not_there_to_be_planned_is_not_tried_again(
    folder: Folder, sent: list[list[int]]
) -> None:
    planned(folder, 3, failing=[2, 3])
    gone = replace(ITEMS[1], frame=None, problem=Problem("fetch", "not-found", "it is gone"))
    put(folder.plan(0), encode_lines((ITEMS[0], gone, ITEMS[2])))
    retry_job(folder.uri, "")
    assert folder.read_plan(0, 1) == (ITEMS[2],)
    put(folder.shard(0, 1), encode(ended(0, ITEMS[2:3])))
    assert "to try again" in "".join(retry_job(folder.uri, "").lines)
    assert sent == [[0]]


def test_what_fails_again_is_tried_in_the_next_generation(
    folder: Folder, sent: list[list[int]]
) -> None:
    planned(folder, 3, failing=[2, 3, 7])
    retry_job(folder.uri, "")
    put(folder.shard(0, 1), encode(ended(0, ITEMS[1:3], failing=[3])))
    put(folder.shard(2, 1), encode(ended(2, ITEMS[6:])))
    retry_job(folder.uri, "")
    assert sent == [[0, 2], [0]]
    assert folder.read_plan(0, 2) == (ITEMS[2],)


def test_a_merge_that_came_between_two_parts_of_a_retry_is_not_the_last(folder: Folder) -> None:
    job = planned(folder, 3, failing=[2, 7])
    put(folder.plan(0, 1), encode(ITEMS[1]) + b"\n")
    put(folder.shard(0, 1), encode(ended(0, ITEMS[1:2])))
    merge_all(folder, job, NOTHING_DRAWN)
    assert is_merged(folder, job)
    put(folder.plan(2, 1), encode(ITEMS[6]) + b"\n")  # by who was cut off, or is slow
    assert not is_merged(folder, job)
    assert missing_shards(folder, job) == [2]
    with pytest.raises(Outdated):
        merge_all(folder, job, NOTHING_DRAWN)
    put(folder.shard(2, 1), encode(ended(2, ITEMS[6:])))
    merge_all(folder, job, NOTHING_DRAWN)
    assert is_merged(folder, job)
    assert len(dataset(folder)["images"]) == len(ITEMS)
