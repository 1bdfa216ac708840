"""Clips for people: the annotated frames of a job's videos with what was found drawn on them.

They show what instances.json says, also where somebody edited it; where a frame's pixels come from
is in the plan. Both go through a scratch database, so that memory does not grow with them.
"""

import sqlite3
from collections.abc import Iterable, Iterator
from contextlib import closing
from fractions import Fraction
from typing import Any

import av
import ijson
import msgspec
from rich.console import Console
from rich.progress import track

from storage import StorageError, below, open_read, open_write, shown, side_by_side
from storage.disk import translating
from tasks.exits import OK, choose_face, tell
from tasks.folder import Folder, JobError, parts
from tasks.plan import scratch
from tasks.records import Item, ItemError, Job, encode
from worker.drawing import SHOWN, draw
from worker.images import Pixels
from worker.shard import frame_reader

WIDEST, LABELLED = 1280, 640  # pixels across, the latter so that labels have room
CLOCK = Fraction(1, 90_000)  # seconds, as in MPEG
LONE_S = 2.0  # for how long a frame is shown that is the only one of its video
# Without B frames each frame lasts until the next one's time; the last has a length of its own.
_X264 = {"crf": "20", "preset": "veryfast", "bf": "0", "flags": "+frame_duration"}
_X264 |= dict.fromkeys(("colorspace", "color_primaries", "color_trc"), "bt709")

_TABLES = """
CREATE TABLE frame (video INTEGER, time REAL, id INTEGER, name TEXT);
CREATE INDEX video ON frame (video);
CREATE TABLE item (name TEXT PRIMARY KEY, body BLOB) WITHOUT ROWID;
CREATE TABLE found (image INTEGER, body BLOB);
CREATE INDEX image ON found (image);
"""
_OF_VIDEO = "FROM frame JOIN item USING (name) WHERE video = ?"
Shown = tuple[Pixels, float, float]  # a picture, and from when to when in seconds


def clips(folder: Folder, job: Job, as_json: bool) -> int:
    """Write clips/<name>.mp4 of each video, and tell of each."""
    name, console, hidden = "", Console(stderr=True), choose_face(as_json) != "bar"
    with scratch(_TABLES) as db:
        _gather(db, folder, job)
        for video in _records(folder, "videos"):
            (count,) = db.execute(f"SELECT count(*) {_OF_VIDEO}", (video["id"],)).fetchone()
            if not count:
                continue
            name = video["name"]
            uri = below(folder.file("clips"), f"{name}.mp4")
            with open_write(uri) as file, translating(uri, writing=True):
                pictures = _drawn(db, job, video)
                _encode(file.name, track(pictures, name, count, console=console, disable=hidden))
            event = {"event": "clip", "video": name, "frames": count, "uri": uri}
            tell(event, [f"{count} frames in {uri}"], as_json)
    if not name:
        raise JobError(f"{folder.file('instances.json')} has no video, only images")
    return OK


def _gather(db: sqlite3.Connection, folder: Folder, job: Job) -> None:
    """What the dataset says of frames and what is on them, and where their pixels are."""
    for each in _records(folder, "images"):
        if "video_id" in each:
            row = each["video_id"], each["timestamp"], each["id"], each["file_name"]
            db.execute("INSERT INTO frame VALUES (?, ?, ?, ?)", row)
    for each in _records(folder, "annotations"):
        if each.setdefault("score", 1.0) >= SHOWN:
            db.execute("INSERT INTO found VALUES (?, ?)", (each["image_id"], encode(each)))
    for items in side_by_side(lambda part: folder.read_plan(part), parts(folder, job)):
        rows = ((each.file_name, encode(each)) for each in items if each.frame is not None)
        db.executemany("INSERT OR IGNORE INTO item VALUES (?, ?)", rows)


def _records(folder: Folder, table: str) -> Iterator[dict[str, Any]]:
    with open_read(folder.file("instances.json")) as file:
        yield from ijson.items(file, f"{table}.item", use_float=True)


def _drawn(db: sqlite3.Connection, job: Job, video: dict[str, Any]) -> Iterator[Shown]:
    """The video's frames in order, each with what was found on it."""
    settings, shortest = job.asked.settings, 1 / (video["fps"] or 25)
    names = {each.id: each.name for each in settings.categories}
    room = min(WIDEST, max(LABELLED, video["width"])), 2 * WIDEST
    frames = db.execute(
        "SELECT frame.id, body, time, lag(time, 1, time - ?) OVER near, lead(time) OVER near"
        f" {_OF_VIDEO} WINDOW near AS (ORDER BY time) ORDER BY time",
        (LONE_S, video["id"]),
    )
    with closing(frame_reader(settings)) as reader:
        for image, body, time, before, after in frames:
            item = msgspec.json.decode(body, type=Item)
            try:
                pixels = reader.read(item).pixels()
            except (ItemError, StorageError) as exc:
                raise JobError(f"{shown(item.uri)} cannot be drawn on: {exc}") from exc
            found = db.execute("SELECT body FROM found WHERE image = ?", (image,))
            records = [msgspec.json.decode(record) for (record,) in found]
            height, width = pixels.shape[:2]
            if after is None:
                after = time + min(time - before, max(video["duration"] - time, shortest))
            yield draw(pixels, records, names, (height, width), room), time, after


def _encode(path: str, pictures: Iterable[Shown]) -> None:
    """Write H.264 of the kind that every player takes; the first picture is shown at 0."""
    with av.open(path, "w", format="mp4", options={"movflags": "+faststart"}) as file:
        stream = file.add_stream("libx264", rate=30, options=_X264)
        stream.pix_fmt, stream.codec_context.time_base = "yuv420p", CLOCK
        start = None
        for pixels, time, end in pictures:
            if start is None:
                stream.height, stream.width = (side - side % 2 for side in pixels.shape[:2])
                start = time
            frame = av.VideoFrame.from_ndarray(pixels, format="rgb24").reformat(
                stream.width, stream.height, "yuv420p", dst_colorspace="ITU709"
            )
            frame.time_base, frame.duration = CLOCK, round((end - time) / CLOCK)
            frame.pts = round((time - start) / CLOCK)
            file.mux(stream.encode(frame))
        file.mux(stream.encode(None))
