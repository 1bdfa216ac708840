"""The spool: what was done when the store went away is written when it is back, and done once."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from storage import get
from storage.uris import join
from tests.contract.test_s3_faults import Proxy, drop, status
from tests.faults import Oracle, client_of, make_oracle, over_s3, recover
from tests.fleet import Worker, until
from worker.spool import all_kept

VERBS = ("GET", "HEAD", "PUT", "POST", "DELETE")


@pytest.fixture(scope="module")
def oracle(tmp_path_factory: pytest.TempPathFactory) -> Oracle:
    return make_oracle(tmp_path_factory.mktemp("oracle"))


class Counted:
    """Inferences, over all processes: each leaves a file, and takes a while."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir()
        self._folder = folder
        self.fault: Any = {
            "who": "child",
            "call": "worker.shard:infer",
            "always": True,
            "sleep": 0.3,
            "ledger": str(folder / "infer"),
            "times": 1000,
        }

    def __call__(self) -> int:
        return len(list(self._folder.iterdir()))


@pytest.fixture
def spool(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("MASKMILL_SPOOL", str(tmp_path / "spool"))
    return tmp_path / "spool"


def killed_in_between(worker: Worker, spool: Path) -> int:
    """With something kept and the store still away; how many inputs are kept."""
    until(lambda: list(spool.glob("*.json")), 120, "something is kept", worker.said)
    worker.kill()
    (kept,) = all_kept()
    return len(kept.record.images) + len(kept.record.failures)


def test_the_network_goes_away_in_mid_shard(
    tmp_path: Path, oracle: Oracle, moto: str, moto_s3: str, spool: Path
) -> None:
    counted, proxy = Counted(tmp_path / "count"), Proxy(moto)
    with over_s3(tmp_path, oracle, moto_s3, proxy) as s3:
        worker = s3.fleet.worker(fault=counted.fault)
        oracle.submit(s3.fleet, s3.out, "--shard-size", 12, photos=s3.photos)
        until(lambda: counted() > 2, 120, "some are done", s3.fleet.logs)
        proxy.always = dict.fromkeys(VERBS, drop)
        kept = killed_in_between(worker, spool)
        assert 2 < kept == counted() < 12, "all that was fetched, and nothing else"
        for name in ("0.json", ".maskmill-tmp-0"):  # as a power cut leaves them
            (spool / name).write_bytes(b'{"job":"s3://buc')
            os.utime(spool / name, (0, 0))
        proxy.always = {}
        s3.fleet.worker(fault=counted.fault)
        recover(s3.fleet, s3.out)
        oracle.check(s3.out)
        assert counted() == 12, "none twice"
        until(lambda: not list(spool.iterdir()), what="the spool is empty")


def test_a_finished_shard_that_cannot_be_written(
    tmp_path: Path, oracle: Oracle, moto: str, moto_s3: str, spool: Path
) -> None:
    """It is delivered with no message left, and the merge follows."""
    counted, proxy = Counted(tmp_path / "count"), Proxy(moto)
    with over_s3(tmp_path, oracle, moto_s3, proxy) as s3:
        worker = s3.fleet.worker(fault=counted.fault)
        oracle.submit(s3.fleet, s3.out, "--shard-size", 12, photos=s3.photos)
        until(lambda: counted() > 0, 120, "it has begun", s3.fleet.logs)
        proxy.always = {"PUT": status(503, "SlowDown")}
        assert killed_in_between(worker, spool) == 12
        client_of(s3.fleet.broker).flushall()
        proxy.always = {}
        s3.fleet.worker(fault=counted.fault)
        until(lambda: not list(spool.iterdir()), 120, "it is delivered", s3.fleet.logs)
        until(lambda: _is_there(join(s3.out, "run.json")), 120, "it is merged", s3.fleet.logs)
        oracle.check(s3.out)
        assert counted() == 12


def _is_there(uri: str) -> bool:
    try:
        return bool(get(uri))
    except FileNotFoundError:
        return False
