"""Reading over HTTP: content, versions, limits, failures and presigned URLs."""

from __future__ import annotations

import base64
import itertools
import socket
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler
from urllib.parse import urlsplit

import pytest

import storage
from storage import errors
from storage.uris import join
from tests.services import free_port, http_server, reply, url_of

Answer = Callable[[BaseHTTPRequestHandler], None]


class Site:
    """What is served: an answer per path; counts what was asked."""

    def __init__(self) -> None:
        self.answers: dict[str, Answer] = {}
        self.asked: list[BaseHTTPRequestHandler] = []
        self.url = ""

    def answer(self, request: BaseHTTPRequestHandler) -> None:
        self.asked.append(request)
        path = urlsplit(request.path).path
        self.answers.get(path, lambda request: reply(request, 404))(request)


@pytest.fixture
def site(monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    monkeypatch.setenv("MASKMILL_HTTP_ALLOW", "127.0.0.1")
    monkeypatch.setattr("storage.backoff", lambda attempt: 0.0)
    site = Site()
    with http_server(site.answer) as server:
        site.url = url_of(server)
        yield site


def fixed(status: int, body: bytes = b"", **headers: str) -> Answer:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return lambda request: reply(request, status, body, named)


def in_turn(*answers: Answer) -> Answer:
    """One after the other; the last for ever."""
    turns = itertools.chain(answers, itertools.repeat(answers[-1]))
    return lambda request: next(turns)(request)


def hang_up(request: BaseHTTPRequestHandler) -> None:
    request.close_connection = True


def truncated(request: BaseHTTPRequestHandler) -> None:
    request.send_response(200)
    request.send_header("Content-Length", "100000")
    request.end_headers()
    request.wfile.write(b"x" * 1000)
    request.close_connection = True


def truncated_chunks(request: BaseHTTPRequestHandler) -> None:
    request.send_response(200)
    request.send_header("Transfer-Encoding", "chunked")
    request.end_headers()
    request.wfile.write(b"3\r\nabc\r\n")
    request.close_connection = True


def endless(pause: float = 0.0, size: int = 65536) -> Answer:
    """Chunks without a Content-Length until the client hangs up."""

    def answer(request: BaseHTTPRequestHandler) -> None:
        request.send_response(200)
        request.send_header("Transfer-Encoding", "chunked")
        request.end_headers()
        chunk = b"%x\r\n%s\r\n" % (size, b"x" * size)
        end = time.monotonic() + 20
        while time.monotonic() < end:
            request.wfile.write(chunk)
            time.sleep(pause)

    return answer


def dripping(start: bytes) -> Answer:
    """A line that never ends, a byte at a time."""

    def answer(request: BaseHTTPRequestHandler) -> None:
        request.wfile.write(start)
        end = time.monotonic() + 20
        while time.monotonic() < end:
            request.wfile.write(b"x")
            time.sleep(0.02)

    return answer


def test_read_verbs(site: Site) -> None:
    data = bytes(range(256)) * 9000
    site.answers["/a%20b/%C3%A9.jpg"] = fixed(200, data, ETag='"v1"')
    uri = join(site.url, "a b/é.jpg")
    assert storage.get(uri) == data
    assert storage.get_versioned(uri) == (data, "v1")
    assert storage.exists(uri)
    assert not storage.exists(uri + "x")
    with storage.open_read(uri) as stream:
        assert stream.read(3) + stream.read() == data
    with storage.open_read(uri) as stream:
        assert stream.read(1) == data[:1]


def test_a_path_that_needs_encoding_is_encoded(site: Site) -> None:
    site.answers["/a%20b/%C3%A9%25.jpg"] = fixed(200, b"x")
    assert storage.get(f"{site.url}/a b/é%25.jpg?q=1#t=3") == b"x"
    assert site.asked[-1].path == "/a%20b/%C3%A9%25.jpg?q=1"


def test_sizes_and_versions_that_nobody_tells(site: Site) -> None:
    def chunked(request: BaseHTTPRequestHandler) -> None:
        request.send_response(200)
        request.send_header("Transfer-Encoding", "chunked")
        request.end_headers()
        request.wfile.write(b"3\r\nabc\r\n0\r\n\r\n")

    site.answers["/c"] = chunked
    assert storage.get_versioned(site.url + "/c", max_bytes=3) == (b"abc", "")
    with pytest.raises(errors.TooLarge):
        storage.get(site.url + "/c", max_bytes=2)


def test_connections_are_kept(site: Site) -> None:
    site.answers["/a"] = fixed(200, b"x" * 10)
    for _ in range(3):
        storage.get(site.url + "/a")
    assert len({request.client_address for request in site.asked}) == 1


def test_nothing_is_written_or_listed(site: Site) -> None:
    uri = site.url + "/a?sig=secret"
    for verb in (
        lambda: storage.put(uri, b""),
        lambda: storage.delete(uri),
        lambda: storage.open_write(uri),
    ):
        with pytest.raises(errors.NotWritable, match="HTTP is for inputs only"):
            verb()
    with pytest.raises(errors.BadUri, match="cannot be listed"):
        list(storage.list_entries(uri))
    assert site.asked == []


@pytest.mark.parametrize(
    ("status", "expected"),
    [
        (404, errors.NotFound),
        (410, errors.NotFound),
        (401, errors.Denied),
        (403, errors.Denied),
        (451, errors.Denied),
        (400, errors.Unreachable),
        (418, errors.Unreachable),
        (206, errors.Unreachable),
        (304, errors.Unreachable),
        (500, errors.Unreachable),
        (503, errors.Unreachable),
        (429, errors.Unreachable),
    ],
)
def test_statuses(site: Site, status: int, expected: type[errors.StorageError]) -> None:
    site.answers["/a"] = fixed(status)
    with pytest.raises(expected) as caught:
        storage.get(site.url + "/a?sig=secret")
    assert caught.value.kind == expected.kind
    assert str(caught.value).startswith(site.url + "/a ")
    assert len(site.asked) == (4 if status in (500, 503, 429) else 1)


@pytest.mark.parametrize(
    "fault",
    [fixed(500), fixed(503), fixed(429), hang_up, truncated, truncated_chunks],
    ids=["500", "503", "429", "hang up", "truncated", "truncated chunks"],
)
def test_what_passes_is_not_noticed_and_what_stays_is_unreachable(
    site: Site, fault: Answer
) -> None:
    site.answers["/a"] = in_turn(fault, fault, fixed(200, b"good"))
    assert storage.get(site.url + "/a") == b"good"
    site.answers["/b"] = fault
    with pytest.raises(errors.Unreachable) as caught:
        storage.get(site.url + "/b")
    assert caught.value.kind == "unreachable"


def test_a_stream_that_breaks_off_says_so(site: Site) -> None:
    site.answers["/a"] = truncated
    with storage.open_read(site.url + "/a") as stream, pytest.raises(errors.Unreachable):
        stream.read()


def test_limits_come_before_the_bytes(site: Site) -> None:
    sent: list[int] = []

    def huge(request: BaseHTTPRequestHandler) -> None:
        request.send_response(200)
        request.send_header("Content-Length", str(10**12))
        request.end_headers()
        while True:
            request.wfile.write(bytes(65536))
            sent.append(65536)

    site.answers["/huge"] = huge
    site.answers["/endless"] = endless()
    for path in ("/huge", "/endless"):
        with pytest.raises(errors.TooLarge, match="limit of 1000000 bytes"):
            storage.get(site.url + path, max_bytes=1_000_000)
    assert sum(sent) < 50_000_000  # what fits into socket buffers


def test_an_announced_size_is_believed(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    def announce(request: BaseHTTPRequestHandler) -> None:
        request.send_response(200)
        request.send_header("Content-Length", "11")
        request.end_headers()
        request.rfile.read(1)  # until the client hangs up

    monkeypatch.setenv("MASKMILL_HTTP_TIMEOUT", "0.5")
    site.answers["/a"] = announce
    with pytest.raises(errors.TooLarge):
        storage.get(site.url + "/a", max_bytes=10)


def test_drips_and_stalls_end(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MASKMILL_HTTP_TIMEOUT", "0.2")
    monkeypatch.setenv("MASKMILL_HTTP_DEADLINE", "0.5")
    site.answers["/drip"] = endless(pause=0.02, size=1)
    site.answers["/stall"] = endless(pause=5, size=1)
    site.answers["/silence"] = lambda request: time.sleep(1.5)
    site.answers["/headers"] = dripping(b"HTTP/1.1 200 OK\r\nX: ")
    site.answers["/chunk-size"] = dripping(
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1;"
    )
    for path in site.answers:
        started = time.monotonic()
        with pytest.raises(errors.Unreachable):
            storage.get(site.url + path)
        assert time.monotonic() - started < 3


def test_nobody_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MASKMILL_HTTP_ALLOW", "127.0.0.1")
    monkeypatch.setattr("storage.backoff", lambda attempt: 0.0)
    with pytest.raises(errors.Unreachable, match="no connection, or no answer in time"):
        storage.get(f"http://127.0.0.1:{free_port()}/a")


@pytest.mark.parametrize("code", [socket.EAI_NONAME, socket.EAI_AGAIN])
def test_a_name_that_does_not_resolve(monkeypatch: pytest.MonkeyPatch, code: int) -> None:
    def fail(host: str, port: int, **options: object) -> None:
        raise socket.gaierror(code, "no")

    monkeypatch.setattr(socket, "getaddrinfo", fail)
    monkeypatch.setattr("storage.backoff", lambda attempt: 0.0)
    with pytest.raises(errors.Unreachable) as caught:
        storage.get("https://me:pw@no.such.example/a?sig=1")
    assert str(caught.value) == (
        "https://no.such.example/a could not be reached: the name does not resolve"
    )


def test_a_password_goes_to_its_own_host_only(site: Site) -> None:
    site.answers["/a"] = fixed(302, Location=site.url + "/b")
    site.answers["/b"] = fixed(404)
    uri = site.url.replace("//", "//me:p%40ss@") + "/a"
    with pytest.raises(errors.NotFound) as caught:
        storage.get(uri)
    assert str(caught.value) == f"{site.url}/a does not exist"
    first, second = (request.headers.get("Authorization") for request in site.asked)
    assert first == "Basic " + base64.b64encode(b"me:p@ss").decode()
    assert second is None


AWS = b"<Error><Code>AccessDenied</Code><Message>Request has expired</Message></Error>"
AZURE = b"AuthenticationFailed: Signature not valid in the specified time frame"
GOOGLE = b"<Code>ExpiredToken</Code><Message>Invalid argument.</Message>"


@pytest.mark.parametrize(("status", "body"), [(403, AWS), (403, AZURE), (400, GOOGLE)])
def test_an_expired_presigned_url_says_so(site: Site, status: int, body: bytes) -> None:
    site.answers["/a.jpg"] = fixed(status, body)
    with pytest.raises(errors.Expired) as caught:
        storage.get(site.url + "/a.jpg?X-Amz-Signature=secret")
    assert str(caught.value) == f"{site.url}/a.jpg is a presigned URL that has expired"
