"""Storage settings from the environment, validated when first needed."""

import ipaddress
import os
import re
from collections.abc import Callable
from contextlib import suppress
from typing import NamedTuple, TypeVar

from storage.errors import BadSetting, BadUri
from storage.uris import as_folder, parse

Network = ipaddress.IPv4Network | ipaddress.IPv6Network

Value = TypeVar("Value")

_ACCOUNT = re.compile(r"(s3://[A-Za-z0-9._-]+(?:/[^=]*)?)=(.+?)(?:@(https?://.*))?")
_HOST = re.compile(r"[A-Za-z0-9._-]*[A-Za-z_-][A-Za-z0-9._-]*")


class Account(NamedTuple):
    """Whose credentials, and at which endpoint; None leaves it to the AWS settings."""

    profile: str | None
    endpoint_url: str | None


class HttpSettings(NamedTuple):
    variable: str
    """Lists the exceptions."""
    allowed_hosts: frozenset[str]
    allowed_networks: tuple[Network, ...]
    timeout: float  # seconds without an answer or a byte
    deadline: float  # seconds for one whole input


def account_for(uri: str) -> Account:
    """The account of the longest prefix that is named, else the one for all."""
    rest = Account(None, _read("S3_ENDPOINT_URL", lambda url: _endpoint(url) if url else None))
    accounts = (*_read("S3_PROFILES", _accounts), ("", rest))
    return next(account for prefix, account in accounts if f"{uri}/".startswith(prefix))


def s3_timeouts() -> dict[str, float]:
    """By their names in botocore."""
    return {
        "connect_timeout": _read("S3_CONNECT_TIMEOUT", _seconds, "10"),
        "read_timeout": _read("S3_READ_TIMEOUT", _seconds, "60"),
    }


def http_settings(exceptions: str = "HTTP_ALLOW") -> HttpSettings:
    allowed = _read(exceptions, _allowed)
    timeout = _read("HTTP_TIMEOUT", _seconds, "30")
    deadline = _read("HTTP_DEADLINE", _seconds, "600")
    return HttpSettings(f"MASKMILL_{exceptions}", *allowed, timeout, deadline)


def _read(name: str, meaning: Callable[[str], Value], default: str = "") -> Value:
    """What a variable means; `meaning` says in a ValueError what it must be."""
    name = "MASKMILL_" + name
    text = os.environ.get(name, "").strip() or default
    try:
        return meaning(text)
    except ValueError as error:
        raise BadSetting(name, f"must {error}") from error


def _seconds(text: str) -> float:
    with suppress(ValueError):
        if 0 < float(text) <= 86400:
            return float(text)
    raise ValueError("be a number of seconds above 0")


def _endpoint(url: str) -> str:
    with suppress(BadUri):
        if parse(url).scheme in ("http", "https"):
            return url
    raise ValueError("be an http:// or https:// URL")


def _allowed(text: str) -> tuple[frozenset[str], tuple[Network, ...]]:
    hosts = frozenset(item for item in _listed(text) if _HOST.fullmatch(item))
    others = (item for item in _listed(text) if item not in hosts)
    try:
        networks = tuple(ipaddress.ip_network(item, strict=False) for item in others)
    except ValueError as error:
        raise ValueError("list host names, addresses or networks") from error
    return frozenset(host.lower().rstrip(".") for host in hosts), networks


def _accounts(text: str) -> tuple[tuple[str, Account], ...]:
    """`s3://in=reader,s3://out/x=writer@https://store.example:9000`, longest prefix first."""
    accounts = {}
    for item in _listed(text):
        match = _ACCOUNT.fullmatch(item)
        if match is None:
            raise ValueError("list s3://bucket/prefix=profile pairs, with @ and a URL or without")
        accounts[as_folder(match[1])] = Account(match[2], match[3] and _endpoint(match[3]))
    return tuple(sorted(accounts.items(), key=lambda pair: -len(pair[0])))


def _listed(text: str) -> list[str]:
    return [item.strip() for item in text.split(",") if item.strip()]
