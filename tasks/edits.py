"""What people changed in a job's dataset: kept for ever, and laid over all that is merged later.

edits/<run>/00000.json is written once: a JSON line for each record that somebody changed, added or
deleted (its body is null). Of several lines for one record the last counts. Of an open job these
are annotations; what `--only-unannotated` leaves as it is are records of all three sections.

An annotation is known by its content, without its id: what once stood in the dataset is no edit,
whatever id a tool gave it, and in a copy of whatever day.
"""

import hashlib
import itertools
import shutil
import sqlite3
import tempfile
from collections.abc import Iterator, Sequence
from typing import Any

import ijson
import msgspec

from storage import NotFound, open_read, put, shown
from tasks.categories import Category
from tasks.folder import Folder, decoded
from tasks.inputs import Found, InputError
from tasks.records import encode, encode_lines

LINES = 5_000  # of one object
# `made` has all annotations that ever stood in the dataset; live is 0 of the model's that were
# replaced, and NULL of people's. `known` is what of it their file has, `new` all else that it has.
TABLES = """
CREATE TABLE edit (section, id, image, content, body, PRIMARY KEY (section, id)
    ON CONFLICT REPLACE);
CREATE TABLE theirs (section, id INTEGER, image INTEGER, content, body, PRIMARY KEY (section, id),
    CHECK (typeof(id) = 'integer' AND id >= 0 AND typeof(image) IN ('integer', 'null')));
CREATE INDEX annotated ON theirs (image);
CREATE TABLE made (section, id, image, content, live);
CREATE VIEW known AS SELECT * FROM made WHERE content IN (SELECT content FROM theirs);
CREATE VIEW missing AS SELECT id, image, live FROM
    (SELECT id, image, live FROM made WHERE live AND id NOT IN (SELECT id FROM edit)
    UNION ALL SELECT id, image, 0 FROM edit WHERE body != 'null')
    WHERE id NOT IN (SELECT id FROM known);
CREATE VIEW new AS SELECT *, (id, image) IN (SELECT id, image FROM missing) AS changed FROM theirs
    WHERE section = 'annotations' AND content NOT IN (SELECT content FROM made);
"""
# A copy from before an image was made anew, or somebody edited it, deletes nothing of that.
_CHANGES = """SELECT id, 'null', TRUE FROM missing
WHERE id NOT IN (SELECT id FROM new WHERE changed)
AND image IN (SELECT id FROM theirs WHERE section = 'images')
AND (id < (SELECT max(id) FROM known)
    OR (live AND image NOT IN (SELECT image FROM known WHERE live = 0)))
UNION ALL SELECT id, body, changed FROM new"""
STRANGER = """SELECT id, json_extract(body, '$.file_name') AS name FROM theirs
WHERE section = 'images' AND (id, name) NOT IN (SELECT id, name FROM item WHERE name NOT NULL)"""
CATEGORIES = """SELECT DISTINCT json_extract(body, '$.category_id') FROM theirs
WHERE section = 'annotations'"""
# Annotations on an image that is left out wait until it is back.
_REST = """SELECT body FROM edit WHERE section = ? AND body != 'null' AND ifnull(image, -1) NOT IN
(SELECT id FROM item WHERE name IS NULL OR key NOT IN (SELECT key FROM live)) ORDER BY id"""
_LACKING = """FROM theirs WHERE section = 'images'
AND NOT EXISTS (SELECT 1 FROM theirs AS other WHERE other.image = theirs.id)"""
_NEEDED = {"images": "file_name", "annotations": "image_id category_id", "categories": "name"}
_DERIVED = {"id", "area", "score", "polygon_iou"}  # what in one is not for people to change
_NO_ID = (sqlite3.IntegrityError, sqlite3.InterfaceError, sqlite3.ProgrammingError, OverflowError)


class Edit(msgspec.Struct, frozen=True):
    section: str
    id: int
    body: dict[str, Any] | None


