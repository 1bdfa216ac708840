"""Parsing, joining and showing URIs."""

from __future__ import annotations

import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from storage import errors, uris

NAMES = st.text(st.characters(exclude_characters="/\0", codec="utf-8"), min_size=1).filter(
    lambda name: name not in (".", "..") and "\\" not in name
)
ROOTS = ["photos", "/data/my photos", "file:///data/my%20photos", "s3://in", "s3://in/a"]


@pytest.mark.parametrize(
    ("uri", "scheme", "host", "path"),
    [
        ("a/b.jpg", "file", "", "a/b.jpg"),
        ("C:/odd", "file", "", "C:/odd"),
        ("file:///a%20b/%C3%A9.jpg", "file", "", "/a b/é.jpg"),
        ("FILE://localhost/a", "file", "", "/a"),
        ("s3://b/a%20b?x#y", "s3", "b", "a%20b?x#y"),
        ("s3://b", "s3", "b", ""),
        ("s3://b//a", "s3", "b", "/a"),
        ("https://h.example:8443/a%20b.jpg?sig=1", "https", "h.example", "a b.jpg"),
        ("http://[::1]/a", "http", "::1", "a"),
    ],
)
def test_parse(uri: str, scheme: str, host: str, path: str) -> None:
    location = uris.parse(uri)
    assert (location.uri, location.scheme) == (uri, scheme)
    assert (location.host, location.path) == (host, path)


@pytest.mark.parametrize(
    "uri",
    [
        "",
        "a\0b",
        "file:///a%00b",
        "file://server/share",
        "file://relative.jpg",
        "s3:///key",
        "s3://bad bucket/key",
        "s3://KEY:SECRET@bucket/key",
        "s3://b/\udcff",
        "gs://b/k",
        "mem://b/k",
        "http:///path",
        "http://h:port/",
        "http://h:0/",
        "http://[::1/",
        "http://h/a\r\nX: y",
    ],
)
def test_what_no_store_takes_is_refused_in_one_sentence(uri: str) -> None:
    with pytest.raises(errors.BadUri) as caught:
        uris.parse(uri)
    assert "SECRET" not in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize("root", ROOTS)
@given(names=st.lists(NAMES, min_size=1, max_size=3))
def test_relative_undoes_join_and_below(root: str, names: list[str]) -> None:
    path = "/".join(names)
    assert uris.relative(uris.join(root, *names), root) == path
    assert uris.below(root, path) == uris.join(root, path)
    assert uris.basename(uris.join(root, path)) == names[-1]


def test_an_http_query_stays_at_the_end() -> None:
    root = "https://account.example/container?sig=abc"
    uri = uris.join(root, "a b/c#.jpg")
    assert uri == "https://account.example/container/a%20b/c%23.jpg?sig=abc"
    assert uris.relative(uri, root) == "a b/c#.jpg"
    assert uris.parent(uri) == "https://account.example/container/a%20b/"


@pytest.mark.parametrize(
    "hostile",
    ["..", "../x", "a/../../x", "/etc/passwd", "a//b", "./a", "a/.", "a\\..\\b", "a\0b", "", "a/"],
)
@pytest.mark.parametrize("root", ROOTS)
def test_nothing_leaves_its_root(root: str, hostile: str) -> None:
    with pytest.raises(errors.BadUri):
        uris.below(root, hostile)


@pytest.mark.parametrize(
    ("uri", "root"),
    [("s3://a/b/c", "s3://a/x"), ("s3://a/b", "s3://c"), ("photos2/a", "photos"), ("a", "s3://a")],
)
def test_relative_to_another_root_is_refused(uri: str, root: str) -> None:
    with pytest.raises(errors.BadUri, match="is not below"):
        uris.relative(uri, root)


@pytest.mark.parametrize(
    ("uri", "folder"),
    [
        ("a/b.jpg", "a/"),
        ("b.jpg", "./"),
        ("/b.jpg", "/"),
        ("/", "/"),
        ("s3://b/a/k", "s3://b/a/"),
        ("s3://b/k", "s3://b/"),
        ("s3://b", "s3://b/"),
        ("file:///x/y/", "file:///x/"),
    ],
)
def test_parent(uri: str, folder: str) -> None:
    assert uris.parent(uri) == folder


@pytest.mark.parametrize(
    ("uri", "safe"),
    [
        ("https://me:pw@h/a.jpg?X-Amz-Signature=s", "https://h/a.jpg"),
        ("HTTPS://h/clip.mp4?sig=s#t=12.5", "HTTPS://h/clip.mp4#t=12.5"),
        ("https://h/clip.mp4?sig=s#frame=374", "https://h/clip.mp4#frame=374"),
        ("http://h?sig=s", "http://h"),
        ("s3://b/what?.jpg", "s3://b/what?.jpg"),
        ("odd?name.jpg", "odd?name.jpg"),
    ],
)
def test_queries_and_passwords_are_not_shown(uri: str, safe: str) -> None:
    assert uris.without_query(uri) == safe
    assert uris.shown(uri) == safe


@pytest.mark.parametrize("root", ["s3://b/a#frame=2", "/x#t=3/", "https://h/x?sig=1"])
def test_without_frame_undoes_of_frame(root: str) -> None:
    assert uris.without_frame(uris.of_frame(root, 374)) == root
    assert uris.of_frame(root, 374).endswith("#frame=374")


def test_shown_is_one_printable_line() -> None:
    assert uris.shown("a\x1b[2J\nb\udcff") == "a\\u001b[2J\\u000ab\\udcff"


def test_names_that_are_not_utf8_become_storable() -> None:
    name = os.fsdecode(b"caf\xe9.jpg")
    uri = uris.storable(uris.join("photos", name))
    assert uri == f"file://{os.path.abspath('photos')}/caf%E9.jpg"
    assert uris.relative(uri, "photos") == name
    assert uris.storable("café.jpg") == "café.jpg"


@given(st.text(min_size=1))
def test_any_text_is_parsed_or_refused(text: str) -> None:
    for prefix in ("", "file:///", "s3://b/", "https://h/", "https://"):
        try:
            location = uris.parse(prefix + text)
        except errors.BadUri as error:
            str(error).encode()
        else:
            uris.shown(location.uri).encode()
            uris.basename(location.uri)
            uris.parent(location.uri)
