"""What is particular to files: links, pipes, rights, full disks, names that are not UTF-8."""

from __future__ import annotations

import os
import resource
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import storage
from storage import errors
from storage.uris import relative

NOBODY = 65534


def listed(root: Path | str) -> list[str]:
    return [relative(entry.uri, str(root)) for entry in storage.list_entries(str(root))]


@pytest.fixture
def unprivileged() -> Iterator[None]:
    """Root may read and write everything, so be somebody else."""
    was = os.geteuid()
    if was == 0:
        os.seteuid(NOBODY)
    yield
    os.seteuid(was)


def test_links_are_followed_but_not_in_circles(tmp_path: Path) -> None:
    (tmp_path / "a/b").mkdir(parents=True)
    (tmp_path / "a/b/1.jpg").write_bytes(b"1")
    (tmp_path / "a/b/up").symlink_to(tmp_path / "a")
    (tmp_path / "a/self").symlink_to(".")
    (tmp_path / "other").symlink_to("a/b")
    (tmp_path / "2.jpg").symlink_to("a/b/1.jpg")
    assert listed(tmp_path) == ["2.jpg", "a/b/1.jpg", "other/1.jpg"]


def test_a_link_to_nothing_is_listed_and_not_found(tmp_path: Path) -> None:
    (tmp_path / "gone.jpg").symlink_to("nowhere")
    (entry,) = storage.list_entries(str(tmp_path))
    assert (entry.size, entry.version) == (0, "absent")
    with pytest.raises(errors.NotFound):
        storage.get(entry.uri)


