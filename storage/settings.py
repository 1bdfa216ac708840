"""Storage settings from the environment, validated when first needed."""

from __future__ import annotations

import ipaddress
import os
import re
from dataclasses import dataclass
from functools import lru_cache
from urllib.parse import urlsplit

from storage.errors import BadSetting
from storage.uris import parse

Network = ipaddress.IPv4Network | ipaddress.IPv6Network

_PREFIX = "MASKMILL_"
_PROFILE_AND_ENDPOINT = re.compile(r"(.+?)(?:@(https?://.*))?")


@dataclass(frozen=True)
class Account:
    """Whose credentials, and at which endpoint; None leaves it to the AWS settings."""

    profile: str | None
    endpoint_url: str | None


@dataclass(frozen=True)
class S3Settings:
    default: Account
    accounts: tuple[tuple[str, Account], ...]
    """URI prefixes with the account to use there, longest first."""
    checksums: str
    max_attempts: int
    connect_timeout: float
    read_timeout: float

    def account_for(self, uri: str) -> Account:
        for prefix, account in self.accounts:
            if uri == prefix or uri.startswith(prefix if prefix.endswith("/") else prefix + "/"):
                return account
        return self.default


@dataclass(frozen=True)
class HttpSettings:
    allowed_hosts: frozenset[str]
    allowed_networks: tuple[Network, ...]
    timeout: float
    """Seconds without an answer or a byte."""
    deadline: float
    """Seconds for one whole input."""


def s3_settings() -> S3Settings:
    return _s3_settings(
        _variable("S3_ENDPOINT_URL"),
        _variable("S3_PROFILES"),
        _variable("S3_CHECKSUMS") or "when_required",
        _variable("S3_MAX_ATTEMPTS") or "6",
        _variable("S3_CONNECT_TIMEOUT") or "10",
        _variable("S3_READ_TIMEOUT") or "60",
    )


def http_settings() -> HttpSettings:
    return _http_settings(
        _variable("HTTP_ALLOW"),
        _variable("HTTP_TIMEOUT") or "30",
        _variable("HTTP_DEADLINE") or "600",
    )


def _variable(name: str) -> str:
    return os.environ.get(_PREFIX + name, "").strip()


@lru_cache(maxsize=8)
def _s3_settings(
    endpoint: str, profiles: str, checksums: str, attempts: str, connect: str, read: str
) -> S3Settings:
    if checksums not in ("when_required", "when_supported"):
        raise _bad("S3_CHECKSUMS", "must be when_required or when_supported")
    if not attempts.isdigit() or not 1 <= int(attempts) <= 100:
        raise _bad("S3_MAX_ATTEMPTS", "must be a whole number from 1 to 100")
    if endpoint and not _is_web_address(endpoint):
        raise _bad("S3_ENDPOINT_URL", "must be an http:// or https:// URL")
    return S3Settings(
        default=Account(None, endpoint or None),
        accounts=_accounts(profiles),
        checksums=checksums,
        max_attempts=int(attempts),
        connect_timeout=_seconds("S3_CONNECT_TIMEOUT", connect),
        read_timeout=_seconds("S3_READ_TIMEOUT", read),
    )


@lru_cache(maxsize=8)
def _http_settings(allow: str, timeout: str, deadline: str) -> HttpSettings:
    hosts, networks = set(), []
    for item in _listed(allow):
        try:
            networks.append(ipaddress.ip_network(item, strict=False))
        except ValueError as error:
            if not re.fullmatch(r"[A-Za-z0-9._-]*[A-Za-z_-][A-Za-z0-9._-]*", item):
                raise _bad("HTTP_ALLOW", "must list host names, addresses or networks") from error
            hosts.add(item.lower().rstrip("."))
    return HttpSettings(
        allowed_hosts=frozenset(hosts),
        allowed_networks=tuple(networks),
        timeout=_seconds("HTTP_TIMEOUT", timeout),
        deadline=_seconds("HTTP_DEADLINE", deadline),
    )


def _accounts(profiles: str) -> tuple[tuple[str, Account], ...]:
    """`s3://in=reader,s3://out/x=writer@https://store.example:9000`, longest prefix first."""
    accounts = {}
    for item in _listed(profiles):
        prefix, _, value = item.partition("=")
        match = _PROFILE_AND_ENDPOINT.fullmatch(value)
        if not prefix.startswith("s3://") or match is None:
            raise _bad("S3_PROFILES", "must list s3://bucket/prefix=profile pairs")
        if match[2] and not _is_web_address(match[2]):
            raise _bad("S3_PROFILES", "must have a URL after the @ of a profile")
        parse(prefix)
        accounts[prefix] = Account(match[1], match[2])
    return tuple(sorted(accounts.items(), key=lambda pair: -len(pair[0])))


def _is_web_address(url: str) -> bool:
    try:
        parts = urlsplit(url)
        return parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        return False


def _seconds(name: str, text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value <= 86400:
        raise _bad(name, "must be a number of seconds above 0")
    return value


def _listed(text: str) -> list[str]:
    return [item.strip() for item in text.split(",") if item.strip()]


def _bad(name: str, why: str) -> BadSetting:
    return BadSetting(_PREFIX + name, why)
