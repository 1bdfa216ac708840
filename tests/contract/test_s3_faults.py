"""S3 that fails: a proxy in front of moto's server spoils chosen requests.

The proxy is a real HTTP server; botocore sees nothing but what comes over the socket.
"""

from __future__ import annotations

import logging
import os
import threading
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import suppress
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from types import SimpleNamespace

import pytest
import urllib3

import storage
from storage import errors
from storage.s3_clients import client_for
from storage.uris import parse
from tests.services import http_server, reply, url_of

Fault = Callable[["Proxy", BaseHTTPRequestHandler, bytes], None]

_OURS = frozenset({"transfer-encoding", "content-length", "connection", "date", "server"})


class Proxy:
    """Forwards to moto; the next request with a planned method is spoilt by its fault."""

    def __init__(self, endpoint: str) -> None:
        self._endpoint = endpoint
        self._pool = urllib3.PoolManager(maxsize=8, block=True)
        self._lock = threading.Lock()
        self.faults: deque[tuple[str, Fault]] = deque()
        self.always: dict[str, Fault] = {}
        self.seen: list[str] = []
        self.has_conditions = True
        self.released = threading.Event()

    def plan(self, method: str, *faults: Fault) -> None:
        self.faults.extend((method, fault) for fault in faults)

    def answer(self, request: BaseHTTPRequestHandler) -> None:
        body = request.rfile.read(int(request.headers.get("Content-Length") or 0))
        with self._lock:
            self.seen.append(request.command)
            fault = self.always.get(request.command)
            if self.faults and self.faults[0][0] == request.command:
                fault = self.faults.popleft()[1]
        if fault is None:
            self.send(request, self.forward(request, body))
        else:
            fault(self, request, body)

    def forward(self, request: BaseHTTPRequestHandler, body: bytes) -> urllib3.BaseHTTPResponse:
        """moto looks and writes in two steps; one request at a time makes that one."""
        headers = dict(request.headers.items())
        if not self.has_conditions:
            headers.pop("If-None-Match", None)
        with self._lock:
            return self._pool.request(
                request.command, self._endpoint + request.path, body=body, headers=headers
            )

    def send(self, request: BaseHTTPRequestHandler, found: urllib3.BaseHTTPResponse) -> None:
        kept = {n: v for n, v in found.headers.items() if n.lower() not in _OURS}
        if request.command == "HEAD":
            request.send_response(found.status)
            for name, value in {**kept, "Content-Length": found.headers["Content-Length"]}.items():
                request.send_header(name, value)
            request.end_headers()
        else:
            reply(request, found.status, found.data, kept)

    def close(self) -> None:
        self._pool.clear()


def status(code: int, name: str = "") -> Fault:
    def fault(proxy: Proxy, request: BaseHTTPRequestHandler, body: bytes) -> None:
        reply(request, code, f"<Error><Code>{name}</Code></Error>".encode() if name else b"")

    return fault


def commit_and_drop(proxy: Proxy, request: BaseHTTPRequestHandler, body: bytes) -> None:
    proxy.forward(request, body)
    request.close_connection = True


def commit_and_answer(code: int, name: str) -> Fault:
    def fault(proxy: Proxy, request: BaseHTTPRequestHandler, body: bytes) -> None:
        proxy.forward(request, body)
        status(code, name)(proxy, request, body)

    return fault


def drop(proxy: Proxy, request: BaseHTTPRequestHandler, body: bytes) -> None:
    request.close_connection = True


def truncate(kept: int, *, stall: bool = False) -> Fault:
    """Announce the whole body, send a part of it, then hang up or say nothing more."""

    def fault(proxy: Proxy, request: BaseHTTPRequestHandler, body: bytes) -> None:
        found = proxy.forward(request, body)
        request.send_response(found.status)
        request.send_header("ETag", found.headers["ETag"])
        request.send_header("Content-Length", str(len(found.data)))
        request.end_headers()
        request.wfile.write(found.data[:kept])
        request.wfile.flush()
        if stall:
            proxy.released.wait(20)
        request.close_connection = True

    return fault


@pytest.fixture
def proxy(moto_s3: str, moto: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Proxy]:
    """Between us and moto, with a few attempts that follow one another without waiting."""
    monkeypatch.setattr("botocore.endpoint.time", SimpleNamespace(sleep=lambda seconds: None))
    monkeypatch.setattr("storage.s3.backoff", lambda attempt: 0.0)
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "4")
    proxy = Proxy(moto)
    with http_server(proxy.answer) as server:
        monkeypatch.setenv("MASKMILL_S3_ENDPOINT_URL", url_of(server))
        yield proxy
        proxy.released.set()
    proxy.close()


@pytest.fixture
def uri(moto_s3: str) -> str:
    return f"{moto_s3}/job/shards/00000.json"


STORM = [status(500, "InternalError"), status(503, "SlowDown"), drop]


