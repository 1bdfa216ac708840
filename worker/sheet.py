"""The contact sheet: a few images of a merged job with what was found on them."""

from collections.abc import Iterable, Sequence
from contextlib import closing

import msgspec

from storage import get, put
from storage.errors import StorageError
from tasks.folder import SHEET, Folder, read_plan
from tasks.merge import Picked
from tasks.records import Annotation, Item, ItemError, Job, Settings
from worker.drawing import contact_sheet, draw
from worker.images import Pixels, decode, read_header
from worker.shard import frame_reader

TILE_MINIMUM = (900, 900)  # decode no larger than a tile can show

SHOWN = 0.3  # lowest score drawn: the file keeps more than an eye can use


def write_sheet(folder: Folder, job: Job, picks: Sequence[Picked]) -> bool:
    """Whether there was anything to draw."""
    tiles = [_tile(folder, job, pick) for pick in picks]
    if tiles:
        put(folder.file(SHEET), contact_sheet(tiles))
    return bool(tiles)


def _tile(folder: Folder, job: Job, pick: Picked) -> tuple[str, Pixels | None]:
    item = next(each for each in read_plan(folder, pick.shard) if each.file_name == pick.file_name)
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
