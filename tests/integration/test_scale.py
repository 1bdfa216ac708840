"""What must not grow with a job: memory while it is planned, and requests when it is resumed."""

from __future__ import annotations

import base64
import tempfile
import tracemalloc
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
import redis

import storage.disk
from storage import put
from tasks.broker import BATCH, BrokerDown, make_app, queue_of, send_shards, waiting
from tasks.cards import Build, Card, Model
from tasks.categories import coco80
from tasks.folder import Folder
from tasks.inputs import find
from tasks.opening import commit_job
from tasks.plan import write_plan
from tasks.records import Asked, Counts, Job, ProducedBy, Selection, Settings, Shard, encode
from tasks.state import Fleet, State
from tasks.submit import send_missing
from tests.services import redis_server


@pytest.fixture(scope="module")
def redis_url() -> Iterator[str]:
    with redis_server() as url:
        yield url


@pytest.fixture
def broker(redis_url: str) -> str:
    redis.from_url(redis_url).flushall()
    return redis_url


def job_of(shards: int) -> Job:
    settings = Settings(categories=coco80(), class_ids=(), max_bytes=1, max_pixels=1)
    card = Card("x", "yolact", (Build("x.onnx"),), "coco80")
    model = Model(card, card.builds[0], "", "0" * 64, "onnx")
    asked = Asked(("in",), Selection(), model, settings, 1)
    return Job("run", asked, Counts(items=shards, shards=shards))


def sent_shards(broker: str, job: Job) -> list[int]:
    """What waits in the job's queue, the oldest first."""
    waiting = redis.from_url(broker).lrange(queue_of(job), 0, -1)
    bodies = (msgspec.json.decode(each)["body"] for each in reversed(waiting))
    return [msgspec.json.decode(base64.b64decode(each))[1]["shard"] for each in bodies]


@pytest.mark.parametrize("source", ["list", "listing"])
def test_planning_takes_no_more_memory_for_more_inputs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, source: str
) -> None:
    """Five times the inputs, from the words that a person types to the parts of the plan."""
    monkeypatch.setattr("tasks.plan.WRITERS", 1)

    def prepared(count: int) -> str:
        if source == "list":
            listed = tmp_path / f"{count}.txt"
            listed.write_text("".join(f"s3://bucket/{n:09d}.jpg\n" for n in range(count)))
            return str(listed)
        for n in range(count):
            path = tmp_path / str(count) / f"{n // 100:04d}" / f"{n:09d}.jpg"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()
        return str(tmp_path / str(count))

    def peak(count: int) -> int:
        word, out = prepared(count), tempfile.mkdtemp(dir=tmp_path)
        tracemalloc.start()
        _, counts = write_plan(out, b"", find([word]), Selection(), 50)
        top = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert (counts.items, counts.shards) == (count, count // 50)
        return top

    peak(500)
    # Threads that an earlier test left behind can only add to what is seen: the least is its own.
    few, many = (min(peak(count) for _ in range(3)) for count in (2000, 10_000))
    assert many < 1.2 * few


class Counted:
    """The requests that a store gets, by verb."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.calls: Counter[str] = Counter()
        for verb in ("open_versioned", "list_entries", "put", "delete"):
            monkeypatch.setattr(storage.disk, verb, self._counting(verb))

    def _counting(self, verb: str) -> Callable[..., Any]:
        real = getattr(storage.disk, verb)

        def call(*arguments: Any) -> Any:
            self.calls[verb] += 1
            return real(*arguments)

        return call


@pytest.mark.parametrize("shards", [100, 1000])
def test_resume_sends_what_is_missing_after_two_listings(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, broker: str, shards: int
) -> None:
    job, folder = job_of(shards), Folder(str(tmp_path / "out"), "run")
    assert commit_job(folder, job)
    maker = ProducedBy("0" * 64, "onnx", "1", "fp32", "", "avx2")
    done = encode(Shard(0, maker, (), (), ()))
    put(folder.shard(1), done)
    missing = list(range(0, shards, 50))
    for number in set(range(2, shards)) - set(missing):
        Path(folder.shard(number)).write_bytes(done)
    state, app = State(str(tmp_path / "state")), make_app(broker)
    counted = Counted(monkeypatch)
    assert send_missing(Fleet(app, state), job, folder) == len(missing)
    monkeypatch.undo()
    assert sent_shards(broker, job) == missing
    assert counted.calls["list_entries"] == 2, "of shards and of retries"
    assert sum(counted.calls.values()) <= 4, "however many shards there are"
    assert [each.uri for each in state.jobs()] == [folder.uri]
    app.close()


@pytest.mark.parametrize("count", [0, 1, BATCH - 1, BATCH, 2 * BATCH + 7])
def test_each_shard_gets_one_message_in_order(broker: str, count: int) -> None:
    job, app = job_of(count), make_app(broker)
    assert send_shards(app, "s3://b/out", job, range(count)) == count
    assert sent_shards(broker, job) == list(range(count))
    app.close()


def test_a_batch_that_breaks_off_is_sent_again(broker: str) -> None:
    """The broker hangs up while messages gather: none of them may be missing afterwards."""
    job, app = job_of(3 * BATCH), make_app(broker)
    server = redis.from_url(broker)

    def shards() -> Iterator[int]:
        for number in range(3 * BATCH):
            if number in (BATCH // 2, BATCH, 2 * BATCH + 1):
                server.execute_command("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
            yield number

    assert send_shards(app, "s3://b/out", job, shards()) == 3 * BATCH
    assert set(sent_shards(broker, job)) == set(range(3 * BATCH))
    app.close()


def test_a_broker_that_goes_away_is_said_to_be_down(broker: str) -> None:
    with redis_server() as url:
        app, job = make_app(url), job_of(2 * BATCH)
        assert send_shards(app, "s3://b/out", job, range(10)) == 10
        assert waiting(app, queue_of(job)) == 10
    with pytest.raises(BrokerDown):
        send_shards(app, "s3://b/out", job, range(2 * BATCH))
    app.close()
