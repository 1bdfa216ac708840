"""What people changed in a job's dataset: kept for ever, and laid over all that is merged later.

edits/<run>/00000.json is written once: a JSON line for each record that somebody changed, added or
deleted (its body is null). Of several lines for one record the last counts. Of an image that the
job made it holds only what was added. A line of the section `taken` names the file, by its hash,
that the lines before it were found in.
"""

import re
import shutil
import sqlite3
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from typing import Any, BinaryIO

import ijson
import msgspec

from storage import NotFound, open_read, put, shown
from tasks.categories import Category
from tasks.folder import Folder, decoded
from tasks.inputs import Found, InputError
from tasks.records import Image, encode, encode_lines

LINES = 5_000  # of one object
VERSION = b',"version":"merge %d.%d"'  # of how many segments and objects of edits a dataset is
TABLES = "CREATE TABLE shown (id INTEGER PRIMARY KEY);" + "".join(
    f"CREATE TABLE {name} (section TEXT, id INTEGER CHECK (typeof(id) = 'integer' AND id >= 0),"
    " content TEXT, body TEXT, PRIMARY KEY (section, id));"
    for name in ("edit", "ours", "theirs")
)
# With whether its id is free for it: it had it before, or no other was given it.
_CHANGES = """
SELECT section, id, 'null' AS body, TRUE AS free FROM ours LEFT JOIN theirs USING (section, id)
WHERE theirs.id IS NULL AND section != 'categories' UNION ALL
SELECT section, id, iif(section = 'images', theirs.content, theirs.body), ours.id NOT NULL
    OR section != 'annotations' OR edit.body IS 'null' OR (edit.id IS NULL AND id > :end)
FROM theirs LEFT JOIN ours USING (section, id) LEFT JOIN edit USING (section, id)
WHERE theirs.content IS NOT ours.content AND theirs.content IS NOT edit.content
"""
_STRANGER = """SELECT id, json_extract(body, '$.file_name') AS name FROM theirs
WHERE section = 'images' AND (id, name) NOT IN (SELECT id, name FROM item WHERE name NOT NULL)"""
_ANNOTATED = """INSERT OR IGNORE INTO shown
SELECT json_extract(body, '$.image_id') FROM theirs WHERE section = 'annotations'"""
_LACKING = "SELECT id FROM theirs WHERE section = 'images' AND id NOT IN (SELECT id FROM shown)"
_REST = """SELECT section, id, body FROM theirs
WHERE section != 'images' OR id IN (SELECT id FROM shown) ORDER BY section, id"""
_NEEDED = {"images": "file_name", "annotations": "image_id category_id", "categories": "name"}
# What in a record is not for people to change.
_MADE = {"area", "score", "polygon_iou", *Image.__struct_fields__}
_NO_ID = (OverflowError, sqlite3.InterfaceError, sqlite3.ProgrammingError)  # of 3.10, and later
Body = dict[str, Any]


class Edit(msgspec.Struct, frozen=True):
    section: str
    id: int
    body: Body | None


class Edits:
    """All that is kept of them, in a scratch database, so memory stays flat."""

    def __init__(self, folder: Folder, db: sqlite3.Connection, until: int | None = None) -> None:
        self._place, self.db, self.count = folder.file(f"edits/{folder.run}/"), db, 0
        self.read_on(until)

    def read_on(self, until: int | None = None) -> bool:
        """Take in what was written since; whether there was any."""
        before = self.count
        while self.count != until:
            uri = f"{self._place}{self.count:05}.json"
            try:
                with open_read(uri) as file:
                    for each in (decoded(line, Edit, uri) for line in file):
                        insert(self.db, "OR REPLACE INTO edit", each)
            except NotFound:
                break
            self.count += 1
        return self.count > before

    def write(self, edits: Iterable[Edit]) -> None:
        """Keep these as well; `Exists` where another merger was first."""
        left = iter(edits)
        while part := list(islice(left, LINES)):
            put(f"{self._place}{self.count:05}.json", encode_lines(part), create_only=True)
            self.read_on(self.count + 1)

    def highest(self) -> int:
        """The highest id of an annotation."""
        query = "SELECT coalesce(max(id), 0) FROM edit WHERE section = 'annotations'"
        return int(self.db.execute(query).fetchone()[0])

    def over(self, section: str, ours: Body) -> Body | None:
        """A record of ours as it is to stand in the dataset; None if it is not to, or follows."""
        if not self.count:
            return ours
        query = "SELECT body FROM edit WHERE section = ? AND id = ?"
        row = self.db.execute(query, (section, ours["id"])).fetchone()
        if section == "annotations":
            return ours if row is None and self._shows(ours["image_id"]) else None
        more = msgspec.json.decode(row[0]) if row else {}
        return None if more is None else self._show(ours | more)

    def rest(self, section: str) -> Iterator[Body]:
        """What people made, of images those that the job has not."""
        query = "SELECT body FROM edit WHERE section = ? AND body != 'null' ORDER BY id"
        for record in (msgspec.json.decode(body) for (body,) in self.db.execute(query, (section,))):
            if section == "images":
                if "file_name" in record:
                    yield self._show(record)
            elif section != "annotations" or self._shows(record["image_id"]):
                yield record

    def _show(self, image: Body) -> Body:
        self.db.execute("INSERT INTO shown VALUES (?)", (image["id"],))
        return image

    def _shows(self, image: int) -> bool:
        return bool(self.db.execute("SELECT 1 FROM shown WHERE id = ?", (image,)).fetchone())

    def made_from(self, file: BinaryIO) -> tuple[int, int]:
        """Take an edited dataset apart: of how many segments and objects of edits that one was
        which it was made from. `ValueError` says why it cannot be."""
        version = re.fullmatch(r"merge (\d+)\.(\d+)", read(self.db, "theirs", file))
        if version is None:
            raise ValueError("its info.version no longer says which dataset it was made from")
        if stranger := self.db.execute(_STRANGER).fetchone():
            image = "its image {}, {!r}, is none of the job's".format(*stranger)
            raise ValueError(f"{image}, where ids and file names stay and inputs are appended")
        return int(version[1]), int(version[2])

    def room(self, end: int) -> tuple[int, int]:
        """The first and the last of the ids, above all others, for what cannot keep its own."""
        query = f"SELECT max(id), sum(NOT free) FROM ({_CHANGES}) WHERE section = 'annotations'"
        highest, moved = self.db.execute(query, {"end": end}).fetchone()
        return max(highest or 0, end) + 1, max(highest or 0, end) + (moved or 0)

    def changes(self, end: int, fresh: int, digest: str) -> Iterator[Edit]:
        """Where `theirs` differs from `ours`; `end` is the last id that was given to any."""
        for section, number, body, free in self.db.execute(_CHANGES, {"end": end}):
            record = msgspec.json.decode(body)
            if not free:
                number, record["id"], fresh = fresh, fresh, fresh + 1
            yield Edit(section, number, record)
        yield Edit("taken", self.count, {"sha256": digest})


