"""Pictures for people: masks, boxes and labels on an image, and the contact sheet of a job."""

import io
import math
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from contextlib import closing
from typing import Any

import cv2
import msgspec
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageColor, ImageDraw, ImageFont, ImageOps
from pycocotools.coco import COCO

from storage import StorageError, get, put
from tasks.folder import SHEET, Folder
from tasks.merge import Picked
from tasks.records import Annotation, Item, ItemError, Job, Settings
from worker.images import Pixels, decode, read_header
from worker.shard import frame_reader

Record = Mapping[str, Any]  # an annotation of a COCO dataset, with its score
Color = tuple[int, int, int]
Box = tuple[int, int, int, int]  # x1, y1, x2, y2, the last two outside

SHOWN = 0.3  # lowest score drawn: the file keeps more than an eye can use
TILE = (640, 480)  # the room for a picture on a sheet: width, height
TILE_MINIMUM = (900, 900)  # decode no larger than a tile can show
_CAPTION, _LABEL = 30, 18  # pixels high
_GAP = 8
_OPACITY = 0.45
_LONGEST_NAME, _LONGEST_CAPTION = 30, 75  # letters
_PAPER, _INK, _GREY = (24, 24, 27), (235, 235, 235), (70, 70, 74)


def write_sheet(folder: Folder, job: Job, picks: Sequence[Picked]) -> bool:
    """Whether there was anything to draw."""
    tiles = [_tile(folder, job, pick) for pick in picks]
    if tiles:
        put(folder.file(SHEET), contact_sheet(tiles))
    return bool(tiles)


def _tile(folder: Folder, job: Job, pick: Picked) -> tuple[str, Pixels | None]:
    item = next(each for each in folder.read_plan(pick.shard) if each.file_name == pick.file_name)
    found = pick.found
    number = sum(each.score >= SHOWN for each in found)
    caption = f"{item.file_name}: {number} from {SHOWN}, {len(found)} in all"
    try:
        return caption, drawn(item, found, job.asked.settings)
    except (StorageError, ItemError):
        return f"{item.file_name}: could not be read", None


def drawn(item: Item, found: Iterable[Annotation], settings: Settings) -> Pixels:
    """An image with what was found on it and may be shown."""
    if item.frame is None:
        data = get(item.uri, max_bytes=settings.max_bytes)
        header = read_header(data, max_pixels=settings.max_pixels)
        pixels, size = decode(data, header, TILE_MINIMUM), (header.height, header.width)
    else:
        with closing(frame_reader(settings)) as reader:
            pixels = reader.read(item).pixels()
        size = pixels.shape[0], pixels.shape[1]
    names = {each.id: each.name for each in settings.categories}
    records = [msgspec.to_builtins(each) for each in found if each.score >= SHOWN]
    return draw(pixels, records, names, size)


def draw(
    pixels: Pixels,
    records: Sequence[Record],
    names: Mapping[int, str],
    image_size: tuple[int, int],
    room: tuple[int, int] = TILE,
) -> Pixels:
    """The picture with its annotations, no larger than its `room`, (H, W, 3) RGB.

    The records are in pixels of an image of (height, width) `image_size`, which may be larger than
    `pixels`.
    """
    picture = _fitted(pixels, room)
    ordered = sorted(records, key=lambda record: -float(record["bbox"][2] * record["bbox"][3]))
    for record in ordered:  # small ones on top
        if record["segmentation"]:  # editors know annotations that are boxes alone
            _paint(picture, _mask(record, image_size, picture.shape[:2]), color_of(record))
    scale = (picture.shape[1] / image_size[1], picture.shape[0] / image_size[0])
    boxed = [(record, _box(record, scale, picture.shape)) for record in ordered]
    for record, (x1, y1, x2, y2) in boxed:
        cv2.rectangle(picture, (x1, y1), (x2 - 1, y2 - 1), color_of(record), 1)
    return _labelled(picture, boxed, names)


def color_of(record: Record) -> Color:
    """The colour of a record's category: the same in every picture, far from its neighbours'."""
    number = int(record["category_id"])
    hue = number * 0.618034 % 1 * 360  # the golden section spreads any run of numbers evenly
    saturation, value = ((85, 100), (60, 100), (90, 80))[number % 3]
    return ImageColor.getrgb(f"hsv({hue:.6f},{saturation}%,{value}%)")[:3]


