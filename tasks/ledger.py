"""What a schedule has annotated, so that its next run takes only what is new or has changed.

ledgers/<key>/<number>.rows in the state folder: all that was known when the run of that number was
settled. A row is 25 bytes: an object's key, as segments know it, a hash of the version that is
annotated, zeros where one is still to be, and 1 where it was listed no longer.
"""

from collections.abc import Iterable, Iterator
from contextlib import suppress
from struct import iter_unpack

from storage import Exists, delete, get, join, list_entries, put, side_by_side
from tasks.folder import Folder
from tasks.inputs import Found
from tasks.records import Problem, encode
from tasks.segments import MARKS, identity, key_of, source_of

KEY, KNOWN = 16, 9  # bytes
_NEVER = bytes(KNOWN)
_TAKEN, _SAME, _BACK = b"taken", b"same", b"back"  # in place of what was known, once it is listed


def ledger_uri(state: str, *about: object) -> str:
    """about: what "annotated before" means: by which schedule, models, settings, into what."""
    return join(state, f"ledgers/{key_of(encode(about).decode())}/")


def compared(found: Iterable[Found], ledger: str, absent: str = "") -> Iterator[Found]:
    """What is new or has changed, each object once; what has no version never changes.

    absent: how to mark what is listed no longer; with it what is back as it was is marked as well.
    """
    known = _read([each.uri for each in list_entries(ledger)])
    for each in found:
        key = bytes.fromhex(key_of(identity(each.uri)))
        was = known.get(key, _NEVER)
        if not each.is_image or (was is _TAKEN and each.part):
            yield each  # to be counted; or another part of a video
        elif len(was) == KNOWN:
            same = any(was[:-1]) and (not each.version or was.startswith(_version(each.version)))
            known[key] = (_BACK if was[-1] else _SAME) if same else _TAKEN
            if not same:
                yield each
    for key, was in known.items():
        is_gone = len(was) == KNOWN and not was[-1]
        if absent and (is_gone or was is _BACK):
            problem = Problem("fetch", absent if is_gone else "returned", "found by comparison")
            yield Found(key.hex(), key.hex(), problem=problem)


def settle(ledger: str, number: int, folder: Folder, turn: str = "") -> tuple[int, int]:
    """Enter what run `number` did, all of whose parts are done: those named `turn`…; how many of
    its inputs became images, and how many failed.

    What failed before its pixels were looked at is to be tried again, with all of its video.
    """
    ours, done = join(ledger, f"{number:08}.rows"), folder.written()
    before = [each.uri for each in list_entries(ledger) if each.uri < ours]
    known, new, failed = _read(before), dict[bytes, bytes](), set[bytes]()
    images = failures = 0

    parts = [each for each in done if str(each).startswith(turn)]
    for items, shard in side_by_side(
        lambda part: (folder.read_plan(part), folder.whole_shard(part, done[part])), parts
    ):
        marks = sum(item.problem is not None and item.problem.kind in MARKS for item in items)
        images, failures = images + len(shard.images), failures + len(shard.failures) - marks
        again = {each.image_id for each in shard.failures if each.stage in ("fetch", "worker")}
        for item in items:
            key = bytes.fromhex(source_of(item).lstrip("-"))
            if item.problem and item.problem.kind in MARKS:
                known[key] = known.get(key, _NEVER)[:-1] + bytes([item.problem.kind != "returned"])
            else:
                version = _version(item.version) + b"\0"
                # Of what changed while a run was begun twice, the dataset may have either.
                if new.setdefault(key, version) != version or item.id in again:
                    failed.add(key)
    known |= new
    rows = bytearray()  # to join all at once would take 160 bytes more for each
    for key, was in known.items():
        rows += key + (_NEVER if key in failed else was)
    with suppress(Exists):  # somebody else settled it
        put(ours, bytes(rows), create_only=True)
    for old in before[:-1]:
        delete(old)
    return images, failures


def _read(ledgers: list[str]) -> dict[bytes, bytes]:
    """What the last one knows of each object."""
    return dict(iter_unpack(f"{KEY}s{KNOWN}s", get(ledgers[-1]) if ledgers else b""))


def _version(version: str | None) -> bytes:
    return bytes.fromhex(key_of(version or ""))[: KNOWN - 1]
