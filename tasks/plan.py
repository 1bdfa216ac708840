"""From a stream of found images to an immutable plan in the job folder.

Everything that needs to see all inputs at once (repeats, clashes of names, ids, samples) is asked
of a scratch SQLite file, so that a million URIs never sit in memory.
"""

import hashlib
import itertools
import sqlite3
import sys
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import closing, contextmanager, suppress
from typing import TypeVar

import msgspec

from storage import Exists, list_entries, put, shown, side_by_side, without_frame
from tasks.folder import Folder, JobError
from tasks.inputs import Found, InputError, coco_images
from tasks.records import Counts, Item, Job, Problem, Selection, VideoFrame, encode, encode_lines

SAID = 100_000  # of so many inputs each one is told, for a long plan is silent else
NAMED = 10  # how many of the files that are no images a summary names
WRITERS = 8
_OfVideo = tuple[VideoFrame | None, Problem | None]
Planned = TypeVar("Planned", Item, Found)

_ROWS = "SELECT id, uri, name, version, of_video FROM item ORDER BY id"
_DRAWN = "SELECT place FROM item ORDER BY draw, name LIMIT ?"
_TABLES = """
CREATE TABLE item (
    place INTEGER PRIMARY KEY, uri TEXT NOT NULL UNIQUE, name TEXT NOT NULL UNIQUE,
    id INTEGER UNIQUE, version TEXT, draw BLOB, of_video BLOB
);
CREATE TABLE known (name TEXT PRIMARY KEY, id INTEGER NOT NULL UNIQUE) WITHOUT ROWID;
"""


@contextmanager
def scratch(tables: str) -> Iterator[sqlite3.Connection]:
    """A database in a file without a name, which is gone with this process at the latest."""
    try:
        with closing(sqlite3.connect("")) as db:
            db.execute("PRAGMA temp_store=FILE")
            db.execute("PRAGMA journal_mode=OFF")
            db.execute("PRAGMA cache_size=-8000")  # kB: 32 MB were no faster for a million inputs
            db.executescript(tables)
            yield db
    except sqlite3.OperationalError as exc:
        raise JobError(f"this needs scratch space in {tempfile.gettempdir()}: {exc}") from exc


def survey(found: Iterable[Found], selection: Selection, shard_size: int) -> Counts:
    """What a plan would come to."""
    with scratch(_TABLES) as db:
        counts = _gather(db, found, selection)
        counts.shards = sum(1 for _ in shards_of(_items(db), shard_size))
    return counts


def write_plan(
    output: str, salt: bytes, found: Iterable[Found], selection: Selection, shard_size: int
) -> tuple[Folder, Counts]:
    """Write the plan parts of a run and say what is in them. job.json is not written here.

    The run's token is a hash of `salt` and the items: planning that was cut off and finds the same
    again goes on where it stopped, and parts of another plan are never taken for its own.
    """
    with scratch(_TABLES) as db:
        counts = _gather(db, found, selection)
        if not counts.items:
            some = f", for one {counts.not_images_named[0]}" if counts.not_images else ""
            raise InputError(f"none of the {counts.not_images} files found is an image{some}")
        token = hashlib.sha256(salt)
        for row in db.execute(_ROWS):
            token.update(repr(row).encode())
        folder = Folder(output, token.hexdigest()[:12])
        counts.shards = _write_parts(folder, shards_of(_items(db), shard_size))
    return folder, counts


def commit_job(folder: Folder, job: Job, *, replace: bool = False) -> bool:
    """Write job.json; False where another planner was first."""
    try:
        put(folder.file("job.json"), encode(job), create_only=not replace)
    except Exists:
        return False
    return True


def _gather(db: sqlite3.Connection, found: Iterable[Found], selection: Selection) -> Counts:
    """All items in the scratch file, chosen and numbered."""
    if selection.images_from:
        _remember_ids(db, selection.images_from)
    counts = Counts()
    for number, each in enumerate(found, 1):
        _collect(db, each, selection, counts)
        if counts.items == selection.limit:
            break
        if number % SAID == 0:
            print(f"planning: {number:,} inputs so far", file=sys.stderr, flush=True)
    if selection.sample is not None:
        # A choice that depends on seed and names alone, not on order or place.
        db.execute(f"DELETE FROM item WHERE place NOT IN ({_DRAWN})", (selection.sample,))
        counts.items = min(counts.items, selection.sample)
    _give_ids(db, selection)
    return counts


