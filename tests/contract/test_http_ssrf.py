"""No HTTP input leads into the private network, by whatever way it is named."""

from __future__ import annotations

import ipaddress
import ssl
from collections.abc import Iterator
from datetime import datetime, timedelta, timezone
from http.server import BaseHTTPRequestHandler
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

import storage
from storage import errors, http_requests
from storage.http_requests import Address, is_public, require_allowed
from storage.settings import http_settings
from tests.services import http_server, reply, url_of

METADATA = "http://169.254.169.254/latest/meta-data/"


class Site:
    """Redirects as told, or says what was asked."""

    def __init__(self) -> None:
        self.redirects: dict[str, str] = {}
        self.hosts: list[str] = []
        self.port = 0
        self.url = ""

    def answer(self, request: BaseHTTPRequestHandler) -> None:
        self.hosts.append(request.headers["Host"])
        target = self.redirects.get(request.path.partition("?")[0])
        if target is None:
            reply(request, 200, request.path.encode())
        else:
            reply(request, 302, headers={"Location": target})


@pytest.fixture
def site() -> Iterator[Site]:
    site = Site()
    with http_server(site.answer) as server:
        site.port, site.url = server.server_port, url_of(server)
        yield site


@pytest.fixture
def allowed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MASKMILL_HTTP_ALLOW", "127.0.0.1/32")


class Resolver:
    """Answers each question with the next of the given addresses."""

    def __init__(self, *answers: list[str]) -> None:
        self._answers = list(answers)
        self.asked: list[str] = []

    def __call__(self, host: str, port: int) -> list[Address]:
        self.asked.append(host)
        return [ipaddress.ip_address(text) for text in self._answers.pop(0)]


@pytest.mark.parametrize(
    "host",
    [
        "127.0.0.1",
        "localhost",
        "2130706433",
        "0x7f.1",
        "0",
        "[::1]",
        "[::]",
        "[::ffff:127.0.0.1]",
        "[::ffff:169.254.169.254]",
        "[64:ff9b::a9fe:a9fe]",
        "[2002:7f00:1::]",
        "[fe80::1]",
        "[fd00:ec2::254]",
        "169.254.169.254",
        "10.0.0.1",
        "user:pw@127.0.0.1",
    ],
)
def test_inner_addresses_are_refused_without_a_connection(site: Site, host: str) -> None:
    with pytest.raises(errors.Refused) as caught:
        storage.get(f"http://{host}:{site.port}/a?sig=secret")
    assert site.hosts == []
    assert caught.value.kind == "refused"
    assert "secret" not in str(caught.value)
    assert "pw" not in str(caught.value)


@pytest.mark.parametrize(
    "address",
    [
        "0.0.0.0",
        "10.255.0.1",
        "100.64.0.1",
        "100.100.100.200",
        "127.255.255.255",
        "168.63.129.16",
        "169.254.169.254",
        "172.16.0.1",
        "192.0.0.192",
        "192.168.1.1",
        "198.18.0.1",
        "224.0.0.1",
        "240.0.0.1",
        "255.255.255.255",
        "::",
        "::1",
        "::7f00:1",
        "fe80::1",
        "fec0::1",
        "fc00::1",
        "ff02::1",
        "2001:db8::1",
        "2001::1",
        "64:ff9b:1::1",
    ],
)
def test_special_addresses_are_not_public(address: str) -> None:
    assert not is_public(ipaddress.ip_address(address))


@pytest.mark.parametrize("address", ["1.1.1.1", "93.184.216.34", "172.32.0.1", "2606:4700::1111"])
def test_ordinary_addresses_are_public(address: str) -> None:
    assert is_public(ipaddress.ip_address(address))


@pytest.mark.parametrize("address", ["64:ff9b::101:101", "::ffff:1.1.1.1", "2002:101:101::1"])
def test_public_addresses_inside_of_others_pass(address: str) -> None:
    """Networks with IPv6 only reach IPv4 by such addresses."""
    require_allowed("http://h/", "h", [ipaddress.ip_address(address)], http_settings())


@pytest.mark.usefixtures("allowed")
def test_a_redirect_to_a_metadata_service_is_refused(site: Site) -> None:
    site.redirects = {"/a": "/b", "/b": METADATA}
    with pytest.raises(errors.Refused) as caught:
        storage.get(site.url + "/a?sig=secret")
    assert str(caught.value).startswith(f"{site.url}/a is refused: it leads to a private")
    assert len(site.hosts) == 2


