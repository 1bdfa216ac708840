"""A stored video's bytes at any place: from its own file, in ranges, or from a download.

Of MP4 and MOV only what is asked for comes over the network. Other containers, and those in
fragments, do not say in one place where their frames lie: they are downloaded, and the last one is
kept for the next shard.
"""

import io
import os
import tempfile
import threading
from bisect import bisect_right
from collections import deque
from collections.abc import Sequence
from functools import lru_cache
from typing import IO, BinaryIO

from storage import CHUNK, Opened, open_from, parse
from storage.disk import translating
from tasks.records import ItemError

HEAD = 1 << 16  # bytes that are asked for where nothing says how many are wanted
PIECE = 4 << 20  # the most that are asked for at once
BOXES = {b"ftyp", b"moov", b"mdat", b"wide", b"free", b"skip", b"pnot"}  # an MP4 begins with one

_FRAGMENTS = b"mvex"  # in an MP4's tables, which come first if more of them lie among the packets

_last_download: dict[tuple[str, str], IO[bytes]] = {}
_one_at_a_time = threading.Lock()  # looks at it


class Source:
    """What FFmpeg reads, here of a file on this machine. Errors of a store pass through it.

    `blind`, it gives zeros: for who needs no more of an MP4 than its tables, which have been read.
    """

    blind = False
    in_fragments = False  # tables lie among the packets

    def __init__(self, file: BinaryIO, version: str, size: int) -> None:
        self._file, self.version, self.size = file, version, size
        self._position, self._last = 0, b""

    def get(self, start: int, end: int) -> bytes:
        """At least the first of these bytes, all of which it has."""
        self._file.seek(start)
        return self._file.read(end - start)

    def read(self, most: int) -> bytes:
        start, end = self._position, min(self._position + most, self.size)
        if self.blind or start >= end:
            data = bytes(max(0, end - start))
        else:
            data = self.get(start, end)
            self.in_fragments |= _FRAGMENTS in self._last + data
            self._last = data[-3:]
        self._position += len(data)
        return data

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        base = {os.SEEK_SET: 0, os.SEEK_CUR: self._position, os.SEEK_END: self.size}
        self._position = base[whence] + offset
        return self._position

    def tell(self) -> int:
        return self._position

    def close(self) -> None:
        self._file.close()


class Ranges(Source):
    """An object in a store, by pieces, of which the last few are kept.

    A piece is twice as large as the one right before it. Where `groups` says at which bytes groups
    of pictures begin, and the last one ends, it goes no further than its group, and what is sought
    comes with all the rest of its group at once.
    """

    groups: Sequence[int] = ()

    def __init__(self, uri: str, version: str, size: int, head: bytes) -> None:
        super().__init__(io.BytesIO(), version, size)
        self._uri, self._pieces = uri, deque([(0, head)], maxlen=4)

    def get(self, start: int, end: int) -> bytes:
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


def bytes_of(uri: str, version: str, max_bytes: int) -> Source:
    """Of any version where it is "". ItemError for another, or for too much to download."""
    with _one_at_a_time:
        if version and (uri, version) in _last_download:
            return _reopened(_last_download[uri, version], version)
    opened = open_from(uri, 0, version, HEAD)
    if version and opened.version != version:
        opened.stream.close()
        raise changed()
    if parse(uri).scheme == "file":
        return Source(opened.stream, opened.version, opened.size or 0)
    if opened.end is not None and opened.end <= HEAD:  # the store gives parts
        with opened.stream as stream:
            head = stream.read(HEAD)
        if opened.version and not version:  # whether it gives those of one remains to be seen
            return bytes_of(uri, opened.version, max_bytes)
        if version and head[4:8] in BOXES and _FRAGMENTS not in head:
            return Ranges(uri, version, opened.size or 0, head)
        opened = open_from(uri, 0, version)
    file = _download(opened, max_bytes)
    with _one_at_a_time:
        while _last_download:
            _last_download.popitem()[1].close()
        _last_download[uri, opened.version] = file
        return _reopened(file, opened.version)


def changed() -> ItemError:
    return ItemError("fetch", "changed", "the video is not the one that was planned any more")


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
            raise ItemError(
                "fetch",
                "too-large",
                f"the video has to be downloaded, and has more than {max_bytes} bytes"
                " (MASKMILL_MAX_VIDEO_BYTES)",
            )
        except BaseException:
            file.close()
            raise


def _reopened(file: IO[bytes], version: str) -> Source:
    """With a position of its own."""
    own = open_from(f"/proc/self/fd/{file.fileno()}", 0, "")
    return Source(own.stream, version, own.size or 0)
