"""Requests over HTTP whose addresses are checked, at each redirect, and then pinned, and that end.

The check is against server-side request forgery: an input leads to no private network.
Proxy variables are not honoured: a proxy would resolve the name a second time.
"""

import ipaddress
import os
import socket
import ssl
import threading
import time
from collections.abc import Mapping
from contextlib import suppress
from functools import lru_cache
from typing import Any, NamedTuple
from urllib.parse import SplitResult, unquote, urljoin, urlsplit

import urllib3
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.exceptions import HTTPError, SSLError

from storage.errors import BadUri, Interrupted, Refused, Unreachable
from storage.settings import HttpSettings, http_settings
from storage.uris import Location, parse

Address = ipaddress.IPv4Address | ipaddress.IPv6Address

_GLOBAL_UNICAST = ipaddress.ip_network("2000::/3")
_NAT64 = ipaddress.ip_network("64:ff9b::/96")

# Not all Python versions know these as special; the last is a cloud's metadata service.
_MORE_SPECIAL = tuple(
    ipaddress.IPv4Network(text) for text in ("192.0.0.0/24", "192.88.99.0/24", "168.63.129.16/32")
)

_MAX_REDIRECTS = 5
WEBHOOK_S = 10.0


class Request(NamedTuple):
    """What is the same for all addresses; with a body it is a POST."""

    more: Mapping[str, str]  # headers
    rules: HttpSettings
    body: bytes | None = None


def follow(location: Location, conditions: Mapping[str, str]) -> urllib3.BaseHTTPResponse:
    """The first answer that is no redirect, its body unread; `conditions` are more headers."""
    url = location.uri
    for _ in range(_MAX_REDIRECTS + 1):
        answer = _ask(location.uri, urlsplit(url), Request(conditions, http_settings()))
        target = answer.get_redirect_location()
        if not target:
            return answer
        answer.close()
        url = _redirected(location.uri, url, target)
    raise Unreachable(location.uri, f"could not be read: more than {_MAX_REDIRECTS} redirects")


def post(url: str, body: bytes, headers: Mapping[str, str]) -> None:
    """Tell a webhook. Redirects are not followed: none is a 2xx."""
    answer = _ask(url, urlsplit(url), Request(headers, webhook_rules(url), body))
    answer.close()
    if not 200 <= answer.status < 300:
        raise Unreachable(url, f"answered with status {answer.status}")


def webhook_rules(url: str) -> HttpSettings:
    """A host has to be listed, by name or address, and besides its network if that is private."""
    rules, place = http_settings("WEBHOOK_ALLOW"), parse(url)
    host = place.host.rstrip(".")
    listed = host in rules.allowed_hosts
    with suppress(ValueError):
        listed |= any(ipaddress.ip_address(host) in each for each in rules.allowed_networks)
    if not listed or place.scheme not in ("http", "https"):
        raise Refused(url, f"is refused: it is of no web host that {rules.variable} lists")
    return rules._replace(allowed_hosts=frozenset(), timeout=WEBHOOK_S)


def _redirected(uri: str, url: str, target: str) -> str:
    with suppress(BadUri, ValueError):
        onward = parse(urljoin(url, target))
        if onward.scheme in ("http", "https"):
            return onward.uri
    raise Refused(uri, "is refused: it redirects to something other than an HTTP URL")


def _ask(uri: str, url: SplitResult, request: Request) -> urllib3.BaseHTTPResponse:
    """To the first checked address that takes the connection."""
    port = url.port or (443 if url.scheme == "https" else 80)
    host, addresses = _resolved(uri, url.hostname or "", port)
    require_allowed(uri, host, addresses, request.rules)
    cause: Exception | None = None
    for address in addresses:
        try:
            return _send(url, host, port, address, request)
        except SSLError as error:
            raise Unreachable(uri, "could not be reached: its certificate is not valid") from error
        except HTTPError as error:
            cause = error
    raise Interrupted(uri, "could not be reached: no connection, or no answer in time") from cause


def _resolved(uri: str, host: str, port: int) -> tuple[str, list[Address]]:
    """A host's name in ASCII, and its addresses."""
    try:
        name = host.encode("idna").decode()
        return name, resolve(name, port)
    except (OSError, ValueError) as error:
        raise Interrupted(uri, "could not be reached: the name does not resolve") from error


