"""`maskmill models pull`: a build's published files, verified, in the user's folder."""

from __future__ import annotations

from pathlib import Path

import msgspec
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TimeRemainingColumn

from storage import put
from storage.errors import Full, NotFound, StorageError
from storage.uris import below
from tasks.cards import Build, Card, Download, ModelError, read_card
from tasks.download import checksum, difference, download
from tasks.exits import OK, ended
from tasks.progress import choose_face, tell
from tasks.shelf import card_path, fetch_shared, is_shared, place_of, user_folder
from tasks.zoo_table import Facts


def pull(name: str, precision: str, as_json: bool) -> int:
    return ended(lambda: _pull(name, precision, as_json), as_json)


def _pull(name: str, precision: str, as_json: bool) -> int:
    path = card_path(name)
    card = read_card(path)
    build = _chosen(card, precision)
    if is_shared(path) and not _published(build):
        at = str(fetch_shared(card, build))
        files = [{"path": at, "state": "in the cache", "checked": "it is what the card names"}]
    elif not _published(build):
        raise ModelError(
            f"the card of {card.name} has no address of {build.file}. {card.facts.notes}"
            f" Put the file into {user_folder() / card.name}"
        )
    else:
        columns = ("{task.description}", BarColumn(), DownloadColumn(), TimeRemainingColumn())
        hidden = choose_face(as_json) != "bar"
        with Progress(*columns, console=Console(stderr=True), disable=hidden) as bar:
            files = [_bring(card, build, each, bar) for each in _published(build)]
    ready = place_of(path, card, build)
    lines = ["{path}: {state}, {checked}".format_map(each) for each in files]
    if ready is None:
        lines.append(f"{build.file} itself is not published. {card.facts.notes}")
    else:
        lines.append(f"ready: maskmill annotate photos/ -m {card.name} -o out")
    event = {"event": "pulled", "model": card.name, "build": build.file, "files": files}
    tell(event | {"ready": None if ready is None else str(ready)}, lines, as_json)
    return OK


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
        first = pin.read_text("utf-8").split(" ")[0] if pin.is_file() else whole
        wanted = msgspec.structs.replace(wanted, sha256=first)
    state = "here already" if target.is_file() else "downloaded"
    if state == "downloaded":
        _download(card, wanted, target, bar)
    elif why := difference(target, wanted):
        raise ModelError(f"{target} is another file: {why}; remove it and run this again")
    found = checksum("sha256", target)
    checked = "its published checksum is right"
    if not published:
        put(str(pin), f"{found}  {target.name}\n".encode(), create_only=True)
        checked = (
            f"no checksum of it is published: SHA-256 {found} is kept in {pin.name},"
            " and what comes later must equal it"
        )
    return {"path": str(target), "state": state, "checked": checked, "sha256": found}


def _download(card: Card, wanted: Download, target: Path, bar: Progress) -> None:
    task = bar.add_task(wanted.file, total=None)
    try:
        download(wanted, target, lambda done, size: bar.update(task, completed=done, total=size))
    except StorageError as exc:
        way_out = "run this again: it goes on from what is there"
        if isinstance(exc, NotFound):
            way_out = f"look for it at {card.source}, and put it into {target.parent}"
        elif isinstance(exc, Full):
            way_out = f"make room and {way_out}"
        raise type(exc)(exc.uri, f"{exc.why}; {way_out}") from exc
