"""What the spool takes, gives back and drops."""

from __future__ import annotations

import logging
import os
from pathlib import Path

import msgspec
import pytest

from tasks.folder import Due, Folder
from tasks.records import Failure, Image, ProducedBy, Shard
from worker import jobs
from worker import spool as its
from worker.spool import all_kept, forget, keep, kept_of
from worker.station import Station

BY = ProducedBy("a" * 64, "onnx", "1", "fp32", "", "avx2")
JOB = Folder("s3://bucket/out", "0a")
MOST = 64 << 20
FIRST, SECOND = Due(JOB, 7, 0), Due(JOB, 7, 1)


def record(*failed: str) -> Shard:
    images = (Image(1, "1.jpg", 4, 3), Image(2, "2.jpg", 4, 3))
    failures = (Failure(3 + n, "", "", "fetch", kind, "") for n, kind in enumerate(failed))
    return Shard(7, BY, images, (), tuple(failures))


@pytest.fixture(autouse=True)
def spool(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("MASKMILL_SPOOL", str(tmp_path / "spool"))
    return tmp_path / "spool"


def test_a_shard_is_kept_and_given_back(spool: Path) -> None:
    keep(FIRST, record("not-found"), 4, MOST)
    assert kept_of(FIRST, BY) == record("not-found")
    assert [each.whole for each in all_kept()] == [False]
    keep(FIRST, record("not-found", "not-found"), 4, MOST)
    assert [each.whole for each in all_kept()] == [True]
    forget(FIRST)
    assert not list(spool.iterdir())
    assert kept_of(FIRST, BY) == Shard(7, BY, (), (), ())


def test_an_input_out_of_reach_is_tried_again() -> None:
    keep(FIRST, record("unreachable"), 3, MOST)
    assert kept_of(FIRST, BY) == record()
    assert [each.whole for each in all_kept()] == [False]


def test_another_kind_of_worker_or_generation_starts_anew() -> None:
    keep(FIRST, record(), 2, MOST)
    other = msgspec.structs.replace(BY, delegate="vx")
    assert kept_of(FIRST, other).images == ()
    assert kept_of(SECOND, BY).images == ()
    assert kept_of(Due(Folder(JOB.uri, "0b"), 7, 0), BY).images == ()


def test_a_full_spool_keeps_nothing(spool: Path, caplog: pytest.LogCaptureFixture) -> None:
    keep(FIRST, record(), 2, MOST)
    (file,) = spool.iterdir()
    most = file.stat().st_size + 1
    keep(FIRST, record(), 2, most)  # the same shard again takes the place of the first
    with caplog.at_level(logging.WARNING):
        keep(SECOND, record(), 2, most)
    assert [each.due for each in all_kept()] == [FIRST]
    assert "is full" in caplog.text


def test_what_a_power_cut_left_is_dropped(spool: Path) -> None:
    keep(FIRST, record(), 2, MOST)
    (whole,) = spool.iterdir()
    half = spool / "0.json"
    half.write_bytes(whole.read_bytes()[:-9])
    young = spool / ".maskmill-tmp-1"
    young.write_bytes(b"")
    assert len(list(all_kept())) == 1
    assert half.exists(), "another worker may be about to write it"
    os.utime(half, (0, 0))
    assert len(list(all_kept())) == 1
    assert sorted(spool.iterdir()) == sorted([whole, young])


def test_two_workers_deliver_from_one_spool(spool: Path) -> None:
    keep(FIRST, record(), 2, MOST)
    keep(SECOND, record(), 2, MOST)
    kept = all_kept()
    next(kept)
    forget(FIRST)
    forget(SECOND)  # the other worker has delivered both
    assert list(kept) == []


def test_without_a_folder_nothing_is_kept(spool: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MASKMILL_SPOOL", "")
    keep(FIRST, record(), 2, MOST)
    assert not spool.exists()
    assert not list(all_kept())


def test_one_job_out_of_reach_holds_up_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "damaged").mkdir()
    (tmp_path / "damaged" / "job.json").write_bytes(b"{")
    for name in ("damaged", "gone"):
        keep(Due(Folder(str(tmp_path / name), "0a"), 7, 0), record(), 2, MOST)
    kept = sorted(all_kept(), key=lambda each: each.due.uri)
    monkeypatch.setattr(its, "all_kept", lambda: iter(kept))
    jobs.deliver(Station())
    assert "damaged stays in the spool" in caplog.text
    assert [each.due.folder.uri for each in all_kept()] == [str(tmp_path / "damaged")]
