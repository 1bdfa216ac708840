"""Merging an open job: what is new since the last merge becomes one more segment of its dataset.

segments/<run>/00000.json is one JSON line that says which shard objects it takes in, then a line
for each item, sorted by URI, with the id that it has in the dataset for ever. Annotations are
numbered in the order of the segments, so their ids never change either.

What a schedule's run adds is a *turn*: of an object (a video is one) the outcomes of the highest
turn count, and those before are left out with their annotations' ids used up. Each run's turn is in
the names of its parts. A run marks what it no longer finds, or finds again, by items with a problem
of the `MARKS`.
"""

import hashlib
import itertools
import re
import sqlite3
from collections import Counter
from collections.abc import Iterable, Iterator
from itertools import groupby
from typing import Any, cast

import msgspec
from msgspec.structs import replace

from storage import Exists, NotFound, open_read, put, shown, without_frame, without_query
from storage.ordered import side_by_side
from tasks.folder import Folder, JobError, ShardName, decoded
from tasks.records import Annotation, Failure, Image, Item, ProducedBy, Schema, Shard, encode
from tasks.videos import split_fragment

MOST_BYTES = 8 << 20  # of a segment's items; what is over goes into the next
MOST_OBJECTS = 100_000
MARKS = ("vanished", "dropped", "returned")  # their items' URIs are the objects' keys
NAME_TAKEN = "another input of this open job has this file name; append it with a file_name"

_SIGNED = re.compile(r"https?://[^?#]*\?(|[^#]*&)(X-(Amz|Goog)-Signature|Signature|sig)=", re.I)

TABLES = """
CREATE TABLE item (
    key TEXT PRIMARY KEY, id INTEGER, name TEXT, source TEXT, turn INTEGER, segment INTEGER
) WITHOUT ROWID;
CREATE INDEX name ON item (name);
CREATE TABLE turn (source TEXT, turn INTEGER, PRIMARY KEY (source, turn)) WITHOUT ROWID;
CREATE VIEW live AS
    SELECT item.key, item.segment, ifnull(marked.name, 'returned') AS mark
    FROM item LEFT JOIN item AS marked
        ON marked.key = '-' || item.source AND marked.turn > item.turn
    WHERE item.id AND NOT EXISTS
        (SELECT * FROM turn WHERE turn.source = item.source AND turn.turn > item.turn)
    AND (mark = 'returned' OR (mark = 'vanished' AND item.name NOT NULL));
CREATE TABLE object (name TEXT PRIMARY KEY, taken INTEGER, empty_masks INTEGER) WITHOUT ROWID;
CREATE TABLE outcome (
    identity TEXT, key TEXT, source TEXT, turn INTEGER, failed INTEGER, generation INTEGER,
    part TEXT, made BLOB, body BLOB
);
CREATE INDEX place ON outcome (identity, failed, generation DESC, part);
"""
MARK = "SELECT max(mark) FROM live WHERE key = ? AND segment = ?"  # NULL of what is left out


class Header(msgspec.Struct, frozen=True):
    objects: tuple[str, ...]  # the shard objects taken in: a part's name, or <name>.r<generation>
    produced_by: tuple[ProducedBy, ...]
    empty_masks: int
    first: int = 0  # the id of its first annotation; 0: the next after the segment before
    schema: Schema = 1


class Ended(msgspec.Struct, frozen=True, omit_defaults=True):
    """How an item ended. In a segment all ids are the dataset's."""

    key: str  # of the URI, which may carry a signature that is not to be kept; a mark's has a "-"
    part: str
    uri: str  # as it may be shown
    made_by: int = 0  # which of the header's `produced_by`
    image: Image | None = None
    failure: Failure | None = None
    annotations: tuple[Annotation, ...] = ()
    video: str = ""  # of what is of a video, its key


def identity(uri: str) -> str:
    """What makes an input the same one again: a URL that was signed anew is."""
    return without_query(uri) if _SIGNED.match(uri) else uri


def key_of(same: str) -> str:
    """Of an identity, 32 hexadecimal digits."""
    return hashlib.sha256(same.encode()).hexdigest()[:32]


def source_of(item: Item) -> str:
    """The key of the object that an item is of; what a mark marks has a "-" before it."""
    if item.problem and item.problem.kind in MARKS:
        return f"-{item.uri}"
    same = identity(item.uri)
    if item.frame is not None:
        same = without_frame(same)
    elif item.problem:
        same, _ = split_fragment(same)
    return key_of(same)


def turn_of(part: str) -> int:
    """When the schedule's run that appended a part was made, in seconds since the epoch; or 0."""
    return int(part[:8], 16) if len(part) == 40 else 0