def contact_sheet(tiles: Sequence[tuple[str, Pixels | None]]) -> bytes:
    """A JPEG with the pictures in a grid, each over its caption; None was not readable."""
    columns = max(1, math.ceil(math.sqrt(len(tiles))))
    rows = max(1, math.ceil(len(tiles) / columns))
    width, height = TILE[0] + _GAP, TILE[1] + _CAPTION + _GAP
    sheet = Image.new("RGB", (columns * width + _GAP, rows * height + _GAP), _PAPER)
    pen, font = ImageDraw.Draw(sheet), ImageFont.load_default(16)
    for number, (caption, pixels) in enumerate(tiles):
        x = _GAP + number % columns * width
        y = _GAP + number // columns * height
        sheet.paste(_GREY, (x, y, x + TILE[0], y + TILE[1]))
        if pixels is not None:
            sheet.paste(ImageOps.pad(Image.fromarray(pixels), TILE, color=_PAPER), (x, y))
        text = _shortened(caption, _LONGEST_CAPTION)
        pen.text((x, y + TILE[1] + _CAPTION / 2), text, _INK, font, anchor="lm")
    file = io.BytesIO()
    sheet.save(file, "JPEG", quality=88)
    return file.getvalue()


def _fitted(pixels: Pixels, room: tuple[int, int] = TILE) -> Pixels:
    """A copy that fits the room; small pictures grow a few times, so that labels have room."""
    height, width = pixels.shape[:2]
    scale = min(room[0] / width, room[1] / height, 4.0)
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    way = cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC
    return np.array(cv2.resize(pixels, size, interpolation=way), dtype=np.uint8)


def _mask(record: Record, image_size: tuple[int, int], size: tuple[int, int]) -> NDArray[np.uint8]:
    """The record's mask at (height, width) `size`: 1 where at least half of a pixel is in it."""
    coco = COCO()
    coco.imgs[0] = dict(zip(("height", "width"), image_size, strict=True))
    mask = coco.annToMask({**record, "image_id": 0}) * np.uint8(255)
    way = cv2.INTER_AREA if size[0] < image_size[0] else cv2.INTER_LINEAR
    scaled = cv2.resize(np.ascontiguousarray(mask), size[::-1], interpolation=way)
    return (scaled >= 128).astype(np.uint8)


def _paint(picture: Pixels, mask: NDArray[np.uint8], color: Color) -> None:
    """Tint what is under the mask, and more so along its edge; nothing else changes."""
    inside = mask.astype(bool)
    edge = (mask - cv2.erode(mask, np.ones((3, 3), np.uint8))).astype(bool)
    tint = np.array(color, dtype=np.float32)
    picture[inside] = picture[inside] * (1 - _OPACITY) + tint * _OPACITY + 0.5
    picture[edge] = picture[edge] * 0.1 + tint * 0.9


def _box(record: Record, scale: tuple[float, float], shape: tuple[int, ...]) -> Box:
    x, y, width, height = record["bbox"]
    ends = np.multiply((x, y, x + width, y + height), (*scale, *scale))
    x1, y1, x2, y2 = np.clip(np.rint(ends), 0, (*shape[1::-1], *shape[1::-1])).astype(int).tolist()
    return x1, y1, max(x2, x1 + 1), max(y2, y1 + 1)


def _labelled(
    picture: Pixels, boxed: Sequence[tuple[Record, Box]], names: Mapping[int, str]
) -> Pixels:
    """Each box's label over its left corner, moved into the picture; the best scores on top."""
    image = Image.fromarray(picture)
    pen = ImageDraw.Draw(image)
    font = ImageFont.load_default(14)
    for record, (left, top, *_) in sorted(boxed, key=lambda pair: float(pair[0]["score"])):
        name = names.get(record["category_id"], str(record["category_id"]))
        text = f"{_shortened(name, _LONGEST_NAME)} {record['score']:.2f}"
        width = math.ceil(pen.textlength(text, font)) + 6
        x, y = max(0, min(left, image.width - width)), max(0, top - _LABEL)
        color = color_of(record)
        pen.rectangle((x, y, x + width - 1, y + _LABEL - 1), color)
        ink = (0, 0, 0) if np.dot(color, (0.299, 0.587, 0.114)) > 128 else (255, 255, 255)
        pen.text((x + 3, y + _LABEL / 2), text, ink, font, anchor="lm")
    return np.array(image)


def _shortened(text: str, most: int) -> str:
    """At most so many letters, cut in the middle: both ends of a path tell something.

    Without control characters, and without the accents that Pillow's own font does not have.
    """
    plain = unicodedata.normalize("NFKD", text)
    kept = [c if c.isprintable() else " " for c in plain if not unicodedata.combining(c)]
    if len(kept) > most:
        kept[most // 2 : most // 2 - most + 1] = "…"
    return "".join(kept)
