"""`maskmill models pull`: a build's published files, verified, in the user's folder."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TimeRemainingColumn

from storage import put
from storage.errors import Full, NotFound, StorageError
from storage.uris import below
from tasks.cards import Build, Card, Download, ModelError, read_card
from tasks.download import Told, checksum, difference, download
from tasks.exits import OK, ended
from tasks.progress import JSON_EVERY_S, choose_face, say_json
from tasks.shelf import card_path, fetch_shared, is_here, is_shared, places_of, user_folder


def pull(name: str, precision: str, as_json: bool) -> int:
    return ended(lambda: _pull(name, precision, as_json), as_json)


def _pull(name: str, precision: str, as_json: bool) -> int:
    path = card_path(name)
    card = read_card(path)
    build = _chosen(card, precision)
    if is_shared(path) and not _published(build):
        at = str(fetch_shared(card, build))
        report = {"file": build.file, "path": at, "state": "in the cache"}
        files = [report | {"checked": "it is what the shared card names"}]
    elif not _published(build):
        raise ModelError(
            f"the card of {card.name} has no address of {build.file}. {card.facts.notes}"
            f" Put the file into {user_folder() / card.name}"
        )
    else:
        with _telling(as_json) as told:
            files = [_bring(card, build, each, told(each.file)) for each in _published(build)]
    ready = next((str(at) for at in places_of(path, card, build) if is_here(at)), None)
    if as_json:
        said = {"event": "pulled", "model": card.name, "build": build.file}
        say_json(said | {"files": files, "ready": ready})
        return OK
    for each in files:
        print(f"{each['path']}: {each['state']}, {each['checked']}")
    if ready is None:
        print(f"{build.file} itself is not published. {card.facts.notes}")
    else:
        print(f"ready: maskmill annotate photos/ -m {card.name} -o out")
    return OK


def _published(build: Build) -> list[Download]:
    return [each for each in build.downloads if each.url]


def _chosen(card: Card, precision: str) -> Build:
    fitting = [each for each in card.builds if precision in ("", each.precision)]
    if not fitting:
        known = ", ".join(dict.fromkeys(each.precision for each in card.builds))
        raise ModelError(f"{card.name} has no build of precision {precision}; it has {known}")
    return next(filter(_published, fitting), fitting[0])


def _bring(card: Card, build: Build, wanted: Download, told: Told) -> dict[str, Any]:
    """One file of a build. Where no source says a checksum, a .sha256 beside it keeps the first."""
    target = Path(below(str(user_folder()), f"{card.name}/{wanted.file}"))
    pin = target.with_name(target.name + ".sha256")
    published = bool(wanted.sha384 or wanted.sha256)
    if not published:
        whole = build.sha256 if wanted.file == build.file and target.suffix != ".xml" else ""
        first = pin.read_text("utf-8").split(" ")[0] if pin.is_file() else whole
        wanted = msgspec.structs.replace(wanted, sha256=first)
    state = "here already" if target.is_file() else "downloaded"
    if target.is_file():
        if why := difference(target, wanted):
            raise ModelError(f"{target} is another file: {why}; remove it and run this again")
    else:
        try:
            download(wanted, target, told)
        except StorageError as exc:
            raise type(exc)(exc.uri, f"{exc.why}; {_way_out(exc, card, target)}") from exc
    found = checksum(target, "sha256")
    checked = "its published checksum is right"
    if not published:
        put(str(pin), f"{found}  {target.name}\n".encode(), create_only=True)
        checked = (
            f"no checksum of it is published: SHA-256 {found} is kept in {pin.name},"
            " and what comes later must equal it"
        )
    size = target.stat().st_size
    report = {"file": wanted.file, "path": str(target), "state": state, "checked": checked}
    return report | {"bytes": size, "sha256": found, "checksum_published": published}


def _way_out(exc: StorageError, card: Card, target: Path) -> str:
    if isinstance(exc, NotFound):
        return f"look for it at {card.source}, and put it into {target.parent}"
    if isinstance(exc, Full):
        return "make room and run this again: it goes on from what is there"
    return "run this again: it goes on from what is there"


@contextmanager
def _telling(as_json: bool) -> Iterator[Callable[[str], Told]]:
    """What hears of each file's bytes: a bar, JSON lines, or nobody."""
    last = 0.0

    def say(file: str, done: int, size: int | None) -> None:
        nonlocal last
        if time.monotonic() - last >= JSON_EVERY_S:
            last = time.monotonic()
            say_json({"event": "progress", "file": file, "bytes": done, "of": size})

    if as_json:
        yield lambda file: lambda done, size: say(file, done, size)
        return
    columns = ("{task.description}", BarColumn(), DownloadColumn(), TimeRemainingColumn())
    hidden = choose_face(as_json) != "bar"
    with Progress(*columns, console=Console(stderr=True), disable=hidden) as bar:

        def begin(file: str) -> Told:
            task = bar.add_task(file, total=None)
            return lambda done, size: bar.update(task, completed=done, total=size)

        yield begin
