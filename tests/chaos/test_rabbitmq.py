"""A fleet over Debian's RabbitMQ: quorum queues, confirmed messages, a broker that is killed."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from celery import Celery

from tasks.broker import BrokerDown, queues_for, waiting
from tasks.folder import Folder, missing_shards, read_job
from tests.fleet import Fleet, fleet, until
from tests.graphs import write_model
from tests.pictures import write_folder
from tests.running import maskmill
from tests.services import RabbitMQ, rabbitmq_server

SHARED = "--shared-paths"
IMAGES = 24


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RabbitMQ]:
    with rabbitmq_server(tmp_path_factory.mktemp("rabbitmq")) as made:
        yield made


@pytest.fixture
def rabbits(tmp_path: Path, node: RabbitMQ) -> Iterator[Fleet]:
    with fleet(tmp_path / "fleet", node.url) as made:
        yield made
        with made.app.connection_for_write() as connection:
            for name in queues_for(("onnx",), ("cloud",)):
                connection.default_channel.queue_purge(name)


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_folder(tmp_path_factory.mktemp("photos"), IMAGES)


@pytest.fixture(scope="module")
def card(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("model"), "b")


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory, photos: Path, card: Path) -> bytes:
    out = tmp_path_factory.mktemp("local") / "out"
    assert maskmill("annotate", photos, "-m", card, "-o", out).code == 0
    return (out / "instances.json").read_bytes()


def left(output: Path) -> int:
    job = read_job(str(output))
    assert job is not None
    return len(missing_shards(Folder(str(output), job.run), job))


def survived(rabbits: Fleet) -> int:
    """The messages that a broker has which has just been started; it listens before it is ready."""
    try:
        return waiting(rabbits.app, "maskmill.onnx.any.normal")
    except BrokerDown:
        return -1


def test_a_job_over_quorum_queues(
    rabbits: Fleet, node: RabbitMQ, tmp_path: Path, photos: Path, card: Path, undisturbed: bytes
) -> None:
    rabbits.worker()
    out = tmp_path / "out"
    command = ("submit", photos, "-m", card, "-o", out, SHARED, "--shard-size", 2, "--wait")
    ran = rabbits.run(*command, "--json")
    assert ran.code == 0, ran.err
    assert (out / "instances.json").read_bytes() == undisturbed
    listed = node.control("list_queues", "name", "type", "durable", "--formatter", "json")
    queues = {each["name"]: (each["type"], each["durable"]) for each in json.loads(listed)}
    ours = {name for name in queues if not name.endswith(".pidbox")}
    assert ours >= set(queues_for(("onnx",), ("cloud",)))
    assert {queues[name] for name in ours} == {("quorum", True)}
    until(lambda: not any(waiting(rabbits.app, name) for name in ours), what="all is acknowledged")
    looked = rabbits.run("doctor", "--json").events[0]["fleet"]
    assert looked["broker"] == node.url.replace("guest:guest@", "") + ": answers"


def test_the_broker_is_killed_in_mid_job(
    rabbits: Fleet, node: RabbitMQ, tmp_path: Path, photos: Path, card: Path, undisturbed: bytes
) -> None:
    """What it confirmed it has on its disk; the worker comes back to it by itself."""
    out = tmp_path / "out"
    assert rabbits.run("submit", photos, "-m", card, "-o", out, SHARED, "--shard-size", 1).code == 0
    until(lambda: node.has_registered("maskmill.onnx.any.normal"))
    for _ in range(2):
        node.kill()
        node.start()
        until(lambda: survived(rabbits) == IMAGES)
    rabbits.worker()
    until(lambda: left(out) < IMAGES - 4, 60, "some shards are done", rabbits.logs)
    node.kill()
    some = left(out)
    assert some > 0, "the broker was killed too late"
    refused = rabbits.run("submit", photos, "-m", card, "-o", tmp_path / "no", SHARED)
    assert (refused.code, refused.err.count("\n")) == (4, 1), refused.err
    assert "the broker does not answer" in refused.err
    node.start()
    assert rabbits.await_merged(out, 120) == undisturbed


def test_the_computing_process_is_killed(
    rabbits: Fleet, tmp_path: Path, photos: Path, card: Path, undisturbed: bytes
) -> None:
    """Its connection ends with it, and RabbitMQ gives its message to the next at once."""
    out = tmp_path / "out"
    worker = rabbits.worker()
    assert rabbits.run("submit", photos, "-m", card, "-o", out, SHARED, "--shard-size", 1).code == 0
    for done in (2, 8):
        until(lambda done=done: left(out) <= IMAGES - done, 60, "shards are done", rabbits.logs)
        worker.kill_child()
    assert rabbits.await_merged(out, 120) == undisturbed


def test_cancel_and_resume(
    rabbits: Fleet, tmp_path: Path, photos: Path, card: Path, undisturbed: bytes
) -> None:
    out = tmp_path / "out"
    command = ("submit", photos, "-m", card, "-o", out, SHARED, "--shard-size", 1)
    assert rabbits.run(*command).code == 0
    assert rabbits.run("cancel", out).code == 0
    worker = rabbits.worker()
    until(lambda: worker.said().count("is cancelled") == IMAGES, 60, "all let go", worker.said)
    assert left(out) == IMAGES
    assert rabbits.run("resume", out).code == 0
    assert rabbits.await_merged(out, 60) == undisturbed


def test_plain_celery_takes_what_is_sent(
    rabbits: Fleet, tmp_path: Path, photos: Path, card: Path, undisturbed: bytes
) -> None:
    """Whoever declares a queue first, the other finds it as it would have it."""
    for priority in ("high", "normal"):
        out = tmp_path / priority
        command = ("submit", photos, "-m", card, "-o", out, SHARED, "--shard-size", 6)
        assert rabbits.run(*command, "--priority", priority).code == 0
        if priority == "high":
            rabbits.plain_celery("--pool", "solo", "-l", "WARNING")
        assert rabbits.await_merged(out) == undisturbed


def test_a_bare_client_names_the_queue_type(
    rabbits: Fleet, node: RabbitMQ, tmp_path: Path, photos: Path, card: Path, undisturbed: bytes
) -> None:
    """Celery declares the queue that it sends to; another type than it has would be refused."""
    rabbits.worker()
    bare = Celery(broker=node.url)
    bare.conf.task_default_queue_type = "quorum"
    bare.conf.broker_transport_options = {"confirm_publish": True}
    out = tmp_path / "out"
    body = {"schema": 1, "inputs": [str(photos)], "model": str(card), "output": str(out)}
    bare.send_task("maskmill.submit", kwargs=body)
    bare.close()
    assert rabbits.await_merged(out) == undisturbed


def test_a_wrong_password_and_a_wrong_vhost(
    node: RabbitMQ, tmp_path: Path, photos: Path, card: Path
) -> None:
    for url, words in (
        (node.url.replace("guest:guest", "guest:s3cret"), "ACCESS_REFUSED"),
        (node.url.removesuffix("/") + "nowhere", "nowhere"),
    ):
        gone = Fleet(tmp_path / "fleet", url)
        ran = gone.run("submit", photos, "-m", card, "-o", tmp_path / "out", SHARED)
        assert (ran.code, ran.err.count("\n")) == (4, 1), ran.err
        assert words in ran.err
        assert "s3cret" not in ran.err + gone.run("doctor").out
        gone.close()
