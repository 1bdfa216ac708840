"""GET over HTTP, where the address is checked at each redirect and then pinned.

Proxy variables are not honoured: a proxy would resolve the name a second time.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping
from urllib.parse import SplitResult, unquote, urljoin, urlsplit

import urllib3
from urllib3.exceptions import HTTPError, SSLError

from storage.addresses import Address, require_allowed, resolve
from storage.errors import BadUri, Refused, Unreachable
from storage.http_connections import pools
from storage.settings import http_settings
from storage.uris import Location, parse

_MAX_REDIRECTS = 5
_REDIRECTS = frozenset({301, 302, 303, 307, 308})


class Interrupted(Unreachable):
    """What may pass: worth another attempt."""


def follow(
    location: Location, conditions: Mapping[str, str] | None = None
) -> urllib3.BaseHTTPResponse:
    """The first answer that is no redirect, its body unread; `conditions` are more headers."""
    url = location.uri
    for _ in range(_MAX_REDIRECTS + 1):
        answer = _ask(location.uri, urlsplit(url), conditions or {})
        target = answer.headers.get("Location")
        if answer.status not in _REDIRECTS or not target:
            return answer
        answer.close()
        url = _redirected(location.uri, url, target)
    raise Unreachable(location.uri, f"could not be read: more than {_MAX_REDIRECTS} redirects")


def _redirected(uri: str, url: str, target: str) -> str:
    try:
        onward = parse(urljoin(url, target))
    except (BadUri, ValueError) as error:
        raise Unreachable(uri, "could not be read: it redirects to no usable URL") from error
    if onward.scheme not in ("http", "https"):
        raise Refused(uri, "is refused: it redirects to something other than HTTP")
    return onward.uri


def _ask(uri: str, url: SplitResult, conditions: Mapping[str, str]) -> urllib3.BaseHTTPResponse:
    """One request, to the first checked address that takes the connection."""
    host = _ascii_host(uri, url.hostname or "")
    port = url.port or (443 if url.scheme == "https" else 80)
    addresses = _resolved(uri, host, port)
    require_allowed(uri, host, addresses, http_settings())
    headers = {**_headers(url, host), **conditions}
    cause: Exception | None = None
    for address in addresses:
        try:
            return _send(url, host, port, address, headers)
        except SSLError as error:
            raise Unreachable(uri, "could not be reached: its certificate is not valid") from error
        except HTTPError as error:
            cause = error
    raise Interrupted(uri, "could not be reached: no connection, or no answer in time") from cause


def _ascii_host(uri: str, host: str) -> str:
    try:
        return host if host.isascii() else host.encode("idna").decode()
    except UnicodeError as error:
        raise BadUri(uri, "is not a usable URI: its host name is malformed") from error


def _resolved(uri: str, host: str, port: int) -> list[Address]:
    try:
        return resolve(host, port)
    except (OSError, ValueError) as error:
        may_pass = getattr(error, "errno", None) == socket.EAI_AGAIN
        kind = Interrupted if may_pass else Unreachable
        raise kind(uri, "could not be reached: the name does not resolve") from error


def _send(
    url: SplitResult, host: str, port: int, address: Address, headers: Mapping[str, str]
) -> urllib3.BaseHTTPResponse:
    secure = {"server_hostname": host} if url.scheme == "https" else {}
    pool = pools(os.getpid()).connection_from_host(str(address), port, url.scheme, secure)
    return pool.urlopen(
        "GET",
        (url.path or "/") + (f"?{url.query}" if url.query else ""),
        headers=headers,
        timeout=http_settings().timeout,
        retries=False,
        redirect=False,
        assert_same_host=False,
        preload_content=False,
        decode_content=False,
    )


def _headers(url: SplitResult, host: str) -> Mapping[str, str]:
    """The password of a URL goes to its own host only: a redirect carries its own or none."""
    name = f"[{host}]" if ":" in host else host
    headers = {
        "Host": f"{name}:{url.port}" if url.port else name,
        "Accept-Encoding": "identity",
        "User-Agent": "maskmill",
    }
    if url.username is not None:
        login = f"{unquote(url.username)}:{unquote(url.password or '')}"
        headers.update(urllib3.make_headers(basic_auth=login))
    return headers