def test_storms_that_pass_are_not_noticed(proxy: Proxy, uri: str) -> None:
    proxy.plan("PUT", *STORM)
    storage.put(uri, b"data")
    proxy.plan("PUT", *STORM)
    storage.put(uri + "2", b"data", create_only=True)
    proxy.plan("GET", *STORM)
    assert storage.get(uri) == b"data"
    proxy.plan("GET", *STORM)
    assert len(list(storage.list_entries(uri.rpartition("/")[0]))) == 2
    proxy.plan("GET", *STORM)
    assert storage.exists(uri)
    proxy.plan("DELETE", *STORM)
    storage.delete(uri)
    assert not proxy.faults


@pytest.mark.parametrize(
    "fault", [status(500), status(503, "SlowDown"), drop], ids=["500", "slow", "drop"]
)
def test_a_store_that_stays_away_is_unavailable(proxy: Proxy, uri: str, fault: Fault) -> None:
    proxy.always = dict.fromkeys(("GET", "HEAD", "PUT", "POST", "DELETE"), fault)
    for verb in (
        lambda: storage.get(uri),
        lambda: storage.exists(uri),
        lambda: storage.put(uri, b""),
        lambda: storage.put(uri, b"", create_only=True),
        lambda: storage.delete(uri),
        lambda: list(storage.list_entries(uri)),
    ):
        with pytest.raises(errors.Unavailable) as caught:
            verb()
        assert str(caught.value) == f"{uri} could not be reached: its store does not answer"
        assert caught.value.__cause__ is not None


def test_a_full_store_is_full(proxy: Proxy, uri: str) -> None:
    proxy.always["PUT"] = status(507, "XMinioStorageFull")
    with pytest.raises(errors.Full):
        storage.put(uri, b"x")


@pytest.mark.parametrize(
    ("fault", "expected"),
    [
        (status(403, "InvalidAccessKeyId"), errors.NoCredentials),
        (status(400, "ExpiredToken"), errors.NoCredentials),
        (status(403, "AccessDenied"), errors.Denied),
        (status(403, "InvalidObjectState"), errors.Denied),
        (status(301), errors.Unavailable),
    ],
)
def test_refusals_are_told_apart(
    proxy: Proxy, uri: str, fault: Fault, expected: type[Exception]
) -> None:
    proxy.always = dict.fromkeys(("GET", "HEAD"), fault)
    with pytest.raises(expected):
        storage.get(uri)


def test_a_lost_reply_to_our_own_write_is_success(proxy: Proxy, uri: str) -> None:
    for _ in range(2):  # as the probe, and when the store is known
        proxy.plan("PUT", commit_and_drop)
        storage.put(uri, b"ours", create_only=True)
        assert storage.get(uri) == b"ours"
        assert not proxy.faults
        storage.delete(uri)


def test_a_lost_reply_over_other_content_is_no_success(proxy: Proxy, uri: str) -> None:
    storage.put(uri, b"theirs")
    proxy.plan("PUT", commit_and_drop)
    with pytest.raises(errors.Exists):
        storage.put(uri, b"ours", create_only=True)
    storage.put(uri + "x", b"", create_only=True)
    with pytest.raises(errors.Exists):
        storage.put(uri, b"ours", create_only=True)
    assert storage.get(uri) == b"theirs"


def test_concurrent_writers_are_asked_to_try_again(proxy: Proxy, uri: str) -> None:
    storage.put(uri + "x", b"", create_only=True)
    proxy.plan("PUT", *[status(409, "ConditionalRequestConflict")] * 3)
    storage.put(uri, b"data", create_only=True)
    assert storage.get(uri) == b"data"
    proxy.always["PUT"] = status(409, "ConditionalRequestConflict")
    with pytest.raises(errors.Unavailable, match="other writers"):
        storage.put(uri, b"data", create_only=True)


