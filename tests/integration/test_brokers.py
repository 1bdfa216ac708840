"""Brokers as they are run for real: passwords, rights, TLS, SQS over HTTP, and an urgent job."""

from __future__ import annotations

import datetime
import ipaddress
import os
import signal
import socket
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import redis
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from tasks.broker import BrokerDown, waiting
from tasks.events import drain
from tasks.folder import Folder, missing_shards, read_job
from tests.fleet import Fleet, fleet, until
from tests.graphs import write_model
from tests.pictures import write_folder
from tests.running import maskmill
from tests.services import redis_server

SHARED = "--shared-paths"
SECRET = "s3cr%2Fet"  # as it stands in a URL; the slash would end the host's part
PLAIN = "s3cr/et"
# The least that Celery and kombu 5.7 need on Redis 6.2 and later. Its own queues, the queues of
# remote control, and what kombu notes down; nothing that empties, configures or spies. redis-py
# goes on when it may not say its name by CLIENT, whose subcommands are others in each Redis.
RIGHTS = (
    "~celery* ~maskmill.* ~_kombu.* ~unacked* ~*.pidbox* &* -@all +@connection +@read +@write"
    " +@pubsub +@transaction +@scripting +select +time -@dangerous"
)


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_folder(tmp_path_factory.mktemp("photos"), 6)


@pytest.fixture(scope="module")
def card(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("model"), "b")


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory, photos: Path, card: Path) -> bytes:
    out = tmp_path_factory.mktemp("local") / "out"
    assert maskmill("annotate", photos, "-m", card, "-o", out).code == 0
    return (out / "instances.json").read_bytes()


def works(made: Fleet, photos: Path, card: Path, out: Path, undisturbed: bytes) -> None:
    command = ("submit", photos, "-m", card, "-o", out, SHARED, "--shard-size", 2, "--wait")
    made.worker("-m", str(card))
    ran = made.run(*command)
    assert ran.code == 0, ran.err + made.logs()
    assert (out / "instances.json").read_bytes() == undisturbed
    assert PLAIN not in made.logs()
    assert SECRET not in made.logs()


def refused(made: Fleet, photos: Path, card: Path, out: Path) -> str:
    """What submit and doctor say of a broker that does not let us in: one sentence, no secret."""
    ran = made.run("submit", photos, "-m", card, "-o", out, SHARED)
    looked = made.run("doctor")
    made.close()
    assert (ran.code, ran.err.count("\n")) == (4, 1), ran.err
    assert "the broker does not answer" in ran.err
    assert "the broker does not answer" in looked.out
    for said in (ran.err, looked.out, looked.err):
        assert not any(word in said for word in (SECRET, PLAIN, "wrong")), said
    return ran.err


def test_a_redis_user_with_the_least_rights(
    tmp_path: Path, photos: Path, card: Path, undisturbed: bytes
) -> None:
    owner = ("--user", "default", "on", f">{PLAIN}", "~*", "&*", "+@all")
    with redis_server(*owner, "--user", "maskmill", "on", f">{PLAIN}", *RIGHTS.split()) as url:
        place = urlsplit(url).netloc
        with fleet(tmp_path / "fleet", f"redis://maskmill:{SECRET}@{place}/5") as made:
            works(made, photos, card, tmp_path / "out", undisturbed)
            assert made.app.control.inspect(timeout=5).ping()
            looked = made.run("doctor", "--json").events[0]
            assert looked["fleet"]["broker"] == f"redis://{place}/5: answers"
            assert looked["fleet"]["messages"] == "none waits"
            assert looked["fleet"]["state"].endswith("reads and writes")
            assert looked["settings"]["MASKMILL_BROKER_URL"] == f"redis://…@{place}/5"
        with redis.Redis.from_url(f"redis://:{SECRET}@{place}/0") as client:
            denied = {entry["object"] for entry in client.acl_log()}
            assert {name.partition("|")[0] for name in denied} <= {"client"}, "the rights do"
            assert client.dbsize() == 0, "all lies in the database that the URL names"
        with fleet(tmp_path / "owner", f"redis://:{SECRET}@{place}/6") as made:
            assert waiting(made.app, "maskmill.onnx.any.low") == 0
        for user in ("maskmill:wrong", ":wrong", ""):
            with fleet(tmp_path / "no", f"redis://{user}@{place}/5".replace("//@", "//")) as made:
                said = refused(made, photos, card, tmp_path / "no" / "out")
                assert "uthentication" in said or "password" in said


def test_redis_behind_tls(tmp_path: Path, photos: Path, card: Path, undisturbed: bytes) -> None:
    """TLS ends in front of Redis: the Redis of the test extra is built without it."""
    ours, other = certificate(tmp_path / "ours"), certificate(tmp_path / "other")
    with redis_server("--requirepass", PLAIN) as url, tls(ours, urlsplit(url).port or 0) as port:
        broker = f"rediss://:{SECRET}@127.0.0.1:{port}/0"
        with fleet(tmp_path / "fleet", broker, MASKMILL_BROKER_CA=str(ours)) as made:
            works(made, photos, card, tmp_path / "out", undisturbed)
        for trusted in ({"MASKMILL_BROKER_CA": str(other)}, {}):
            with fleet(tmp_path / "no", broker, **trusted) as made:
                assert "certificate" in refused(made, photos, card, tmp_path / "no" / "out").lower()
        made = Fleet(tmp_path / "no", broker.replace("127.0.0.1", "localhost"))
        ran = made.run("doctor", MASKMILL_BROKER_CA=str(ours))
        assert "ertificate" in ran.out, "the name in it is not the host's"
        ran = made.run("doctor", MASKMILL_BROKER_CA=str(tmp_path / "none.pem"))
        assert "which is no file" in ran.out