class Segments:
    """An open job's segments, with what they hold in a scratch database, so memory stays flat."""

    def __init__(self, folder: Folder, db: sqlite3.Connection) -> None:
        self._folder, self._db = folder, db
        self.count = 0
        self._firsts: list[int] = []  # the id of the first annotation of each segment
        self.end = 0  # the last id of an annotation
        self._read_on()

    def counts(self) -> Counter[str]:
        """How many inputs there are, and the shard objects that are taken in."""
        taken = self._one("SELECT count(*) FROM object WHERE taken")
        return Counter(inputs=self._one("SELECT count(*) FROM live"), shard_objects=taken)

    def grow(self) -> None:
        """Write what is new. Whoever is second at a number reads the first one's and goes on."""
        self._gather()
        while (new := self._next()) is not None:
            body, last = new
            try:
                put(segment_uri(self._folder, self.count), body, create_only=True)
            except Exists:
                last = None  # of what was not written
            self._read_on()
            if last is not None:
                self._db.execute("DELETE FROM outcome WHERE identity <= ?", (last,))

    def is_overtaken(self) -> bool:
        """Whether another merger wrote a segment since."""
        before = self.count
        self._read_on()
        return self.count > before

    def reserve(self, last: int) -> None:
        """Leave out ids of annotations up to this one; `Exists` where another merger was first."""
        nothing = encode(Header((), (), 0, last + 1))
        put(segment_uri(self._folder, self.count), nothing + b"\n", create_only=True)
        self._read_on()

    def shards(self, replaced: bool = False) -> Iterator[Shard]:
        """What the dataset holds, in order, an item at a time, without what was mended or replaced.

        Annotations have their ids. `replaced`: those that are left out come as well, with no image.
        """
        turned = self._one("SELECT count(*) FROM turn")
        for number, first in enumerate(self._firsts):
            uri, ids = segment_uri(self._folder, number), itertools.count(first)
            with open_read(uri) as file:
                header = decoded(next(iter(file)), Header, uri)
                empty = header.empty_masks
                for line in file:
                    each = decoded(line, Ended, uri)
                    found = tuple(replace(it, id=next(ids)) for it in each.annotations)
                    mark = self._one(MARK, each.key, number) if turned or each.failure else ""
                    if mark is None and not replaced:
                        continue
                    shows = each.image if mark is not None else None
                    yield Shard(
                        each.part,
                        header.produced_by[each.made_by],
                        (replace(shows, vanished=mark == MARKS[0]),) if shows else (),
                        found,
                        (each.failure,) if each.failure else (),
                        empty,
                    )
                    empty = 0

    def _read_on(self) -> None:
        """Take in the segments from `count` on."""
        while True:
            uri = segment_uri(self._folder, self.count)
            try:
                with open_read(uri) as file:
                    header = decoded(next(iter(file)), Header, uri)
                    self._many("object", ((name, True, 0) for name in header.objects))
                    self._firsts.append(header.first or self.end + 1)
                    self.end = self._firsts[-1] - 1
                    for line in file:
                        each = decoded(line, Ended, uri)
                        known = _known(each)
                        self._many("item", [(*known, self.count)])
                        self._many("turn", [known[3:]] if known[4] else [])
                        self.end += len(each.annotations)
            except NotFound:
                return
            self.count += 1

    def _gather(self) -> None:
        """Read the shard objects that no segment has, each with its part of the plan."""
        for shard, generation, items in side_by_side(self._read, self._new()):
            ended = [*(each.id for each in shard.images), *(f.image_id for f in shard.failures)]
            if generation == 0 and sorted(ended) != [each.id for each in items]:
                raise JobError(f"shard {shard.shard} does not end each of its inputs once")
            self._many("object", [(_object(shard.shard, generation), False, shard.empty_masks)])
            ends = list(_outcomes(shard, generation, items))
            self._many("outcome", ends)
            self._many("turn", (each[2:4] for each in ends if each[3]))

    def _new(self) -> Iterator[tuple[ShardName, int]]:
        for part, generation in self._folder.shard_objects():
            name = _object(part, generation)
            if not self._one("SELECT count(*) FROM object WHERE name = ?", name):
                yield part, generation

    def _read(self, which: tuple[ShardName, int]) -> tuple[Shard, int, tuple[Item, ...]]:
        return self._folder.read_shard(*which), which[1], self._folder.read_plan(which[0])

    def _next(self) -> tuple[bytes, str | None] | None:
        """The next segment, with the last URI that it goes to if it was full before the end.

        Such a one names no shard object as taken in; the last of a row names all.
        """
        made: dict[bytes, int] = {}
        names: dict[str, str] = {}
        lines: list[bytes] = []
        number, size, last = self._one("SELECT coalesce(max(id), 0) FROM item"), 0, ""
        for at, known, is_same_turn, by, body in self._best():
            if size > MOST_BYTES:
                break
            last = at
            each = self._free_of_clashes(msgspec.json.decode(body, type=Ended), names)
            if is_same_turn and each.failure:
                continue
            own = known or (0 if each.key.startswith("-") else number + 1)
            number = max(number, own)
            each = _numbered(each, own, made.setdefault(by, len(made)))
            lines.append(encode(each) + b"\n")
            size += len(lines[-1])
        full = size > MOST_BYTES
        left = self._db.execute(
            "SELECT name, empty_masks FROM object WHERE NOT taken ORDER BY name LIMIT ?",
            (0 if full else MOST_OBJECTS,),
        ).fetchall()
        if not lines and not left:
            return None
        header = Header(
            tuple(name for name, _ in left),
            tuple(msgspec.json.decode(by, type=ProducedBy) for by in made),
            sum(empty for _, empty in left),
            self.end + 1,
        )
        return encode(header) + b"\n" + b"".join(lines), last if full else None

    def _best(self) -> Iterator[tuple[str, int, bool, bytes, bytes]]:
        """Of each item the end that counts: of its object's last turn a success, else the latest
        failure; with its id, or 0, and whether a segment has an end of the same turn.

        Such an end is final, but a failure can be mended.
        """
        rows = self._db.execute(
            "SELECT identity, coalesce(id, 0), item.turn IS new.turn, made, body"
            " FROM outcome AS new LEFT JOIN item USING (key)"
            " WHERE (id IS NULL OR item.turn < new.turn OR (name IS NULL AND NOT failed))"
            " AND NOT EXISTS"
            " (SELECT * FROM turn WHERE turn.source = new.source AND turn.turn > new.turn)"
            " ORDER BY identity, failed, generation DESC, part"
        )
        for _, same in groupby(rows, key=lambda row: row[0]):
            yield next(same)

    def _free_of_clashes(self, each: Ended, names: dict[str, str]) -> Ended:
        """A dataset has each file name once: the second input with it is a failure."""
        if each.image is None:
            return each
        name = each.image.file_name
        row = self._db.execute("SELECT key FROM item WHERE name = ? AND id", (name,)).fetchone()
        if names.setdefault(name, row[0] if row else each.key) == each.key:
            return each
        failure = Failure(each.image.id, each.uri, name, "write", "name-taken", NAME_TAKEN)
        return replace(each, image=None, annotations=(), failure=failure)

    def _one(self, query: str, *values: object) -> Any:
        return self._db.execute(query, values).fetchone()[0]

    def _many(self, table: str, rows: Iterable[tuple[Any, ...]]) -> None:
        for row in rows:
            marks = ",".join("?" * len(row))
            self._db.execute(f"INSERT OR REPLACE INTO {table} VALUES ({marks})", row)