@pytest.mark.usefixtures("allowed")
@pytest.mark.parametrize(
    "target",
    ["file:///etc/passwd", "s3://bucket/key", "http://[::1/", "gopher://h/", "http://h:x/"],
)
def test_a_redirect_to_what_is_no_http_url_is_refused(site: Site, target: str) -> None:
    site.redirects = {"/a": target}
    with pytest.raises(errors.Refused, match="something other than an HTTP URL"):
        storage.get(site.url + "/a")


@pytest.mark.usefixtures("allowed")
def test_five_redirects_are_followed_and_circles_are_not(site: Site) -> None:
    site.redirects = {f"/{n}": f"/{n + 1}" for n in range(5)} | {"/x": "/y", "/y": "/x"}
    assert storage.get(site.url + "/0") == b"/5"
    with pytest.raises(errors.Unreachable, match="more than 5 redirects"):
        storage.get(site.url + "/x")
    assert len(site.hosts) == 12


@pytest.mark.usefixtures("allowed")
def test_the_checked_address_is_the_one_connected_to(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A name that rebinds between check and connection would need a second look-up."""
    resolver = Resolver(["127.0.0.1"], ["10.0.0.1"])
    monkeypatch.setattr(http_requests, "resolve", resolver)
    uri = f"http://rebinding.example:{site.port}/a"
    assert storage.get(uri) == b"/a"
    assert resolver.asked == ["rebinding.example"]
    assert site.hosts == [f"rebinding.example:{site.port}"]
    with pytest.raises(errors.Refused):
        storage.get(uri)
    assert len(site.hosts) == 1


@pytest.mark.usefixtures("allowed")
def test_every_redirect_is_resolved_and_checked_again(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    site.redirects = {"/a": "/b"}
    monkeypatch.setattr(http_requests, "resolve", Resolver(["127.0.0.1"], ["192.168.0.1"]))
    with pytest.raises(errors.Refused):
        storage.get(f"http://rebinding.example:{site.port}/a")


def test_one_inner_address_among_many_is_enough(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(http_requests, "resolve", Resolver(["1.1.1.1", "127.0.0.1"]))
    with pytest.raises(errors.Refused):
        storage.get(f"http://mixed.example:{site.port}/a")


@pytest.mark.parametrize(
    ("allow", "host"),
    [
        ("127.0.0.0/8", "127.0.0.1"),
        ("10.0.0.0/8, LocalHost", "localhost"),
        ("127.0.0.1", "[::ffff:127.0.0.1]"),
        ("127.0.0.1,::1", "localhost"),
    ],
)
def test_settings_allow_hosts_and_networks(
    site: Site, monkeypatch: pytest.MonkeyPatch, allow: str, host: str
) -> None:
    monkeypatch.setenv("MASKMILL_HTTP_ALLOW", allow)
    assert storage.get(f"http://{host}:{site.port}/a") == b"/a"


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("MASKMILL_HTTP_ALLOW", "10.0.0.0/99"),
        ("MASKMILL_HTTP_ALLOW", "http://host"),
        ("MASKMILL_HTTP_TIMEOUT", "soon"),
        ("MASKMILL_HTTP_DEADLINE", "0"),
    ],
)
def test_a_bad_setting_is_named(monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(errors.BadSetting, match=f"^{name} must "):
        storage.get("http://127.0.0.1/")


@pytest.fixture
def secure_site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    """HTTPS for images.example, whose certificate this process trusts for the while."""
    certificate = _certificate(tmp_path, "images.example")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    site = Site()
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
    http_requests.pools.cache_clear()
    with http_server(site.answer) as server:
        server.socket = context.wrap_socket(server.socket, server_side=True)
        site.port = server.server_port
        yield site
    http_requests.pools.cache_clear()


def _certificate(folder: Path, host: str) -> Path:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, host)])
    now = datetime.now(timezone.utc)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(host)]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    path = folder / "certificate.pem"
    path.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
        + made.public_bytes(serialization.Encoding.PEM)
    )
    return path


@pytest.mark.usefixtures("allowed")
def test_certificates_are_checked_against_the_name_not_the_address(
    secure_site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(http_requests, "resolve", Resolver(*[["127.0.0.1"]] * 3))
    good = f"https://images.example:{secure_site.port}/a"
    assert storage.get(good) == b"/a"
    assert secure_site.hosts == [f"images.example:{secure_site.port}"]
    with pytest.raises(errors.Unreachable, match="its certificate is not valid"):
        storage.get(good.replace("images", "other"))
    assert storage.get(good) == b"/a"
