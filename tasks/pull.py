"""`maskmill models pull`: a build's published files, verified, in the user's folder."""

from __future__ import annotations

import re
from pathlib import Path

import msgspec
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TimeRemainingColumn

from storage import put
from storage.errors import Full, NotFound, StorageError
from storage.uris import below
from tasks.cards import Build, Card, Download, ModelError
from tasks.download import checksum, difference, download
from tasks.exits import OK
from tasks.progress import choose_face, tell
from tasks.shelf import fetch_shared, find_card, is_shared, place_of, user_folder
from tasks.zoo_table import Facts


def pull(name: str, precision: str, as_json: bool) -> int:
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
        raise ModelError(
            f"the card of {card.name} has no address of {build.file}. {card.facts.notes}"
            f" Put the file into {user_folder() / card.name}"
        )
    lines = ["{path}: {state}, {checked}".format_map(each) for each in files]
    if ready is None:
        lines.append(f"{build.file} itself is not published. {card.facts.notes}")
    else:
        here = "" if files else f"{ready} is here; "
        lines.append(f"{here}ready: maskmill annotate photos/ -m {name} -o out")
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
        wanted = msgspec.structs.replace(wanted, sha256=_first(pin) or whole)
    state = "here already" if target.is_file() else "downloaded"
    if state == "downloaded":
        _download(card, wanted, target, bar)
    elif why := difference(target, wanted):
        raise ModelError(f"{target} is another file: {why}; remove it and run this again")
    found = checksum("sha256", target)
    checked = "its published checksum is right"
    if not published:
        if not pin.is_file():
            put(str(pin), f"{found}  {target.name}\n".encode(), create_only=True)
        checked = (
            f"no checksum of it is published: SHA-256 {found} is kept in {pin.name},"
            " and what comes later must equal it"
        )
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
        download(wanted, target, lambda done, size: bar.update(task, completed=done, total=size))
    except StorageError as exc:
        way_out = "run this again: it goes on from what is there"
        if isinstance(exc, NotFound):
            way_out = f"look for it at {card.source}, and put it into {target.parent}"
        elif isinstance(exc, Full):
            way_out = f"make room and {way_out}"
        raise type(exc)(exc.uri, f"{exc.why}; {way_out}") from exc