def read(db: sqlite3.Connection, table: str, file: BinaryIO) -> str:
    """Take a COCO dataset apart, to `ours` or `theirs`; gives the version that it says it has.

    `ValueError` says why it is none.
    """
    try:
        for section, needed in _NEEDED.items():
            file.seek(0)
            for record in ijson.items(file, f"{section}.item", use_float=True):
                if not isinstance(record, dict) or not {"id", *needed.split()} <= record.keys():
                    raise ValueError(f"one of its {section} lacks one of id {needed}")
                insert(db, f"INTO {table}", Edit(section, record["id"], record))
        file.seek(0)
        return str(next(ijson.items(file, "info.version"), ""))
    except ijson.JSONError as exc:
        raise ValueError(str(exc).partition("\n")[0]) from exc
    except (sqlite3.IntegrityError, *_NO_ID) as exc:
        raise ValueError(f"an id of its {section} is there twice, or no whole number") from exc


def insert(db: sqlite3.Connection, into: str, each: Edit) -> None:
    body = each.body
    theirs = body and {name: body[name] for name in body.keys() - _MADE}
    row = each.section, each.id, encode(_said(theirs)).decode(), encode(body).decode()
    db.execute(f"INSERT {into} VALUES (?, ?, ?, ?)", row)


def _said(value: Any) -> Any:
    """A value as it is compared: numbers by what they are, and no field that is empty."""
    if isinstance(value, dict):
        return {name: each for name in sorted(value) if (each := _said(value[name]))}
    if isinstance(value, list):
        return [_said(each) for each in value]
    return int(value) if isinstance(value, float) and value.is_integer() else value


def lacking(
    db: sqlite3.Connection, word: str, found: Iterator[Found], ours: Sequence[Category]
) -> Iterator[Found]:
    """Of a COCO file's images those without annotations; `rest_of` is all else of it."""
    with open_read(word) as file, tempfile.TemporaryFile() as copy:
        shutil.copyfileobj(file, copy, 1 << 20)
        try:
            read(db, "theirs", copy)
        except ValueError as exc:
            raise InputError(f"{shown(word)} is no COCO dataset: {exc}") from exc
    db.execute(_ANNOTATED)
    if db.execute(_LACKING).fetchone() is None:
        raise InputError(f"no image of {shown(word)} is without annotations")
    query = "SELECT id, json_extract(body, '$.name') FROM theirs WHERE section = 'categories'"
    for number, name in db.execute(query):
        for each in ours:
            if (each.id == number) != (each.name == name):
                raise InputError(
                    f"{shown(word)} has {name!r} as category {number}, the model {each.name!r} as"
                    f" {each.id}; --category-map gives the model's classes the ids of the file"
                )
    is_shown = "SELECT 1 FROM shown WHERE id = ?"
    return (each for each in found if not db.execute(is_shown, (each.id,)).fetchone())


def rest_of(db: sqlite3.Connection) -> Iterator[Edit]:
    for section, number, body in db.execute(_REST):
        yield Edit(section, number, msgspec.json.decode(body))