class Edits:
    """All that is kept of them, in a scratch database, so memory stays flat."""

    def __init__(self, folder: Folder, db: sqlite3.Connection) -> None:
        self._folder, self.db, self.count = folder, db, 0
        self.highest = 0  # the highest id of an annotation
        self.read_on()

    def read_on(self) -> bool:
        """Take in what was written since; whether there was any."""
        before = self.count
        while True:
            uri = edits_uri(self._folder, self.count)
            try:
                with open_read(uri) as file:
                    for each in (decoded(line, Edit, uri) for line in file):
                        insert(self.db, "edit", each, encode(each.body).decode())
                        insert(self.db, "made", each, None)
                        if each.section == "annotations":
                            self.highest = max(self.highest, each.id)
            except NotFound:
                return self.count > before
            self.count += 1

    def has(self, number: int) -> bool:
        """Whether somebody changed or deleted this annotation."""
        query = "SELECT 1 FROM edit WHERE section = 'annotations' AND id = ?"
        return number <= self.highest and self.db.execute(query, (number,)).fetchone() is not None

    def rest(self, section: str) -> Iterator[dict[str, Any]]:
        """What stands in the dataset beside what the job makes."""
        for (body,) in self.db.execute(_REST, (section,)):
            yield msgspec.json.decode(body)

    def added(self) -> int:
        """How many annotations their file has besides those that were changed."""
        return int(self.db.execute("SELECT count(*) FROM new WHERE NOT changed").fetchone()[0])

    def changes(self, end: int) -> Iterator[Edit]:
        """Where their file differs. What was added gets the ids above `end`."""
        for number, body, keeps in self.db.execute(_CHANGES):
            record = msgspec.json.decode(body)
            if not keeps:
                number = record["id"] = end = end + 1
            yield Edit("annotations", number, record)


def edits_uri(folder: Folder, number: int) -> str:
    return folder.file(f"edits/{folder.run}/{number:05}.json")


def keep(folder: Folder, start: int, edits: Iterator[Edit]) -> None:
    """Write them from this object on; `Exists` where another merger was first."""
    while part := list(itertools.islice(edits, LINES)):
        put(edits_uri(folder, start), encode_lines(part), create_only=True)
        start += 1


def insert(db: sqlite3.Connection, table: str, each: Edit, more: object) -> None:
    """`more`: the body as JSON, or of what was made whether it is live."""
    body = each.body or {}
    said = encode(_said({name: body[name] for name in body.keys() - _DERIVED}))
    row = (each.section, each.id, body.get("image_id"), hashlib.sha256(said).digest(), more)
    db.execute(f"INSERT INTO {table} VALUES (?, ?, ?, ?, ?)", row)


def _said(value: Any) -> Any:
    """A value as it is compared: numbers by what they are, and no field that is empty."""
    if isinstance(value, dict):
        return {name: each for name in sorted(value) if (each := _said(value[name]))}
    if isinstance(value, list | tuple):
        return [_said(each) for each in value]
    return int(value) if isinstance(value, float) and value.is_integer() else value


def read(db: sqlite3.Connection, uri: str) -> None:
    """Take a COCO dataset apart, to `theirs`; `ValueError` says why it is none."""
    with open_read(uri) as file, tempfile.TemporaryFile() as copy:
        shutil.copyfileobj(file, copy, 1 << 20)
        try:
            for section, needed in _NEEDED.items():
                copy.seek(0)
                for each in ijson.items(copy, f"{section}.item", use_float=True):
                    if not isinstance(each, dict) or not {"id", *needed.split()} <= each.keys():
                        raise ValueError(f"one of its {section} lacks one of id {needed}")
                    insert(db, "theirs", Edit(section, each["id"], each), encode(each).decode())
            if db.execute("SELECT 1 FROM theirs WHERE section = 'images'").fetchone() is None:
                raise ValueError("it lists no images")
        except ijson.JSONError as exc:
            raise ValueError(str(exc).partition("\n")[0]) from exc
        except _NO_ID as exc:
            raise ValueError(f"an id of its {section} is there twice, or no whole number") from exc


def lacking(
    db: sqlite3.Connection, word: str, found: Iterator[Found], ours: Sequence[Category]
) -> Iterator[Found]:
    """Of a COCO file's images those without annotations; what is not taken, `rest_of` has."""
    try:
        read(db, word)
    except ValueError as exc:
        raise InputError(f"{shown(word)} is no COCO dataset: {exc}") from exc
    if db.execute(f"SELECT 1 {_LACKING}").fetchone() is None:
        raise InputError(f"no image of {shown(word)} is without annotations")
    query = "SELECT id, json_extract(body, '$.name') FROM theirs WHERE section = 'categories'"
    for (number, name), each in itertools.product(db.execute(query), ours):
        if (each.id == number) != (each.name == name):
            has = f"{shown(word)} has {name!r} as category {number}, the model {each.name!r} as"
            raise InputError(f"{has} {each.id}; --category-map gives its classes the file's ids")
    take = f"DELETE {_LACKING} AND id = ?"
    return (each for each in found if db.execute(take, (each.id,)).rowcount)


def rest_of(db: sqlite3.Connection) -> Iterator[Edit]:
    for section, number, body in db.execute("SELECT section, id, body FROM theirs ORDER BY 1, 2"):
        yield Edit(section, number, msgspec.json.decode(body))
