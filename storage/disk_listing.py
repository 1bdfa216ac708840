"""A folder's files, recursively, in the UTF-8 order of their whole paths, one folder in memory.

Links to files and folders are followed, except a link to a folder that holds it, which would
never end. A link to nothing is listed with version "absent", so that it becomes a failed input
and does not vanish.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator

from storage.disk_errors import translating
from storage.errors import NotFound
from storage.streams import Entry
from storage.uris import Location, as_folder, join, storable

TEMPORARY = ".maskmill-tmp-"


def version_of(facts: os.stat_result) -> str:
    return f"{facts.st_size}-{facts.st_mtime_ns}"


def walk(location: Location, starting: str) -> Iterator[Entry]:
    top = as_folder(location.path)
    with translating(location.uri):
        if not os.path.isdir(top):
            os.stat(location.path)
            raise NotFound(location.uri, "is not a folder")
    # One level per open folder: what is left in it, and its identity.
    levels = [(iter(_names(location, "", starting)), _identity(top))]
    while levels:
        path = next(levels[-1][0], None)
        if path is None:
            levels.pop()
        elif not path.endswith("/"):
            yield from _entry(location, top, path)
        elif _identity(top + path) not in [identity for _, identity in levels]:
            levels.append((iter(_names(location, path, starting)), _identity(top + path)))


def _names(location: Location, folder: str, starting: str) -> list[str]:
    """Paths below the top of what is in `folder`; folders end in a slash, which sorts them."""
    with translating(join(location.uri, folder) if folder else location.uri):
        try:
            with os.scandir(as_folder(location.path) + folder) as found:
                paths = [folder + item.name + ("/" if item.is_dir() else "") for item in found]
        except FileNotFoundError:
            return []
    wanted = [path for path in paths if _may_match(path, starting)]
    return sorted(wanted, key=os.fsencode)


def _may_match(path: str, starting: str) -> bool:
    if path.rpartition("/")[2].startswith(TEMPORARY):
        return False
    return path.startswith(starting) or (path.endswith("/") and starting.startswith(path))


def _entry(location: Location, top: str, path: str) -> Iterator[Entry]:
    uri = storable(join(location.uri, path))
    try:
        facts = os.stat(top + path)
    except OSError:
        if os.path.lexists(top + path):
            yield Entry(uri, 0, "absent")
        return
    if stat.S_ISREG(facts.st_mode):
        yield Entry(uri, facts.st_size, version_of(facts))


def _identity(path: str) -> tuple[int, int] | None:
    try:
        facts = os.stat(path)
    except OSError:
        return None
    return facts.st_dev, facts.st_ino
