"""The tasks of `maskmill annotate` on a plain Celery worker over a real Redis."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tasks.broker import make_app, queue_of, send_merge, send_shards
from tasks.folder import missing_shards, read_run
from tasks.opening import ask, open_job, sources
from tasks.records import Selection
from tasks.shelf import find_model
from tasks.wishes import Wishes, settings_of
from tests.graphs import write_model
from tests.pictures import write_folder
from tests.running import environment, maskmill
from tests.services import redis_server


@pytest.fixture(scope="module")
def broker() -> Iterator[str]:
    with redis_server() as url:
        yield url


def test_a_plain_celery_worker_makes_the_same_bytes(tmp_path: Path, broker: str) -> None:
    photos, card = write_folder(tmp_path / "in", 9), write_model(tmp_path, "b")
    command = ("annotate", photos, "-m", card, "--shard-size", 2)
    assert maskmill(*command, "-o", tmp_path / "local").code == 0
    model = find_model(str(card))
    settings = settings_of(model, Wishes(model=str(card), output=""))
    given = sources([str(photos)], Selection())
    asked = ask(given, model, settings, 2)
    job, folder = open_job(str(tmp_path / "fleet"), given, asked, model.path)
    app = make_app(broker)
    # a message that comes twice changes nothing
    send_shards(app, folder.uri, job, [*range(job.counts.shards), 0])
    celery = [sys.executable, "-m", "celery", "-A", "worker.app", "worker", "--pool", "solo"]
    worker = subprocess.Popen(
        [*celery, "-Q", f"{queue_of(job)},celery", "-l", "WARNING"],
        env=environment(MASKMILL_BROKER_URL=broker),
        cwd=Path(__file__).parents[2],
        stderr=subprocess.PIPE,
    )
    try:
        _wait(lambda: not missing_shards(folder, job), worker)
        send_merge(app, folder.uri)
        _wait(lambda: read_run(folder) is not None, worker)
    finally:
        worker.kill()
        worker.communicate()
        app.close()
    dataset = (tmp_path / "fleet" / "instances.json").read_bytes()
    assert dataset == (tmp_path / "local" / "instances.json").read_bytes()


def _wait(done: Callable[[], bool], worker: subprocess.Popen[bytes]) -> None:
    end = time.monotonic() + 60
    while not done():
        assert worker.poll() is None, worker.communicate()[1]
        assert time.monotonic() < end, "the worker is not done after a minute"
        time.sleep(0.05)