def segment_uri(folder: Folder, number: int) -> str:
    return folder.file(f"segments/{folder.run}/{number:05d}.json")


def _known(each: Ended) -> tuple[str, int, str | None, str, int]:
    """An item's key, its id, its name where it is an image or a mark, its object and its turn."""
    about = each.video or each.key, turn_of(each.part)
    if each.image:
        return each.key, each.image.id, each.image.file_name, *about
    failure = cast(Failure, each.failure)
    return each.key, failure.image_id, None if failure.image_id else failure.kind, *about


def _object(part: ShardName, generation: int) -> str:
    return f"{part}.r{generation}" if generation else str(part)


def _outcomes(
    shard: Shard, generation: int, items: Iterable[Item]
) -> Iterator[tuple[str, str, str, int, int, int, str, bytes, bytes]]:
    images = {each.id: each for each in shard.images}
    failures = {each.image_id: each for each in shard.failures}
    found: dict[int, list[Annotation]] = {}
    for annotation in shard.annotations:
        found.setdefault(annotation.image_id, []).append(annotation)
    part, made = str(shard.shard), encode(shard.produced_by)
    for item in items:
        if item.id not in images and item.id not in failures:
            continue  # a later generation has only what it tried
        same, source = identity(item.uri), source_of(item)
        if item.frame is not None:  # those of a video are in the dataset in their order
            same = f"{without_frame(same)}#frame={item.frame.index:09}"
        key = source if source.startswith("-") else key_of(same)
        failure = failures.get(item.id)
        if failure and item.problem:  # whatever kept a worker from saying so
            failure = replace(failure, **msgspec.structs.asdict(item.problem))
        each = Ended(
            key,
            part,
            shown(item.uri),
            image=images.get(item.id),
            failure=failure,
            annotations=tuple(found.get(item.id, ())),
            video="" if source == key else source,
        )
        failed = int(each.image is None)
        yield same, key, source, turn_of(part), failed, generation, part, made, encode(each)


def _numbered(each: Ended, number: int, made_by: int) -> Ended:
    """With the id that the item has in the dataset, in place of its number in its part."""
    return replace(
        each,
        made_by=made_by,
        image=replace(each.image, id=number) if each.image else None,
        failure=replace(each.failure, image_id=number) if each.failure else None,
        annotations=tuple(replace(found, image_id=number) for found in each.annotations),
    )
