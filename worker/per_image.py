"""Each input's own answer, written as soon as its shard is done, for a producer who waits for it.

per-image/<file_name>.json holds {"uri", "image", "annotations"} as COCO has them, or {"uri",
"failure"}. The image's id is that of the plan; in an open job ids are given when it is merged, and
here it is the input's number in its message.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from storage import put
from storage.errors import BadUri
from storage.uris import below, shown
from tasks.folder import Folder
from tasks.merge import dataset_record
from tasks.records import Item, Job, Shard, encode

EVENT = "maskmill-image"
WRITERS = 8
LONGEST = 250  # bytes of a part of a name; file systems take 255


def per_image_uri(folder: Folder, file_name: str) -> str:
    """Below the folder whatever the name: one that could lead elsewhere stands as its hash."""
    try:
        place = below(folder.file("per-image"), file_name + ".json")
    except BadUri:
        place = ""
    if not place or any(len(part.encode()) > LONGEST for part in file_name.split("/")):
        digest = hashlib.sha256(file_name.encode()).hexdigest()
        return folder.file(f"per-image/sha256-{digest}.json")
    return place


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
        uri, key = shown(item.uri), per_image_uri(folder, item.file_name)
        put(key, encode({"uri": uri, **ends[item.id]}))
        return {"job": folder.uri, "uri": uri, "key": key}

    with ThreadPoolExecutor(WRITERS) as pool:
        return list(pool.map(write, items))
