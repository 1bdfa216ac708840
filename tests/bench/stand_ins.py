"""What a fleet talks to, for benches: a store that answers at once, and a wire that is long."""

from __future__ import annotations

import multiprocessing
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler
from multiprocessing.sharedctypes import Synchronized
from queue import SimpleQueue
from urllib.parse import parse_qs, urlsplit

from tests.services import free_port, http_server, reply, url_of

PAGE = 1000  # keys, as S3 has it
SPAWN = multiprocessing.get_context("spawn")
VERBS = ("LIST", "GET", "HEAD", "PUT")


class CannedStore:
    """An S3 endpoint whose buckets listed-N hold N pictures, which keeps little of what is put."""

    def __init__(self) -> None:
        self._counts = {verb: SPAWN.Value("l", 0) for verb in VERBS}
        ends, here = SPAWN.Pipe()
        self._process = SPAWN.Process(target=_serve, args=(ends, self._counts), daemon=True)
        self._process.start()
        self.endpoint: str = here.recv()

    def reset(self) -> None:
        for each in self._counts.values():
            each.value = 0

    def said(self) -> str:
        return ", ".join(f"{n.value} {verb}" for verb, n in self._counts.items() if n.value) or "0"

    def close(self) -> None:
        self._process.kill()
        self._process.join()


@contextmanager
def canned_store() -> Iterator[CannedStore]:
    made = CannedStore()
    try:
        yield made
    finally:
        made.close()


def _serve(ends: object, counts: dict[str, Synchronized]) -> None:
    stored: dict[str, bytes] = {}

    def answer(request: BaseHTTPRequestHandler) -> None:
        url = urlsplit(request.path)
        query = parse_qs(url.query)
        verb = "LIST" if "list-type" in query else request.command
        with counts[verb].get_lock():
            counts[verb].value += 1
        body = request.rfile.read(int(request.headers.get("Content-Length") or 0))
        if verb == "LIST":
            total = int(url.path.strip("/").rpartition("-")[2])
            reply(request, 200, _page(total, int(query.get("continuation-token", ["0"])[0])))
        elif verb == "PUT":
            reply(request, 412 if url.path in stored else 200, b"", {"ETag": '"0"'})
            stored[url.path] = body
            if len(stored) > PAGE:  # the last are enough for the probe of create-only writes
                del stored[next(iter(stored))]
        elif url.path in stored:
            reply(request, 200, stored[url.path], {"ETag": '"0"'})
        else:
            reply(request, 404)

    with http_server(answer) as server:
        ends.send(url_of(server))  # type: ignore[attr-defined]
        threading.Event().wait()


def _page(total: int, first: int) -> bytes:
    last = min(first + PAGE, total)
    keys = "".join(
        f"<Contents><Key>photos/{n // 1000:04d}/{n:09d}.jpg</Key>"
        "<LastModified>2026-01-01T00:00:00.000Z</LastModified>"
        f'<ETag>"{n:032x}"</ETag><Size>150000</Size><StorageClass>STANDARD</StorageClass></Contents>'
        for n in range(first, last)
    )
    more = f"<NextContinuationToken>{last}</NextContinuationToken>" if last < total else ""
    return (
        '<?xml version="1.0" encoding="UTF-8"?><ListBucketResult>'
        f"<IsTruncated>{'true' if more else 'false'}</IsTruncated>{more}{keys}</ListBucketResult>"
    ).encode()


@contextmanager
def slow_wire(url: str, seconds: float) -> Iterator[str]:
    """The same service with that much more on the way in each direction."""
    port = free_port()
    target = urlsplit(url).port
    listener = socket.create_server(("127.0.0.1", port))

    def accept() -> None:
        while True:
            try:
                near, _ = listener.accept()
            except OSError:
                return
            far = socket.create_connection(("127.0.0.1", target))
            for ends in ((near, far), (far, near)):
                waiting: SimpleQueue[tuple[float, bytes]] = SimpleQueue()
                threading.Thread(
                    target=_take, args=(ends[0], waiting, seconds), daemon=True
                ).start()
                threading.Thread(target=_give, args=(ends[1], waiting), daemon=True).start()

    threading.Thread(target=accept, daemon=True).start()
    try:
        yield url.replace(f":{target}", f":{port}")
    finally:
        listener.close()


def _take(source: socket.socket, waiting: SimpleQueue[tuple[float, bytes]], seconds: float) -> None:
    source.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    data = b"-"
    while data:
        try:
            data = source.recv(1 << 16)
        except OSError:
            data = b""
        waiting.put((time.perf_counter() + seconds, data))


def _give(target: socket.socket, waiting: SimpleQueue[tuple[float, bytes]]) -> None:
    target.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    while True:
        due, data = waiting.get()
        time.sleep(max(0.0, due - time.perf_counter()))
        try:
            if not data:
                target.close()
                return
            target.sendall(data)
        except OSError:
            return
