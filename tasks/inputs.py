"""What a person typed as INPUT, turned into a stream of found images. Nothing is held in memory."""

import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Annotated

import ijson
import msgspec

from storage import BadUri, Entry, NotFound, exists, expand, list_entries, open_read, shown
from storage.uris import as_folder, basename, is_glob, join, parent, parse, relative, storable
from tasks.folder import SHEET
from tasks.records import Problem, VideoFrame
from tasks.videos import InputError as InputError
from tasks.videos import Part, split_fragment

IMAGE_SUFFIXES = (
    *(".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".bmp", ".dib", ".tif", ".tiff"),
    *(".gif", ".avif", ".heic", ".heif", ".jp2"),
)
VIDEO_SUFFIXES = (
    *(".mp4", ".m4v", ".mov", ".3gp", ".mkv", ".webm", ".avi", ".ts", ".mts", ".m2ts"),
    *(".mpg", ".mpeg", ".flv", ".wmv", ".ogv"),
)
LIST_SUFFIXES = (".txt", ".jsonl", ".json")
# Beginnings of the formats above, to know an image in a folder whatever it is called.
_SIGNATURES = (b"\xff\xd8\xff", b"\x89PNG", b"BM", b"II*\0", b"MM\0*", b"GIF8")


@dataclass(frozen=True)
class Found:
    uri: str
    file_name: str  # the path below the INPUT's root
    version: str | None = None
    id: int | None = None  # the id that a COCO file gives it
    is_image: bool = True  # or a video, or a frame of one
    size: int = -1  # in bytes, where a listing tells it
    path: str = ""  # the name that it would have, where its list gives it another
    part: Part | None = None  # of a video, what is asked for; what is planned of it has …
    frame: VideoFrame | None = None  # … this …
    problem: Problem | None = None  # … or this


class ListLine(msgspec.Struct, forbid_unknown_fields=True):
    """One line of a .jsonl list."""

    uri: str
    file_name: str = ""


def find(inputs: Sequence[str], images_root: str = "", stdin: str = "") -> Iterator[Found]:
    """All that the inputs name, in order: as given, each folder by its keys' UTF-8 bytes."""
    for word in inputs:
        with _named(word):
            found = _find_one(word, images_root, stdin)
            first = next(found, None)
            if first is None:
                raise NotFound(word)
            yield first
            yield from found


@contextmanager
def _named(word: str) -> Iterator[None]:
    try:
        yield
    except NotFound:
        raise InputError(f"no inputs match {shown(word)}") from None


def _find_one(word: str, images_root: str, stdin: str) -> Iterator[Found]:
    if word == "-":
        return _from_list(stdin, os.getcwd() + "/", "standard input")
    word, part = meant(word)
    place = parse(word)
    suffix = PurePosixPath(place.path).suffix.lower()
    if place.scheme == "file":
        is_file = os.path.lexists(place.path) and not os.path.isdir(place.path)
    else:  # asking the store would cost a request, and the right to ask
        known = part or suffix in (*IMAGE_SUFFIXES, *VIDEO_SUFFIXES, *LIST_SUFFIXES)
        is_file = known and not word.endswith("/") and not is_glob(word)
    if is_file or place.scheme in ("http", "https"):
        if part or suffix not in LIST_SUFFIXES:
            name = _name(basename(word))
            return iter([Found(storable(word), name, part=_part_of(place.path, part))])
        return _from_file(word, suffix, images_root)
    if is_glob(word) and not (place.scheme == "file" and os.path.isdir(place.path)):
        return listed(*expand(word), part)
    return listed(as_folder(word), list_entries(as_folder(word)), part)


def meant(word: str, base: str = "") -> tuple[str, Part | None]:
    """A word, or a list's line, without its fragment and with its `%23` read as `#`.

    What lies on this disk under just that name is meant by it, however the name may look.
    """
    if "#" not in word and "%23" not in word:
        return word, None
    whole = _below(base, word) if base else word
    if "://" not in whole and os.path.lexists(whole):
        return word, None
    try:
        rest, part = split_fragment(word)
    except InputError as exc:
        raise InputError(f"{shown(word)}: {exc}") from exc
    is_encoded = whole.lower().startswith(("file://", "http://", "https://"))
    return rest if is_encoded else rest.replace("%23", "#"), part


def _part_of(path: str, part: Part | None) -> Part | None:
    """What is asked for of a video, which is known by its name if by nothing else."""
    return part or (Part() if path.lower().endswith(VIDEO_SUFFIXES) else None)


def _from_file(word: str, suffix: str, images_root: str) -> Iterator[Found]:
    """A list, or a COCO file's images with its ids, beside it or below `images_root`."""
    if suffix in LIST_SUFFIXES[:2]:
        yield from _from_list(word, parent(word), shown(word))
    else:
        for record in coco_images(word):
            uri = _below(images_root or parent(word), record.file_name)
            yield Found(uri, name_in_list(record.file_name), id=record.id)


def listed(root: str, entries: Iterable[Entry], asked: Part | None = None) -> Iterator[Found]:
    for entry in entries:
        name = _name(relative(entry.uri, root))
        part = _part_of(entry.uri, None if entry.uri.lower().endswith(IMAGE_SUFFIXES) else asked)
        is_image = part is not None or (_may_be_image(entry.uri) and not _is_sheet(entry.uri))
        uri = storable(entry.uri)
        yield Found(uri, name, entry.version or None, is_image=is_image, size=entry.size, part=part)


def _is_sheet(uri: str) -> bool:
    """Our own drawing in a job folder that lies among the inputs."""
    return basename(uri) == SHEET and exists(join(parent(uri), "job.json"))


def _name(path: str) -> str:
    """A path as a dataset can hold it: bytes that are not UTF-8 stand as escapes."""
    return os.fsencode(path).decode("utf-8", "backslashreplace")


def _may_be_image(uri: str) -> bool:
    """By its name where that says something; else by its first bytes where a look costs nothing."""
    place = parse(uri)
    suffix = os.path.splitext(place.path)[1].lower()  # a PurePath would intern every name
    if suffix in IMAGE_SUFFIXES:
        return True
    if place.scheme != "file":
        return suffix in ("", ".")
    try:
        with open(place.path, "rb") as file:
            start = file.read(12)
    except OSError:
        return False
    return start.startswith(_SIGNATURES) or (start[:4] == b"RIFF" and start[8:12] == b"WEBP")


def _from_list(word: str, base: str, where: str) -> Iterator[Found]:
    """URIs a line, or JSON objects with `uri` and `file_name`; relative ones are below `base`."""
    with open_read(word) as file:
        for number, raw in enumerate(file, 1):
            line = raw.strip()
            if not line or line.startswith(b"#"):
                continue
            try:
                if line.startswith(b"{"):
                    entry = msgspec.json.decode(line, type=ListLine)
                else:
                    entry = ListLine(line.decode())
            except (msgspec.DecodeError, UnicodeDecodeError) as exc:
                raise InputError(f"line {number} of {where} cannot be read: {exc}") from exc
            yield in_list(entry, base)


def in_list(entry: ListLine, base: str) -> Found:
    """What a line of a list, or an item of a message, names; a relative one is below `base`."""
    uri, part = meant(entry.uri, base)
    name = name_in_list(uri) or parse(uri).host
    own, part = entry.file_name, _part_of(name, part)
    return Found(_below(base, uri), own or name, path=own and name, part=part)


def _below(base: str, word: str) -> str:
    """An entry of a list: a URI as it stands, a local path in full, else a key below `base`."""
    if "://" in word:
        return storable(word)
    place = parse(base)
    if word.startswith("/") or place.scheme == "file":
        return storable(os.path.abspath(os.path.join(place.path, word)))
    return join(base, word)


def name_in_list(word: str) -> str:
    """Lists mix roots, so a name is the whole path: without scheme, host or bucket, and query."""
    try:
        path = parse(word).path
    except BadUri:
        path = word.partition("://")[2] or word  # it will fail when it is fetched, under this name
    return _name("/".join(part for part in path.split("/") if part not in ("", ".", "..")))


class CocoImage(msgspec.Struct):
    id: Annotated[int, msgspec.Meta(ge=1, le=1 << 53)]
    file_name: str


def coco_images(word: str) -> Iterator[CocoImage]:
    """The `images` of a COCO file, streamed, each with a positive id."""
    number = 0
    try:
        with _named(word), open_read(word) as file:
            for raw in ijson.items(file, "images.item"):
                number += 1
                yield msgspec.convert(raw, CocoImage)
    except ijson.JSONError as exc:
        raise InputError(f"{shown(word)} is not JSON") from exc
    except msgspec.ValidationError as exc:
        raise InputError(f"image {number} of {shown(word)} is no COCO image: {exc}") from exc
    if not number:
        raise InputError(f"{shown(word)} lists no images: is it a COCO dataset?")


def absolute(word: str) -> str:
    """An INPUT as it stands in job.json: local paths in full, so that it means one thing."""
    rest, part = meant(word)
    if word == "-" or parse(rest).scheme != "file":
        return word
    path = os.path.abspath(parse(rest).path)
    whole = storable(as_folder(path) if rest.endswith("/") else path)
    return f"{whole}#{part.fragment}" if part else whole
