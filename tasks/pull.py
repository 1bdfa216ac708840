"""`maskmill models pull`: a build's published files in the user's folder, each resumed where it
broke off, verified, and renamed when whole.
"""

import fcntl
import os
import re
from collections.abc import Callable
from io import FileIO
from pathlib import Path

import msgspec
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TimeRemainingColumn

from storage import CHUNK, Full, NotFound, Opened, StorageError, Unreachable, below, open_from, put
from storage.disk import translating
from tasks.cards import Build, Card, Download, ModelError
from tasks.exits import Facts, Said, choose_face, record_lines
from tasks.shelf import checksum, fetch_shared, find_card, is_shared, place_of, user_folder

Told = Callable[[int, int | None], None]  # bytes done, and of how many where that is known


def pull(name: str, precision: str, as_json: bool) -> Said:
    path, card = find_card(name)
    build = _chosen(card, precision)
    published = _published(build)
    if not published and is_shared(path):
        fetch_shared(card, build)
    columns = ("{task.description}", BarColumn(), DownloadColumn(), TimeRemainingColumn())
    hidden = choose_face(as_json) != "bar"
    with Progress(*columns, console=Console(stderr=True), disable=hidden) as bar:
        files = [_bring(card, build, each, bar) for each in published]
    ready = place_of(path, card, build)
    if not files and ready is None:
        way_out = f"{card.facts.notes} Put the file into {user_folder() / card.name}"
        raise ModelError(f"the card of {card.name} has no address of {build.file}. {way_out}")
    event: Facts = {"event": "pulled", "model": card.name, "build": build.file, "files": files}
    event |= {"ready": None if ready is None else str(ready)}
    use = f"ready: maskmill annotate photos/ -m {name} -o out"
    if ready is None:
        use = f"{build.file} itself is not published. {card.facts.notes}"
    return Said(event, [*record_lines(event), use])


def _published(build: Build) -> list[Download]:
    return [each for each in build.downloads if each.url]


def _chosen(card: Card, precision: str) -> Build:
    fitting = [each for each in card.builds if precision in ("", each.precision)]
    if not fitting:
        known = ", ".join(dict.fromkeys(each.precision for each in card.builds))
        raise ModelError(f"{card.name} has no build of precision {precision}; it has {known}")
    return next(filter(_published, fitting), fitting[0])


def _bring(card: Card, build: Build, wanted: Download, bar: Progress) -> Facts:
    """One file of a build. Where no source says a checksum, a .sha256 beside it keeps the first."""
    target = Path(below(str(user_folder()), f"{card.name}/{wanted.file}"))
    pin = target.with_name(target.name + ".sha256")
    published = bool(wanted.sha384 or wanted.sha256)
    if not published:
        whole = build.sha256 if wanted.file == build.file and target.suffix != ".xml" else ""
        wanted = msgspec.structs.replace(wanted, sha256=_first(pin) or whole)
    state = "here already" if target.is_file() else "downloaded"
    if state == "downloaded":
        _download(card, wanted, target, bar)
    elif why := _difference(target, wanted):
        raise ModelError(f"{target} is another file: {why}; remove it and run this again")
    found = checksum("sha256", str(target))
    checked = "its published checksum is right"
    if not published:
        if not pin.is_file():
            put(str(pin), f"{found}  {target.name}\n".encode(), create_only=True)
        checked = f"no checksum of it is published: SHA-256 {found} is kept in {pin.name}"
    return {"path": str(target), "state": state, "checked": checked, "sha256": found}


def _first(pin: Path) -> str:
    """The checksum of what came first; empty before."""
    if not pin.is_file():
        return ""
    first = pin.read_bytes().decode("ascii", "replace").partition(" ")[0]
    if not re.fullmatch("[0-9a-fA-F]{64}", first):
        raise ModelError(f"{pin} holds no SHA-256 any more; remove it and run this again")
    return first


def _download(card: Card, wanted: Download, target: Path, bar: Progress) -> None:
    task = bar.add_task(wanted.file, total=None)
    try:
        _fetch(wanted, target, lambda done, size: bar.update(task, completed=done, total=size))
    except StorageError as exc:
        way_out = "run this again: it goes on from what is there"
        if isinstance(exc, NotFound):
            way_out = f"look for it at {card.source}, and put it into {target.parent}"
        elif isinstance(exc, Full):
            way_out = f"make room and {way_out}"
        raise type(exc)(exc.uri, f"{exc.why}; {way_out}") from exc


def _fetch(wanted: Download, target: Path, told: Told) -> None:
    """Bring `wanted` to `target`; what came so far stays in a .part beside it for the next time."""
    part = target.with_name(target.name + ".part")
    version_at = target.with_name(target.name + ".part-version")  # of the bytes in the .part
    with translating(str(target), writing=True):
        part.parent.mkdir(parents=True, exist_ok=True)
        with part.open("ab", buffering=0) as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            if target.exists():  # another process was faster
                part.unlink(missing_ok=True)
            elif not os.fstat(file.fileno()).st_nlink:  # another process threw this .part away
                _fetch(wanted, target, told)
            else:
                _fill(file, wanted, version_at, told)
                os.fsync(file.fileno())
                version_at.unlink(missing_ok=True)
                if why := _difference(part, wanted):
                    part.unlink()
                    source = f"what came from {wanted.url} is not the file that was published"
                    raise ModelError(f"{source} or came first: {why}; it was not kept")
                part.rename(target)


def _difference(path: Path, wanted: Download) -> str:
    """How a file differs from what is published of it; empty where it does not."""
    size = path.stat().st_size
    if wanted.size not in (None, size):
        return f"expected {wanted.size} bytes, found {size}"
    for kind, expected in (("sha384", wanted.sha384), ("sha256", wanted.sha256)):
        if expected and (found := checksum(kind, str(path))) != expected.lower():
            return f"expected {kind.upper()} {expected}, found {found}"
    return ""


def _fill(file: FileIO, wanted: Download, version_at: Path, told: Told) -> None:
    """Append until all is there. A break is taken up again for as long as that gets further."""
    done = furthest = os.fstat(file.fileno()).st_size
    while done != wanted.size:
        version = version_at.read_text("utf-8") if version_at.exists() else ""
        opened = open_from(wanted.url, done, version)
        file.truncate(opened.start)
        with opened.stream:
            version_at.write_text(opened.version, "utf-8")
            try:
                _copy(opened, file, wanted, told)
                return
            except Unreachable:
                done = os.fstat(file.fileno()).st_size
                if done <= furthest:
                    raise
                furthest = done


def _copy(opened: Opened, file: FileIO, wanted: Download, told: Told) -> None:
    """All that comes, but of a file of a known size no more than shows that it is another."""
    done = opened.start
    told(done, opened.size)
    while done <= (wanted.size or done) and (chunk := opened.stream.read1(CHUNK)):  # type: ignore[attr-defined]
        rest = memoryview(chunk)
        while rest:  # an unbuffered write may take less, as when the disk is nearly full
            rest = rest[file.write(rest) :]
        done += len(chunk)
        told(done, opened.size)
