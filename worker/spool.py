"""What a store that went away kept from being written, on this machine's disk until it is back.

A file a shard under MASKMILL_SPOOL, with the images that were done. It gets its name when all of it
is on the disk; what a power cut left of others is dropped.
"""

import logging
import os
import time
from collections.abc import Iterator
from contextlib import suppress
from hashlib import sha256
from pathlib import Path

import msgspec

from storage import StorageError, put
from tasks.folder import Due
from tasks.records import ProducedBy, Shard, encode

LEFT_S = 60.0  # a file without its name is this old: whoever wrote it is gone

log = logging.getLogger("maskmill.worker")


class Kept(msgspec.Struct, frozen=True):
    due: Due
    whole: bool  # every input of the shard has ended
    record: Shard


def keep(due: Due, record: Shard, items: int, most: int) -> None:
    """Keep what is done of a shard of so many items, unless the spool is off or full."""
    place = _place(due)
    if place is None:
        return
    # With the network away, an input that could not be reached is none that cannot be.
    failures = tuple(each for each in record.failures if each.kind != "unreachable")
    record = msgspec.structs.replace(record, failures=failures)
    done = len(record.images) + len(failures)
    data = encode(Kept(due, done == items, record))
    used = sum(each.stat().st_size for each in place.parent.glob("*.json") if each != place)
    if used + len(data) > most:
        log.warning("the spool %s is full: shard %s is not kept", place.parent, record.shard)
        return
    try:
        put(str(place), data)
        log.info("%d of %d inputs of shard %s are kept in %s", done, items, record.shard, place)
    except StorageError as exc:
        log.warning("shard %s is not kept: %s", record.shard, exc)


def kept_of(due: Due, by: ProducedBy) -> Shard:
    """What was kept of a shard by a worker of this kind; else a record of nothing yet."""
    kept = (each.record for each in all_kept() if each.due == due)
    nothing = Shard(due.shard, by, (), (), ())
    return next((each for each in kept if each.produced_by == by), nothing)


def all_kept() -> Iterator[Kept]:
    spool = os.environ.get("MASKMILL_SPOOL", "")
    for place in Path(spool).iterdir() if spool and os.path.isdir(spool) else ():
        with suppress(FileNotFoundError):  # another worker of this spool was faster
            if place.suffix == ".json":
                with suppress(msgspec.DecodeError):
                    yield msgspec.json.decode(place.read_bytes(), type=Kept)
                    continue
            if time.time() - place.stat().st_mtime > LEFT_S:
                place.unlink()


def forget(due: Due) -> None:
    place = _place(due)
    if place:
        place.unlink(missing_ok=True)


def _place(due: Due) -> Path | None:
    spool = os.environ.get("MASKMILL_SPOOL", "")
    name = sha256(due.uri.encode()).hexdigest()[:32]
    return Path(spool).absolute() / f"{name}.json" if spool else None