def test_one_of_many_creators_wins(proxy: Proxy, uri: str) -> None:
    barrier = threading.Barrier(8)
    winners: list[bytes] = []

    def create(data: bytes) -> None:
        barrier.wait()
        with suppress(errors.Exists):
            storage.put(uri, data, create_only=True)
            winners.append(data)

    threads = [threading.Thread(target=create, args=(b"%d" % n,)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert winners == [storage.get(uri)]


def test_the_store_is_probed_once_by_the_first_write(
    proxy: Proxy, uri: str, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        storage.put(uri, b"data", create_only=True)
    assert proxy.seen == ["GET", "PUT", "PUT", "GET"]  # look, write, be refused, compare
    storage.put(uri + "2", b"data", create_only=True)
    assert proxy.seen[4:] == ["PUT"]
    assert caplog.records == []
    assert [entry.uri for entry in storage.list_entries(uri.rpartition("/")[0])] == [uri, uri + "2"]


def ignores(proxy: Proxy) -> None:
    proxy.has_conditions = False


def rejects(proxy: Proxy) -> None:
    def fault(proxy: Proxy, request: BaseHTTPRequestHandler, body: bytes) -> None:
        if "If-None-Match" in request.headers:
            status(501, "NotImplemented")(proxy, request, body)
        else:
            proxy.send(request, proxy.forward(request, body))

    proxy.always["PUT"] = fault


@pytest.mark.parametrize("lack", [ignores, rejects])
def test_a_store_without_conditional_writes_is_used_with_a_warning(
    proxy: Proxy, uri: str, caplog: pytest.LogCaptureFixture, lack: Callable[[Proxy], None]
) -> None:
    lack(proxy)
    with caplog.at_level(logging.WARNING):
        for name in ("1", "2"):
            storage.put(uri + name, b"first", create_only=True)
            storage.put(uri + name, b"first", create_only=True)
            for other in (b"other", b"longer than that"):
                with pytest.raises(errors.Exists):
                    storage.put(uri + name, other, create_only=True)
            assert storage.get(uri + name) == b"first"
    (record,) = caplog.records
    assert record.name == "storage.s3"
    assert "has no conditional writes" in record.getMessage()


def test_the_probe_never_overwrites(proxy: Proxy, uri: str) -> None:
    proxy.has_conditions = False
    storage.put(uri, b"theirs")
    with pytest.raises(errors.Exists):
        storage.put(uri, b"ours", create_only=True)
    assert storage.get(uri) == b"theirs"


def test_bodies_that_break_off_are_read_on(
    proxy: Proxy, uri: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = os.urandom(3_000_000)
    storage.put(uri, data)
    monkeypatch.setenv("MASKMILL_S3_READ_TIMEOUT", "0.3")
    proxy.plan("GET", truncate(0), truncate(2_000_000), truncate(10, stall=True))
    assert storage.get(uri) == data
    proxy.plan("GET", truncate(2_500_000, stall=True))
    with storage.open_read(uri) as stream:
        assert stream.read() == data
    assert not proxy.faults


def test_bodies_that_always_break_off_are_unavailable(proxy: Proxy, uri: str) -> None:
    storage.put(uri, bytes(100_000))
    proxy.always["GET"] = truncate(100)
    with pytest.raises(errors.Unavailable, match="breaks off again and again"):
        storage.get(uri)
    assert proxy.seen.count("GET") == 4


def test_two_versions_are_never_mixed(proxy: Proxy, uri: str) -> None:
    storage.put(uri, b"a" * 3_000_000)
    proxy.plan("GET", truncate(2_000_000))
    with storage.open_read(uri) as stream:
        stream.read(10)
        storage.put(uri, b"b" * 3_000_000)
        with pytest.raises(errors.Unavailable, match="changed while it was read"):
            stream.read()


@pytest.mark.parametrize(
    "fault", [commit_and_drop, commit_and_answer(404, "NoSuchUpload")], ids=["drop", "no-upload"]
)
def test_a_lost_reply_to_a_completed_upload_is_success(
    proxy: Proxy, uri: str, fault: Fault
) -> None:
    def complete(proxy: Proxy, request: BaseHTTPRequestHandler, body: bytes) -> None:
        proxy.send(request, proxy.forward(request, body))

    proxy.plan("POST", complete, fault)  # the first starts the upload
    with storage.open_write(uri) as stream:
        stream.write(bytes(17 << 20))
    assert len(storage.get(uri)) == 17 << 20
    assert not proxy.faults


def test_an_upload_that_is_really_gone_is_an_error(proxy: Proxy, uri: str) -> None:
    def gone(proxy: Proxy, request: BaseHTTPRequestHandler, body: bytes) -> None:
        if "uploadId" in request.path:  # not the request that starts one
            status(404, "NoSuchUpload")(proxy, request, body)
        else:
            proxy.send(request, proxy.forward(request, body))

    storage.put(uri, b"before")
    proxy.always["POST"] = gone
    with pytest.raises(errors.Unavailable, match="status 404"), storage.open_write(uri) as stream:
        stream.write(bytes(17 << 20))
    assert storage.get(uri) == b"before"


def test_no_room_for_what_is_to_be_sent(
    uri: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "gone"))
    with pytest.raises(errors.StorageError, match=r"^TMPDIR "), storage.open_write(uri):
        pass
    assert not storage.exists(uri)


def test_a_store_that_goes_away_during_an_upload(proxy: Proxy, uri: str) -> None:
    storage.put(uri, b"before")
    proxy.always["PUT"] = status(503, "SlowDown")
    with (
        pytest.raises(errors.Unavailable, match="does not answer"),
        storage.open_write(uri) as stream,
    ):
        stream.write(bytes(17 << 20))
    assert proxy.seen[1] == "POST"
    assert proxy.seen[-1] == "DELETE"
    proxy.always = {}
    assert storage.get(uri) == b"before"
    location = parse(uri)
    uploads = client_for(location).list_multipart_uploads(Bucket=location.host)
    assert uploads.get("Uploads", []) == [], "what was sent is dropped"
