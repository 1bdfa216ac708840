"""A limit for the memory of the whole worker: what the loaded model leaves of it is for images.

It changes what is in flight at once, never an answer: an image that is too large for it goes alone.
"""

import resource
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tasks.cards import ModelError
from worker.images import Header, reduction

PIXEL = 14  # bytes of a pixel while its image is decoded and turned
WEBP_PIXEL = 22  # of a WebP; both measured with Pillow 13
PICTURE = 1920 * 1080 * PIXEL  # what there has to be room for
MIB = 1 << 20


class Flight:
    """What may be decoded side by side."""

    def __init__(self) -> None:
        self._room = 0  # bytes; 0 is no limit
        self._taken = 0
        self._changed = threading.Condition()

    def limit(self, memory: int, name: str) -> None:
        """Keep to `memory` bytes, of which the process with its models has its part already."""
        self._room = memory - resident() if memory else 0
        if memory and self._room < PICTURE:
            raise ModelError(
                f"a memory of {memory // MIB} MiB is too little for {name}: loaded it takes"
                f" {resident() // MIB} MiB, and an image up to {PICTURE // MIB} MiB more"
            )

    def threads(self, wanted: int) -> int:
        return min(wanted, max(1, self._room // (4 * PICTURE))) if self._room else wanted

    @contextmanager
    def decoding(self, file: int, header: Header, least: tuple[int, int] | None) -> Iterator[None]:
        """For one image of a file of so many bytes."""
        pixel = WEBP_PIXEL if header.format == "WebP" else PIXEL
        need = file + header.width * header.height * pixel // reduction(header, least) ** 2
        with self._changed:
            self._changed.wait_for(
                lambda: not (self._room and self._taken) or self._taken + need <= self._room
            )
            self._taken += need
        try:
            yield
        finally:
            with self._changed:
                self._taken -= need
                self._changed.notify_all()


flight = Flight()


def resident() -> int:
    pages = int(Path("/proc/self/statm").read_text("ascii").split()[1])
    return pages * resource.getpagesize()


def peak() -> int:
    """The most memory that this process ever had, in bytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
