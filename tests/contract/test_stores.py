"""One suite over every store that can be written: what the verbs promise holds for each."""

from __future__ import annotations

import hashlib
import io
import os
import threading
from pathlib import Path
from typing import BinaryIO

import pytest

import storage
from storage import errors, expand
from storage.uris import join, relative
from tests.conftest import S3_STORES

STORES = ["disk", "file", *S3_STORES]

HOSTILE_NAMES = [
    "with space.jpg",
    "per%cent%41.jpg",
    "hash#frag.jpg",
    "question?mark.jpg",
    "a[1]*.jpg",
    "plus+and&.jpg",
    "quote'\".jpg",
    "line\nbreak.jpg",
    "e\u0301 and \u00e9.jpg",
    "deep/er/est.jpg",
]

IN_UTF8_ORDER = [
    "A.txt",
    "a-b/c.txt",
    "a.txt",
    "a/b.txt",
    "a/\u00e9.txt",
    "a0.txt",
    "b/c/d.txt",
    "b/c0.txt",
    "\u00fc.txt",
    "\uff5e.txt",  # before the next in UTF-8, behind it in UTF-16
    "\U0001f600.txt",
]


@pytest.fixture(params=STORES)
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def root(kind: str, request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """An empty folder to work in."""
    if kind in S3_STORES:
        return request.getfixturevalue(f"{kind}_s3") + "/some/folder"
    folder = tmp_path / "a folder"
    folder.mkdir()
    return folder.as_uri() if kind == "file" else str(folder)


def listed(root: str, **options: str) -> list[str]:
    return [relative(entry.uri, root) for entry in storage.list_entries(root, **options)]


@pytest.mark.parametrize("data", [b"", b"x", os.urandom(3_000_000)], ids=["0", "1", "3MB"])
def test_what_is_put_is_what_is_got(root: str, data: bytes) -> None:
    uri = join(root, "sub/a.bin")
    storage.put(uri, data)
    assert storage.get(uri) == data
    with storage.open_read(uri) as stream:
        assert stream.read(2) + stream.read() == data


def test_list_and_get_agree_on_the_version(root: str) -> None:
    uri = join(root, "a.bin")
    storage.put(uri, b"one")
    (entry,) = storage.list_entries(root)
    assert (entry.uri, entry.size) == (uri, 3)
    assert storage.get_versioned(uri) == (b"one", entry.version)
    storage.put(uri, b"three")
    (later,) = storage.list_entries(root)
    assert later.version != entry.version
    assert storage.get_versioned(uri) == (b"three", later.version)


def test_absent_objects_are_not_found(root: str) -> None:
    uri = join(root, "nothing here")
    storage.put(join(root, "other"), b"")
    assert not storage.exists(uri)
    with pytest.raises(errors.NotFound) as caught:
        storage.get(uri)
    assert isinstance(caught.value, FileNotFoundError)
    assert str(caught.value) == f"{uri} does not exist"
    with pytest.raises(errors.NotFound), storage.open_read(uri) as stream:
        stream.read()


def test_a_file_is_no_folder_and_a_folder_no_file(root: str) -> None:
    storage.put(join(root, "sub/a"), b"")
    with pytest.raises(errors.NotFound):
        storage.get(join(root, "sub"))
    assert not storage.exists(join(root, "sub"))


def test_max_bytes_is_the_most_that_is_read(root: str) -> None:
    uri = join(root, "a.bin")
    storage.put(uri, b"12345")
    assert storage.get(uri, max_bytes=5) == b"12345"
    with pytest.raises(errors.TooLarge, match=r"larger than the limit of 4 bytes$"):
        storage.get(uri, max_bytes=4)


def test_create_only_writes_once(root: str) -> None:
    uri = join(root, "sub/once.json")
    storage.put(uri, b"first", create_only=True)
    storage.put(uri, b"first", create_only=True)
    for other in (b"other", b"longer than first"):
        with pytest.raises(errors.Exists, match="exists already"):
            storage.put(uri, other, create_only=True)
    assert storage.get(uri) == b"first"
    assert listed(root) == ["sub/once.json"]
    storage.put(uri, b"replaced")
    assert storage.get(uri) == b"replaced"


def test_one_of_many_creators_wins(root: str, kind: str) -> None:
    if kind == "moto":
        pytest.skip("moto looks and writes in two steps; test_s3_faults has the race")
    uri = join(root, "raced.json")
    barrier = threading.Barrier(8)
    winners: list[bytes] = []

    def create(data: bytes) -> None:
        barrier.wait()
        try:
            storage.put(uri, data, create_only=True)
        except errors.Exists:
            return
        winners.append(data)

    threads = [threading.Thread(target=create, args=(b"%d" % n,)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert winners == [storage.get(uri)]


def test_delete_is_no_error_twice(root: str) -> None:
    uri = join(root, "a/b")
    storage.put(uri, b"x")
    storage.delete(uri)
    storage.delete(uri)
    storage.delete(join(root, "no/such/folder"))
    with pytest.raises(errors.NotFound):
        storage.get(uri)


def test_listings_come_in_utf8_order_of_whole_keys(root: str) -> None:
    assert sorted(IN_UTF8_ORDER, key=str.encode) == IN_UTF8_ORDER
    for name in reversed(IN_UTF8_ORDER):
        storage.put(join(root, name), name.encode())
    assert listed(root) == IN_UTF8_ORDER
    assert listed(root + "/") == IN_UTF8_ORDER
    for entry in storage.list_entries(root):
        assert storage.get(entry.uri) == relative(entry.uri, root).encode()


def test_a_listing_stays_in_its_folder(root: str) -> None:
    for name in ("photos/1.jpg", "photos2/1.jpg", "photos.jpg", "photo"):
        storage.put(join(root, name), b"")
    assert listed(join(root, "photos")) == ["1.jpg"]
    assert listed(root, starting="photos") == ["photos.jpg", "photos/1.jpg", "photos2/1.jpg"]
    assert listed(root, starting="photos/") == ["photos/1.jpg"]
    assert listed(root, starting="x") == []


def test_an_empty_prefix_and_a_missing_folder_yield_nothing(root: str) -> None:
    assert list(storage.list_entries(join(root, "none"))) == []
    storage.put(join(root, "file"), b"")
    assert list(storage.list_entries(join(root, "file"))) == []


@pytest.mark.parametrize("name", HOSTILE_NAMES)
def test_names_are_taken_literally(root: str, kind: str, name: str) -> None:
    if kind == "moto" and "\n" in name:
        pytest.skip("moto's URL routing knows no line breaks")
    uri = join(root, name)
    storage.put(uri, b"x", create_only=True)
    assert storage.get(uri) == b"x"
    assert [entry.uri for entry in storage.list_entries(root)] == [uri]
    assert relative(uri, root) == name
    storage.delete(uri)
    assert listed(root) == []


def test_globs_pick_from_the_listing(root: str) -> None:
    for name in ("1.jpg", "a/2.jpg", "a/b/3.jpg", "a/b/3.png", "b/4.jpg"):
        storage.put(join(root, name), b"")

    def found(pattern: str) -> list[str]:
        return [relative(entry.uri, root) for entry in expand(f"{root}/{pattern}")[1]]

    assert found("*.jpg") == ["1.jpg"]
    assert found("**/*.jpg") == ["1.jpg", "a/2.jpg", "a/b/3.jpg", "b/4.jpg"]
    assert found("a/**") == ["a/2.jpg", "a/b/3.jpg", "a/b/3.png"]
    assert found("[ab]/?.jpg") == ["a/2.jpg", "b/4.jpg"]


def test_a_stream_appears_whole_at_its_end(root: str) -> None:
    uri = join(root, "big/instances.json")
    block = os.urandom(1 << 20)
    digest = hashlib.sha256()
    with storage.open_write(uri) as stream:
        for n in range(34):  # several full parts of an upload and a rest
            stream.write(block[n:])
            digest.update(block[n:])
        assert not storage.exists(uri)
        assert [entry.uri for entry in storage.list_entries(join(root, "big"))] == []
    assert hashlib.sha256(storage.get(uri)).digest() == digest.digest()
    with storage.open_write(uri) as stream:
        stream.write(b"small")
        assert len(storage.get(uri)) > 5
    assert storage.get(uri) == b"small"


@pytest.mark.parametrize("size", [10, 20 << 20], ids=["small", "multipart"])
def test_a_stream_that_fails_changes_nothing(root: str, kind: str, size: int) -> None:
    def fail(stream: BinaryIO) -> None:
        stream.write(bytes(size))
        raise ZeroDivisionError

    uri = join(root, "result.json")
    storage.put(uri, b"before")
    with pytest.raises(ZeroDivisionError), storage.open_write(uri) as stream:
        fail(stream)
    assert storage.get(uri) == b"before"
    assert listed(root) == ["result.json"]
    if kind == "disk":
        assert os.listdir(root) == ["result.json"]
    if kind in S3_STORES:
        from storage.s3_clients import client_for
        from storage.uris import parse

        location = parse(root)
        uploads = client_for(location).list_multipart_uploads(Bucket=location.host)
        assert uploads.get("Uploads", []) == []


def test_a_wrapper_may_close_the_stream(root: str) -> None:
    uri = join(root, "text.json")
    with storage.open_write(uri) as stream, io.TextIOWrapper(stream, encoding="utf-8") as text:
        text.write("größer")
    assert storage.get(uri).decode() == "größer"


def test_an_empty_stream_is_an_empty_object(root: str) -> None:
    uri = join(root, "empty")
    with storage.open_write(uri):
        pass
    assert storage.exists(uri)
    assert storage.get(uri) == b""
