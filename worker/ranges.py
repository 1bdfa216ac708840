"""A stored video's bytes at any place: from its own file, in ranges, or from a download.

Of MP4 and MOV only what is asked for comes over the network. Other containers do not say in one
place where their frames lie: they are downloaded, and the last one is kept for the next shard.
"""

import os
import tempfile
import threading
from bisect import bisect_right
from collections import deque
from collections.abc import Sequence
from functools import lru_cache
from typing import IO, BinaryIO

from storage import open_from
from storage.disk import translating
from storage.streams import CHUNK, Opened
from storage.uris import parse
from tasks.videos import BadVideo

HEAD = 1 << 16  # bytes that are asked for where nothing says how many are wanted
PIECE = 4 << 20  # the most that are asked for at once
BOXES = {b"ftyp", b"moov", b"mdat", b"wide", b"free", b"skip", b"pnot"}  # an MP4 begins with one

_last_download: dict[tuple[str, str], IO[bytes]] = {}
_one_at_a_time = threading.Lock()  # looks at it


class Whole:
    """A file on this machine."""

    def __init__(self, stream: BinaryIO, version: str) -> None:
        self.version, self.stream = version, stream
        self.size = os.fstat(stream.fileno()).st_size

    def get(self, start: int, end: int) -> bytes:
        self.stream.seek(start)
        return self.stream.read(max(0, end - start))

    def close(self) -> None:
        self.stream.close()


class Ranges:
    """An object in a store, by pieces, of which the last few are kept.

    A piece is twice as large as the one right before it. Where `groups` says at which bytes groups
    of pictures begin, and the last one ends, it goes no further than its group, and what is sought
    comes with all the rest of its group at once.
    """

    groups: Sequence[int] = ()

    def __init__(self, uri: str, version: str, size: int, head: bytes) -> None:
        self.version, self.size, self._uri = version, size, uri
        self._pieces = deque([(0, head)], maxlen=4)

    def get(self, start: int, end: int) -> bytes:
        """At least the first of these bytes, if the object has it."""
        if not start < min(end, self.size):
            return b""
        for at, piece in reversed(self._pieces):
            if at <= start < at + len(piece):
                return piece[start - at : end - at]
        ask = _piece if self.groups else _index_piece
        until = min(self._until(start), start + PIECE, self.size)
        piece = ask(self._uri, self.version, start, until)
        self._pieces.append((start, piece))
        return piece[: end - start]

    def _until(self, start: int) -> int:
        at, last = self._pieces[-1]
        follows = start == at + len(last)
        more = start + (2 * len(last) if follows and start not in self.groups else HEAD)
        place = bisect_right(self.groups, start)
        if not 0 < place < len(self.groups):
            return more
        end = max(self.groups[place], start + HEAD)
        return min(more, end) if follows else end

    def close(self) -> None:
        pass


def bytes_of(uri: str, version: str, max_bytes: int) -> Whole | Ranges:
    """Of any version where it is "". BadVideo for another, or for too much to download."""
    with _one_at_a_time:
        if (uri, version) in _last_download:
            return _reopened(_last_download[uri, version], version)
    opened = open_from(uri, 0, version, HEAD)
    if version and opened.version != version:
        opened.stream.close()
        raise changed()
    if parse(uri).scheme == "file":
        return Whole(opened.stream, opened.version)
    if opened.end is not None and opened.end <= HEAD:  # the store gives parts
        with opened.stream as stream:
            head = stream.read(HEAD)
        if opened.version and not version:  # whether it gives those of one remains to be seen
            return bytes_of(uri, opened.version, max_bytes)
        if version and head[4:8] in BOXES:
            return Ranges(uri, version, opened.size or 0, head)
        opened = open_from(uri, 0, version)
    file = _download(opened, max_bytes)
    with _one_at_a_time:
        for old in _last_download.values():
            old.close()
        _last_download.clear()
        _last_download[uri, opened.version] = file
        return _reopened(file, opened.version)


def changed() -> BadVideo:
    return BadVideo("fetch", "changed", "the video is not the one that was planned any more")


def _piece(uri: str, version: str, start: int, end: int) -> bytes:
    opened = open_from(uri, start, version, end)
    with opened.stream as stream:
        if (opened.version, opened.start) != (version, start):
            raise changed()
        return stream.read(end - start)


_index_piece = lru_cache(maxsize=8)(_piece)


def _download(opened: Opened, max_bytes: int) -> IO[bytes]:
    """Into a file without a name."""
    with opened.stream as stream, translating(tempfile.gettempdir(), writing=True):
        file = tempfile.TemporaryFile()  # noqa: SIM115 - the caller closes it
        try:
            while max(opened.size or 0, file.tell()) <= max_bytes:
                if not file.write(stream.read(CHUNK)):
                    file.flush()
                    return file
            raise BadVideo(
                "fetch",
                "too-large",
                f"the video has to be downloaded, and has more than {max_bytes} bytes"
                " (MASKMILL_MAX_VIDEO_BYTES); of MP4 and MOV only parts are",
            )
        except BaseException:
            file.close()
            raise


def _reopened(file: IO[bytes], version: str) -> Whole:
    """With a position of its own."""
    return Whole(open(f"/proc/self/fd/{file.fileno()}", "rb"), version)