def test_a_queue_of_events_behind_tls(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ours, other = certificate(tmp_path / "ours"), certificate(tmp_path / "other")
    with redis_server("--requirepass", PLAIN) as url, tls(ours, urlsplit(url).port or 0) as port:
        queue, taken = f"rediss://:{SECRET}@127.0.0.1:{port}/0/events", list[tuple[str, Any]]()
        redis.Redis.from_url(url, password=PLAIN).rpush("events", "not JSON")

        def look(queue: str) -> None:
            drain(queue, pytest.fail, lambda *letter: taken.append(letter))

        for place, trusted in (
            (queue, other),
            (queue, None),
            (queue.replace("127.0.0.1", "localhost"), ours),
        ):
            monkeypatch.setenv("MASKMILL_BROKER_CA", str(trusted or ""))
            with pytest.raises(BrokerDown, match="CERTIFICATE_VERIFY_FAILED") as caught:
                look(place)
            assert SECRET not in str(caught.value)
        assert taken == []
        monkeypatch.setenv("MASKMILL_BROKER_CA", str(ours))
        look(queue)
        assert [letter["message"] for _, letter in taken] == ["not JSON"]


def test_an_sqs_over_http(
    tmp_path: Path,
    photos: Path,
    card: Path,
    undisturbed: bytes,
    moto: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "testing")
    with fleet(tmp_path / "fleet", "sqs://", AWS_ENDPOINT_URL_SQS=moto) as made:
        works(made, photos, card, tmp_path / "out", undisturbed)

        def at_rest() -> bool:
            """Each of several workers that end a job at once may have sent its merge."""
            looked = made.run("doctor", "--json").events[0]["fleet"]
            assert looked["broker"] == "sqs://: answers"
            return bool(looked["messages"] == "none waits")

        until(at_rest, what="the queues are empty")
    made = Fleet(tmp_path / "no", "sqs://", AWS_ENDPOINT_URL_SQS="http://127.0.0.1:1")
    refused(made, photos, card, tmp_path / "no" / "out")


def test_an_urgent_job_overtakes_a_flood(tmp_path: Path, card: Path) -> None:
    flood, urgent = write_folder(tmp_path / "a", 150), write_folder(tmp_path / "b", 2, 200)
    with fleet(tmp_path / "fleet") as made:
        out = tmp_path / "flood"
        ran = made.run("submit", flood, "-m", card, "-o", out, SHARED, "--shard-size", 1)
        assert ran.code == 0, ran.err
        assert waiting(made.app, "maskmill.onnx.any.low") == 150, "many shards go to the low queue"
        job = read_job(str(out))
        assert job is not None
        folder = Folder(str(out), job.run)
        worker = made.worker("-m", str(card))
        until(lambda: len(missing_shards(folder, job)) < 150, 60, "the flood runs", made.logs)
        os.kill(worker.child(), signal.SIGSTOP)  # or the flood is over before the command has begun
        small = ("submit", urgent, "-m", card, "-o", tmp_path / "urgent", SHARED)
        assert made.run(*small, "--priority", "high").code == 0
        left = len(missing_shards(folder, job))
        assert left > 50, "the flood was over before"
        os.kill(worker.child(), signal.SIGCONT)
        made.await_merged(out)
        merged = (tmp_path / "urgent" / "run.json").stat().st_mtime_ns
        after = sum(os.stat(folder.shard(n)).st_mtime_ns > merged for n in range(150))
        assert after >= left - 2, "the urgent job waited for the shards in hand, not for the flood"


def certificate(folder: Path) -> Path:
    """A self-signed certificate of 127.0.0.1 with its key, in one file."""
    folder.mkdir()
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "maskmill test")])
    now = datetime.datetime.now(datetime.timezone.utc)
    address = x509.IPAddress(ipaddress.ip_address("127.0.0.1"))
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([address]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .sign(key, hashes.SHA256())
    )
    pem = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    path = folder / "server.pem"
    path.write_bytes(made.public_bytes(serialization.Encoding.PEM) + pem)
    return path


@contextmanager
def tls(pem: Path, behind: int) -> Iterator[int]:
    """A port on which TLS ends, in front of a port of this machine."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(pem)

    def pump(source: socket.socket, target: socket.socket) -> None:
        with suppress(OSError):
            while data := source.recv(1 << 16):
                target.sendall(data)
        with suppress(OSError):
            target.shutdown(socket.SHUT_RDWR)

    def serve(plain: socket.socket) -> None:
        with (
            suppress(OSError),
            context.wrap_socket(plain, server_side=True) as client,
            socket.create_connection(("127.0.0.1", behind)) as server,
        ):
            back = threading.Thread(target=pump, args=(server, client), daemon=True)
            back.start()
            pump(client, server)
            back.join()

    def accept() -> None:
        with suppress(OSError):
            while True:
                client, _ = listener.accept()
                threading.Thread(target=serve, args=(client,), daemon=True).start()

    with socket.create_server(("127.0.0.1", 0)) as listener:
        threading.Thread(target=accept, daemon=True).start()
        yield int(listener.getsockname()[1])
