"""Parts of objects: what comes, of which version, and what goes over the wire."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

import storage
from storage import Opened
from storage.errors import NotFound
from storage.s3_clients import client_for
from storage.uris import join, parse
from tests.conftest import S3_STORES
from tests.ranges import Ranged
from tests.services import http_server, url_of

DATA = os.urandom(3_000_000)


def part_of(opened: Opened, start: int, end: int) -> bytes:
    """A local file is open to its end: the caller reads what it wants."""
    with opened.stream as stream:
        return stream.read(end - start) if opened.end is None else stream.read()


@pytest.fixture
def site(monkeypatch: pytest.MonkeyPatch) -> Iterator[Ranged]:
    monkeypatch.setenv("MASKMILL_HTTP_ALLOW", "127.0.0.1")
    monkeypatch.setattr("storage.backoff", lambda attempt: 0.0)
    site = Ranged(DATA)
    with http_server(site.answer) as server:
        site.url = url_of(server, "/clip.mp4?signed=1")
        yield site


@pytest.fixture(params=["disk", "http", *S3_STORES])
def uri(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """An object of `DATA`."""
    if request.param == "http":
        return str(request.getfixturevalue("site").url)
    if request.param == "disk":
        uri = str(tmp_path / "clip.mp4")
    else:
        uri = join(request.getfixturevalue(f"{request.param}_s3"), "clip.mp4")
    storage.put(uri, DATA)
    return uri


def test_a_part_without_a_known_version_tells_it_and_the_size(uri: str) -> None:
    opened = storage.open_from(uri, 0, "", 65536)
    assert part_of(opened, 0, 65536) == DATA[:65536]
    assert (opened.start, opened.size) == (0, len(DATA))
    assert opened.end in (65536, None)
    assert opened.version == storage.get_versioned(uri)[1]


@pytest.mark.parametrize(
    ("start", "end"), [(0, 1), (1000, 1001), (1_000_000, 2_500_000), (2_999_000, 4_000_000)]
)
def test_a_part_of_a_known_version(uri: str, start: int, end: int) -> None:
    version = storage.get_versioned(uri)[1]
    opened = storage.open_from(uri, start, version, end)
    assert part_of(opened, start, end) == DATA[start:end]
    assert (opened.start, opened.size, opened.version) == (start, len(DATA), version)
    assert opened.end in (min(end, len(DATA)), None)


def test_the_rest_of_a_known_version(uri: str) -> None:
    version = storage.get_versioned(uri)[1]
    opened = storage.open_from(uri, 2_000_000, version)
    with opened.stream as stream:
        assert (stream.read(), opened.start) == (DATA[2_000_000:], 2_000_000)


def test_of_another_version_all_comes(uri: str) -> None:
    opened = storage.open_from(uri, 5, "another", 10)
    assert (opened.start, opened.size) == (0, len(DATA))
    with opened.stream as stream:
        assert stream.read() == DATA


def test_an_empty_object_has_no_parts(uri: str, request: pytest.FixtureRequest) -> None:
    if uri.startswith("http"):
        request.getfixturevalue("site").data = b""
    else:
        storage.put(uri, b"")
    opened = storage.open_from(uri, 0, "", 65536)
    with opened.stream as stream:
        assert (stream.read(), opened.size) == (b"", 0)


def test_what_is_absent_is_absent_in_parts_too(moto_s3: str) -> None:
    storage.put(join(moto_s3, "other"), b"")
    with pytest.raises(NotFound):
        storage.open_from(join(moto_s3, "clip.mp4"), 0, "", 10)


def test_a_part_over_http_that_breaks_off_is_asked_for_again(site: Ranged) -> None:
    site.cut = 2
    opened = storage.open_from(site.url, 100, "one", 200)
    assert opened.stream.read() == DATA[100:200]
    assert site.asked == [("bytes=100-199", 50), ("bytes=100-199", 50), ("bytes=100-199", 100)]


@pytest.mark.parametrize(("etag", "version"), [('W/"one"', 'W/"one'), ("", "")])
def test_bytes_of_which_no_version_is_sure_come_as_a_whole(
    site: Ranged, etag: str, version: str
) -> None:
    site.etag = etag
    opened = storage.open_from(site.url, 100, version, 200)
    assert (opened.start, opened.stream.read()) == (0, DATA if etag else DATA[:200])


def test_a_server_without_parts_gives_all(site: Ranged) -> None:
    site.ranges = False
    opened = storage.open_from(site.url, 100, "one", 200)
    with opened.stream as stream:
        assert (opened.start, opened.end, stream.read()) == (0, None, DATA)


def test_only_the_part_leaves_the_store(
    moto_s3: str, monkeypatch: pytest.MonkeyPatch, site: Ranged
) -> None:
    """What the store says that it sends, and on another version nothing but the whole's answer."""
    uri = join(moto_s3, "clip.mp4")
    storage.put(uri, DATA)
    version = storage.get_versioned(uri)[1]
    lengths: list[int] = []
    client_for(parse(uri)).meta.events.register(
        "after-call.s3.GetObject",
        lambda parsed, **_: lengths.append(parsed.get("ContentLength", 0)),
        unique_id="count",
    )
    storage.open_from(uri, 1000, version, 2000).stream.read()
    assert lengths == [1000]
    storage.open_from(site.url, 1000, "one", 2000).stream.read()
    assert site.asked == [("bytes=1000-1999", 1000)]
