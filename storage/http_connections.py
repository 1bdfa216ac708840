"""HTTP connections that are kept open, and that end in time."""

from __future__ import annotations

import socket
import ssl
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import lru_cache
from typing import Any

import urllib3
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.connectionpool import HTTPConnectionPool, HTTPSConnectionPool


@lru_cache(maxsize=1)
def pools(process: int) -> urllib3.PoolManager:
    """Connections kept open, by pinned address and host name; one set per process."""
    made = urllib3.PoolManager(num_pools=32, maxsize=16, ssl_context=ssl.create_default_context())
    made.pool_classes_by_scheme = {"http": _Pool, "https": _TlsPool}
    return made


def hang_up_after(seconds: float, connection: Any) -> threading.Timer:
    """Ends a connection from another thread: its own timeout starts anew with every byte."""

    def hang_up() -> None:
        with suppress(OSError, AttributeError):  # closed already
            connection.sock.shutdown(socket.SHUT_RDWR)

    timer = threading.Timer(seconds, hang_up)
    timer.daemon = True
    timer.start()
    return timer


@contextmanager
def _promptly(connection: HTTPConnection) -> Iterator[None]:
    """Status line and headers must all arrive within the timeout.

    Headers that break off pass for whole ones, so what came too late is refused here.
    """
    limit = connection.timeout or 0.0
    end = time.monotonic() + limit
    timer = hang_up_after(limit, connection)
    try:
        yield
    finally:
        timer.cancel()
    if time.monotonic() >= end:
        raise TimeoutError


class _Connection(HTTPConnection):
    def getresponse(self) -> urllib3.HTTPResponse:  # type: ignore[override]
        with _promptly(self):
            return super().getresponse()


class _TlsConnection(HTTPSConnection):
    def getresponse(self) -> urllib3.HTTPResponse:  # type: ignore[override]
        with _promptly(self):
            return super().getresponse()


class _Pool(HTTPConnectionPool):
    ConnectionCls = _Connection


class _TlsPool(HTTPSConnectionPool):
    ConnectionCls = _TlsConnection