def test_pipes_and_sockets_are_refused_at_once(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.jpg")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "socket.jpg"))
        assert listed(tmp_path) == []
        for name in ("pipe.jpg", "socket.jpg"):
            for verb in (storage.get, storage.exists):
                with pytest.raises(errors.Refused, match="a device, a socket or a pipe"):
                    verb(str(tmp_path / name))
    with pytest.raises(errors.Refused):
        storage.get("/dev/zero", max_bytes=10)


def test_names_that_are_not_utf8_are_listed_and_read(tmp_path: Path) -> None:
    raw = os.fsencode(tmp_path) + b"/caf\xe9.jpg"
    Path(os.fsdecode(raw)).write_bytes(b"x")
    (entry,) = storage.list_entries(str(tmp_path))
    assert entry.uri == f"{tmp_path.as_uri()}/caf%E9.jpg"
    assert storage.get(entry.uri) == storage.get(os.fsdecode(raw)) == b"x"
    with pytest.raises(errors.NotFound) as caught:
        storage.get(os.fsdecode(raw) + ".none")
    str(caught.value).encode()


def test_temporary_files_of_a_killed_writer_are_not_listed(tmp_path: Path) -> None:
    target = tmp_path / "result.json"
    code = (
        "import storage, sys, time\n"
        "with storage.open_write(sys.argv[1]) as stream:\n"
        "    stream.write(b'x' * (2 << 20))\n"
        "    print('writing', flush=True)\n"
        "    time.sleep(60)\n"
    )
    writer = subprocess.Popen(
        [sys.executable, "-c", code, str(target)], stdout=subprocess.PIPE, cwd=Path.cwd()
    )
    with writer:
        assert writer.stdout is not None
        assert writer.stdout.readline() == b"writing\n"
        writer.send_signal(signal.SIGKILL)
    assert len(os.listdir(tmp_path)) == 1
    assert listed(tmp_path) == []
    with pytest.raises(errors.NotFound):
        storage.get(str(target))


def test_a_put_leaves_no_temporary_file_and_respects_the_umask(tmp_path: Path) -> None:
    was = os.umask(0o027)
    try:
        storage.put(str(tmp_path / "new/a"), b"x", create_only=True)
        with pytest.raises(errors.Exists):
            storage.put(str(tmp_path / "new/a"), b"y", create_only=True)
    finally:
        os.umask(was)
    assert os.listdir(tmp_path / "new") == ["a"]
    assert (tmp_path / "new/a").stat().st_mode & 0o777 == 0o640


@pytest.mark.usefixtures("unprivileged")
def test_rights() -> None:
    shadow = "/etc/shadow"
    with pytest.raises(errors.Denied, match="access was denied"):
        storage.get(shadow)
    with pytest.raises(errors.NotWritable) as caught:
        storage.put("/etc/maskmill-test", b"")
    assert str(caught.value) == "/etc/maskmill-test may not be written"
    with pytest.raises(errors.NotWritable), storage.open_write("/etc/maskmill-test"):
        pass


def test_an_unreadable_folder_is_named(tmp_path: Path, request: pytest.FixtureRequest) -> None:
    (tmp_path / "closed").mkdir(mode=0)
    for folder in [tmp_path, *tmp_path.parents]:
        if not folder.stat().st_mode & 0o001:
            folder.chmod(0o755)
    request.getfixturevalue("unprivileged")
    with pytest.raises(errors.Denied, match=r"/closed/ may not be read"):
        list(storage.list_entries(str(tmp_path)))


def test_something_in_the_way_is_not_writable(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    (tmp_path / "folder").mkdir()
    for path in ("file/below", "file/far/below", "folder"):
        with pytest.raises(errors.NotWritable, match="in the way"):
            storage.put(str(tmp_path / path), b"x")
    with pytest.raises(errors.NotFound):
        storage.get(str(tmp_path / "file/below"))
    with pytest.raises(errors.NotFound, match="is a folder"):
        storage.get(str(tmp_path / "folder"))


def test_names_too_long_for_the_disk_are_bad(tmp_path: Path) -> None:
    for verb in (storage.get, storage.exists):
        with pytest.raises(errors.BadUri):
            verb(str(tmp_path / ("x" * 300)))
    with pytest.raises(errors.BadUri):
        storage.put(str(tmp_path / ("x" * 300)), b"")


@pytest.fixture
def full_disk() -> Iterator[None]:
    """The kernel refuses files above 64 kB, in the same way as a disk that is full."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (65536, hard))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.usefixtures("full_disk")
@pytest.mark.parametrize("create_only", [True, False])
def test_a_full_disk_leaves_what_was_there(tmp_path: Path, create_only: bool) -> None:
    uri = str(tmp_path / "a.json")
    with pytest.raises(errors.Full, match="the disk or the quota is full"):
        storage.put(uri, bytes(100_000), create_only=create_only)
    storage.put(uri, b"before")
    with pytest.raises(errors.Full), storage.open_write(uri) as stream:
        stream.write(bytes(3 << 20))
    with pytest.raises(errors.Full), storage.open_write(uri) as stream:
        stream.write(bytes(100_000))  # stays in the buffer until the end
    assert storage.get(uri) == b"before"
    assert os.listdir(tmp_path) == ["a.json"]


def test_a_file_system_without_hard_links_is_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*paths: str) -> None:
        raise OSError(1, "Operation not permitted")

    monkeypatch.setattr(os, "link", refuse)
    uri = str(tmp_path / "a")
    storage.put(uri, b"first", create_only=True)
    storage.put(uri, b"first", create_only=True)
    with pytest.raises(errors.Exists):
        storage.put(uri, b"other", create_only=True)
    assert storage.get(uri) == b"first"


def test_an_endless_file_stops_at_the_limit() -> None:
    """Files under /proc say that they have no bytes."""
    with pytest.raises(errors.TooLarge):
        storage.get("/proc/cpuinfo", max_bytes=10)


@pytest.fixture
def deep_tree(tmp_path: Path) -> Iterator[Path]:
    """Folders in one another, deeper than Python recurses, and so than pytest can clean up."""
    path, depth = str(tmp_path), 1050
    for _ in range(depth):
        path += "/d"
        os.mkdir(path)
    Path(path, "leaf").write_bytes(b"x")
    yield tmp_path
    os.unlink(f"{path}/leaf")
    for _ in range(depth):
        os.rmdir(path)
        path = path[: -len("/d")]


def test_deep_trees_are_listed(deep_tree: Path) -> None:
    assert listed(deep_tree) == ["d/" * 1050 + "leaf"]


def test_importing_storage_is_cheap() -> None:
    heavy = {"boto3", "botocore", "urllib3", "ssl", "numpy", "logging"}
    code = f"import sys, storage; print(sorted({heavy} & set(sys.modules)))"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True, text=True)
    assert found.stdout == "[]\n"