def _collect(db: sqlite3.Connection, each: Found, selection: Selection, counts: Counts) -> None:
    if not each.is_image:
        counts.not_images += 1
        if len(counts.not_images_named) < NAMED:
            counts.not_images_named += (shown(each.uri),)
    elif _insert(db, each, counts.items, selection):
        counts.items += 1
        counts.bytes += max(each.size, 0)
        counts.of_unknown_size += each.size < 0
    else:
        counts.duplicates += 1


def _insert(db: sqlite3.Connection, each: Found, place: int, selection: Selection) -> bool:
    """False for a URI that is there already; a name or an id that is there already is refused."""
    draw = None
    if selection.sample is not None:
        draw = hashlib.blake2b(f"{selection.seed} {each.file_name}".encode(), digest_size=16)
    more = encode((each.frame, each.problem)) if each.frame or each.problem else None
    row = (place, each.uri, each.file_name, each.id, each.version, draw and draw.digest(), more)
    try:
        db.execute("INSERT INTO item VALUES (?, ?, ?, ?, ?, ?, ?)", row)
    except sqlite3.IntegrityError:
        if db.execute("SELECT 1 FROM item WHERE uri = ?", (each.uri,)).fetchone():
            return False
        _refuse_clash(db, each)
    return True


def _refuse_clash(db: sqlite3.Connection, each: Found) -> None:
    other = db.execute("SELECT uri FROM item WHERE name = ?", (each.file_name,)).fetchone()
    here = shown(each.uri)
    if other:
        raise InputError(
            f"{here} and {shown(other[0])} would both be {each.file_name!r} in the dataset;"
            " give a folder above both, or a .jsonl list with a file_name for each"
        )
    other = db.execute("SELECT uri FROM item WHERE id = ?", (each.id,)).fetchone()
    raise InputError(f"{here} and {shown(other[0])} both have the image id {each.id}")


def _remember_ids(db: sqlite3.Connection, word: str) -> None:
    for record in coco_images(word):
        try:
            db.execute("INSERT INTO known VALUES (?, ?)", (record.file_name, record.id))
        except sqlite3.IntegrityError:
            raise InputError(
                f"{shown(word)} has the image id {record.id} or the file name"
                f" {record.file_name!r} twice"
            ) from None


def _give_ids(db: sqlite3.Connection, selection: Selection) -> None:
    """Ids of a COCO file stay; the rest are numbered on from the highest, in order."""
    if selection.images_from:
        db.execute("UPDATE item SET id = NULL")
        db.execute("UPDATE item SET id = (SELECT id FROM known WHERE known.name = item.name)")
        unknown = db.execute("SELECT uri FROM item WHERE id IS NULL ORDER BY place").fetchone()
        if unknown and not selection.extra_images:
            raise InputError(
                f"{shown(unknown[0])} is not in {shown(selection.images_from)};"
                " --extra-images numbers such images after its highest id"
            )
    both = "SELECT id FROM item UNION ALL SELECT id FROM known"
    (highest,) = db.execute(f"SELECT coalesce(max(id), 0) FROM ({both})").fetchone()
    db.execute(
        "UPDATE item SET id = ? + fresh.number FROM"
        " (SELECT place, row_number() OVER (ORDER BY place) AS number FROM item WHERE id IS NULL)"
        " AS fresh WHERE item.place = fresh.place",
        (highest,),
    )


def _items(db: sqlite3.Connection) -> Iterator[Item]:
    for number, uri, name, version, of_video in db.execute(_ROWS):
        more = msgspec.json.decode(of_video, type=_OfVideo) if of_video else (None, None)
        yield Item(number, uri, name, version, *more)


def shards_of(each: Iterable[Planned], size: int) -> Iterator[list[Planned]]:
    """At most `size` items at a time, with frames of one group of pictures together where they fit.

    So what one shard has to decode is decoded for no other.
    """
    shard: list[Planned] = []
    for _, group in itertools.groupby(each, key=_group):
        while some := list(itertools.islice(group, size)):
            if len(shard) + len(some) > size:
                yield shard
                shard = []
            shard += some
    if shard:
        yield shard


def _group(each: Item | Found) -> object:
    return (without_frame(each.uri), each.frame.group) if each.frame else each.uri


def _write_parts(folder: Folder, shards: Iterable[list[Item]]) -> int:
    """Each part is one shard's items; the uploads run side by side, save those that are there.

    How many parts there are.
    """
    there = {entry.uri for entry in list_entries(f"{folder.plan(0).rpartition('/')[0]}/")}

    def write(part: tuple[int, list[Item]]) -> None:
        number, chosen = part
        if folder.plan(number) not in there:
            with suppress(Exists):  # another planner of the same is at work
                put(folder.plan(number), encode_lines(chosen), create_only=True)

    return sum(1 for _ in side_by_side(write, enumerate(shards), WRITERS))
