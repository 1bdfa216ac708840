"""Each input's own answer, written as soon as its shard is done, for a producer who waits for it.

per-image/<file_name>.json holds {"uri", "image", "annotations"} as COCO has them, or {"uri",
"failure"}. An input whose name is no path, or is another's in an open job, has
per-image/sha256-<hash of its URI without query>.json. The image's id is that of the plan; in an
open job ids are given when it is merged, and here it is the input's number in its message.

frames/<file_name> are the pixels of the frames of videos, so that this is where the dataset's are.
"""

import hashlib
import io
from collections.abc import Iterable
from contextlib import suppress
from typing import Any

from PIL import Image

from storage import BadUri, Exists, below, get, put, shown, side_by_side
from tasks.folder import Folder
from tasks.merge import dataset_record
from tasks.records import Item, ItemError, Job, Shard, encode
from worker.images import Pixels

EVENT = "maskmill-image"
LONGEST = 250  # bytes of a part of a name; file systems take 255


def per_image_uri(folder: Folder, file_name: str, uri: str) -> str:
    """Below the folder whatever the name: for one that could lead elsewhere the URI's hash."""
    with suppress(BadUri):
        if all(len(part.encode()) <= LONGEST for part in file_name.split("/")):
            return below(folder.file("per-image"), file_name + ".json")
    return _by_hash(folder, uri)


def _by_hash(folder: Folder, uri: str) -> str:
    return folder.file(f"per-image/sha256-{hashlib.sha256(uri.encode()).hexdigest()}.json")


def _put(folder: Folder, key: str, uri: str, data: bytes, is_open: bool) -> str:
    """Where the answer came to lie. In an open job two inputs may have one name: the first has it.

    A later answer to the same input replaces the one before.
    """
    try:
        put(key, data, create_only=is_open)
    except Exists:
        if not get(key).startswith(encode({"uri": uri})[:-1]):
            key = _by_hash(folder, uri)
        put(key, data)
    return key


def write_per_image(
    folder: Folder, job: Job, record: Shard, items: Iterable[Item]
) -> list[dict[str, str]]:
    """Write one object for each input; the fields of the events that tell of them."""
    polygons = job.asked.settings.mask_format == "polygon"
    ends: dict[int, dict[str, Any]] = {}
    for image in record.images:
        ends[image.id] = {"image": image, "annotations": []}
    for each in record.annotations:
        found = ends[each.image_id]["annotations"]
        found.append(dataset_record(each, len(found) + 1, polygons))
    for failure in record.failures:
        ends[failure.image_id] = {"failure": failure}

    def write(item: Item) -> dict[str, str]:
        uri, data = shown(item.uri), encode({"uri": shown(item.uri), **ends[item.id]})
        key = _put(folder, per_image_uri(folder, item.file_name, uri), uri, data, job.open)
        return {"job": folder.uri, "uri": uri, "key": key}

    return list(side_by_side(write, items))


def save_frame(folder: Folder, job: Job, item: Item, pixels: Pixels) -> None:
    """Keep (H, W, 3) RGB as JPEG with all of its colour (4:4:4): the same again changes nothing.

    In an open job the first of a name has it.
    """
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "JPEG", quality=95, subsampling=0)
    try:
        uri = below(folder.file("frames"), item.file_name)
        with suppress(Exists):
            put(uri, file.getvalue(), create_only=job.open)
    except BadUri as exc:
        message = "its name cannot be a path below a folder, so --save-frames cannot keep it"
        raise ItemError("write", exc.kind, message) from exc