def resolve(host: str, port: int) -> list[Address]:
    """The addresses of a name, each once, in the resolver's order of preference."""
    answers = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    texts = dict.fromkeys(str(answer[4][0]).partition("%")[0] for answer in answers)
    return [ipaddress.ip_address(text) for text in texts]


def require_allowed(uri: str, host: str, addresses: list[Address], rules: HttpSettings) -> None:
    """Refuse a host if any of its addresses is not public, unless settings allow it."""
    if host.lower().rstrip(".") in rules.allowed_hosts:
        return
    for address in addresses:
        judged = _innermost(address)
        if not is_public(judged) and not any(judged in net for net in rules.allowed_networks):
            raise Refused(
                uri,
                "is refused: it leads to a private, loopback, link-local or reserved address "
                f"({rules.variable} lists exceptions)",
            )


def is_public(address: Address) -> bool:
    if isinstance(address, ipaddress.IPv4Address):
        special = address.is_multicast or address.is_reserved
        return address.is_global and not special and not any(address in n for n in _MORE_SPECIAL)
    return address.is_global and address in _GLOBAL_UNICAST


def _innermost(address: Address) -> Address:
    """The IPv4 address inside a mapped, 6to4 or NAT64 one, else itself."""
    if isinstance(address, ipaddress.IPv4Address):
        return address
    if address in _NAT64:
        return ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
    return address.ipv4_mapped or address.sixtofour or address


def _send(
    url: SplitResult, host: str, port: int, address: Address, request: Request
) -> urllib3.BaseHTTPResponse:
    secure = {"server_hostname": host} if url.scheme == "https" else {}
    pool = pools(os.getpid()).connection_from_host(str(address), port, url.scheme, secure)
    pool.ConnectionCls = _CONNECTIONS[url.scheme]
    return pool.urlopen(
        "GET" if request.body is None else "POST",
        (url.path or "/") + (f"?{url.query}" if url.query else ""),
        body=request.body,
        headers={**_headers(url, host), **request.more},
        timeout=request.rules.timeout,
        retries=False,
        redirect=False,
        preload_content=False,
        decode_content=False,
    )


def _headers(url: SplitResult, host: str) -> Mapping[str, str]:
    """The password of a URL goes to its own host only: a redirect carries its own or none."""
    name = f"[{host}]" if ":" in host else host
    login = f"{unquote(url.username or '')}:{unquote(url.password or '')}"
    made = urllib3.make_headers(
        accept_encoding="identity",
        user_agent="maskmill",
        basic_auth=None if url.username is None else login,
    )
    return {**made, "Host": f"{name}:{url.port}" if url.port else name}


@lru_cache(maxsize=1)
def pools(process: int) -> urllib3.PoolManager:
    """Connections kept open, by pinned address and host name; one set per process."""
    return urllib3.PoolManager(num_pools=32, maxsize=16, ssl_context=ssl.create_default_context())


def hang_up_after(seconds: float, connection: Any) -> threading.Timer:
    """Ends a connection from another thread: its own timeout starts anew with every byte."""

    def hang_up() -> None:
        with suppress(OSError, AttributeError):  # closed already
            connection.sock.shutdown(socket.SHUT_RDWR)

    timer = threading.Timer(seconds, hang_up)
    timer.daemon = True
    timer.start()
    return timer


class _Prompt(HTTPConnection):
    """Status line and headers must all arrive within the timeout.

    Headers that break off pass for whole ones, so what came too late is refused here.
    """

    def getresponse(self) -> urllib3.HTTPResponse:  # type: ignore[override]
        limit = self.timeout or 0.0
        end = time.monotonic() + limit
        timer = hang_up_after(limit, self)
        try:
            answer = super().getresponse()
        finally:
            timer.cancel()
        if time.monotonic() >= end:
            answer.close()
            raise TimeoutError
        return answer


class _TlsPrompt(_Prompt, HTTPSConnection):
    pass


_CONNECTIONS = {"http": _Prompt, "https": _TlsPrompt}
