"""Which network addresses an HTTP input may lead to (no server-side request forgery)."""

from __future__ import annotations

import ipaddress
import socket

from storage.errors import Refused
from storage.settings import HttpSettings

Address = ipaddress.IPv4Address | ipaddress.IPv6Address

_GLOBAL_UNICAST = ipaddress.ip_network("2000::/3")
_NAT64 = ipaddress.ip_network("64:ff9b::/96")

# Not all Python versions know these as special; the last is a cloud's metadata service.
_MORE_SPECIAL = tuple(
    ipaddress.IPv4Network(text) for text in ("192.0.0.0/24", "192.88.99.0/24", "168.63.129.16/32")
)


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
                "(MASKMILL_HTTP_ALLOW lists exceptions)",
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
