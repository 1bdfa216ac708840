"""One published file onto this disk: resumed where it broke off, verified, renamed when whole."""

from __future__ import annotations

import fcntl
import hashlib
import os
from collections.abc import Callable
from io import FileIO
from pathlib import Path

from storage import open_from
from storage.disk_errors import translating
from storage.errors import Unreachable
from storage.streams import CHUNK, Opened
from tasks.cards import Download, ModelError

Told = Callable[[int, int | None], None]  # bytes done, and of how many where that is known


def download(wanted: Download, target: Path, told: Told) -> None:
    """Bring `wanted` to `target`; what came so far stays in a .part beside it for the next time."""
    part = target.with_name(target.name + ".part")
    version_at = target.with_name(target.name + ".part-version")  # of the bytes in the .part
    with translating(str(target), writing=True):
        part.parent.mkdir(parents=True, exist_ok=True)
        with part.open("ab", buffering=0) as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            if target.exists():  # another process was faster
                part.unlink(missing_ok=True)
            elif not os.fstat(file.fileno()).st_nlink:  # another process threw this .part away
                download(wanted, target, told)
            else:
                _complete(file, wanted, part, version_at, told)
                part.rename(target)
                version_at.unlink(missing_ok=True)


def _complete(file: FileIO, wanted: Download, part: Path, version_at: Path, told: Told) -> None:
    try:
        _fill(file, wanted, version_at, told)
        os.fsync(file.fileno())
        if why := difference(part, wanted):
            source = f"what came from {wanted.url} is not the file that was published or came first"
            raise ModelError(f"{source}: {why}; it was not kept")
    except ModelError:
        version_at.unlink(missing_ok=True)
        part.unlink()
        raise


def difference(path: Path, wanted: Download) -> str:
    """How a file differs from what is published of it; empty where it does not."""
    size = path.stat().st_size
    if wanted.size not in (None, size):
        return f"expected {wanted.size} bytes, found {size}"
    for kind, expected in (("sha384", wanted.sha384), ("sha256", wanted.sha256)):
        if expected and (found := checksum(kind, path)) != expected.lower():
            return f"expected {kind.upper()} {expected}, found {found}"
    return ""


def checksum(kind: str, *paths: Path) -> str:
    """Of the bytes of these files, one after the other."""
    found = hashlib.new(kind)
    for path in paths:
        with path.open("rb") as file:
            while chunk := file.read(CHUNK):
                found.update(chunk)
    return found.hexdigest()


def _fill(file: FileIO, wanted: Download, version_at: Path, told: Told) -> None:
    """Append until all is there. A break is taken up again for as long as that gets further."""
    done = furthest = os.fstat(file.fileno()).st_size
    while done != wanted.size:
        version = version_at.read_text("utf-8") if version_at.exists() else ""
        opened = open_from(wanted.url, done, version)
        if not opened.start:
            file.truncate(0)
        with opened.stream:
            if wanted.size and opened.size not in (None, wanted.size):
                sizes = f"expected {wanted.size} bytes, found {opened.size}"
                raise ModelError(f"{wanted.url} is not the file that was published: {sizes}")
            version_at.write_text(opened.version, "utf-8")
            try:
                _copy(opened, file, wanted, told)
                return
            except Unreachable:
                done = os.fstat(file.fileno()).st_size
                if done <= furthest:
                    raise
                furthest = done


def _copy(opened: Opened, file: FileIO, wanted: Download, told: Told) -> None:
    done = opened.start
    told(done, opened.size)
    while chunk := opened.stream.read1(CHUNK):  # type: ignore[attr-defined]
        rest = memoryview(chunk)
        while rest:  # an unbuffered write may take less, as when the disk is nearly full
            rest = rest[file.write(rest) :]
        done += len(chunk)
        if done > (wanted.size or done):
            sizes = f"expected {wanted.size} bytes, and it goes on"
            raise ModelError(f"{wanted.url} is not the file that was published: {sizes}")
        told(done, opened.size)
