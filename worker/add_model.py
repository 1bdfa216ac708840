"""`maskmill models add`: a network file becomes a model of one's own, with a card and a sample."""

import json
import re
import shutil
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import msgspec

from storage import open_write, storable
from tasks.cards import Build, Card, Categories, InputSpec, ModelError, parse_card
from tasks.categories import Category, from_file
from tasks.exits import Facts, Said, record_lines
from tasks.graph_file import files_of, read_graph
from tasks.recognise import ASKED, Draft, asked, recognise
from tasks.shelf import ZOO, copy_build, digest, is_network, user_folder
from worker.check import try_build

# What was typed of the model, by option, the keys of ASKED. What is empty the graph tells, or the
# person is asked for.
Told = dict[str, str]

_NAME = r"[A-Za-z0-9][A-Za-z0-9._-]*"


class _Coco(msgspec.Struct):
    categories: tuple[Category, ...]


def add(file: str, name: str, replace: bool, as_json: bool, **told: str) -> Said:
    place = Path(storable(file))
    name = name or place.stem
    folder = user_folder() / name
    _refuse_taken(name, folder, replace)
    graph = read_graph(place)
    draft = recognise(graph)
    known = _answers(draft, told, not as_json and sys.stdin.isatty())
    build = Build(place.name, sha256=digest(place))
    card_path = folder.with_name(f"{name}.toml")
    text = to_toml(_card(name, draft, known, build, graph.metadata.get("license", "")), draft.form)
    card = parse_card(text, card_path)
    with ExitStack() as failed:
        if not folder.exists():
            failed.callback(shutil.rmtree, folder, ignore_errors=True)
        report = try_build(card, build, place, build.engines[0], "", folder / "sample.jpg")
        if report["fits"] is False:
            raise ModelError(f"{place} was not added: {report['problem']}")
        _keep(place, folder, text, card_path)
        failed.pop_all()
    report["path"] = str(folder / place.name)
    event: Facts = {"event": "added", "model": name, "form": draft.form}
    event |= {"card": str(card_path), "build": report}
    use = f"use it: maskmill annotate photos/ -m {name} -o out"
    return Said(event, [*record_lines(event), use])


def _refuse_taken(name: str, folder: Path, replace: bool) -> None:
    if not re.fullmatch(_NAME, name) or is_network(name) or name.lower().endswith(".toml"):
        raise ModelError(f"{name!r} is no name for a model: give --name of letters, digits, . _ -")
    cards = (folder.parent / f"{name}.toml", ZOO / f"{name}.toml", folder)
    taken = next((each for each in cards if each.exists()), None)
    if taken is not None and not replace:
        raise ModelError(f"there is a model {name} ({taken}): give another --name, or --replace")


def _answers(draft: Draft, told: Told, terminal: bool) -> Told:
    """What the person says of the model, by option; asked for only on a terminal."""
    known = {option: told[option] for option in ASKED if told[option]}
    open_ = [option for option in draft.unknown if option not in known]
    if open_ and not terminal:
        raise ModelError(f"this {draft.form} does not tell all: give {asked(open_)}")
    try:
        return known | {option: input(f"{ASKED[option]} (--{option}): ") for option in open_}
    except EOFError:
        raise ModelError("nothing was added: a question was left open") from None


def _card(name: str, draft: Draft, known: Told, build: Build, license: str) -> Card:
    spec = msgspec.to_builtins(draft.input)
    spec |= {key: known[key].strip() for key in ("color", "fit") if key in known}
    spec |= {key: known[key].split(",") for key in ("mean", "std") if key in known}
    try:
        filled = msgspec.convert(spec, InputSpec, strict=False)
    except msgspec.ValidationError as exc:
        raise ModelError(f"what was given of its input cannot be: {exc}") from exc
    categories = _categories(known["categories"]) if "categories" in known else draft.categories
    card = Card(name, draft.family, (build,), categories, filled, draft.decode, license=license)
    return msgspec.structs.replace(card, description=f"{draft.form}, added from {build.file}")


def _categories(word: str) -> Categories:
    """coco80, names with commas between, or a JSON file: a list, or COCO's own `categories`."""
    if word == "coco80":
        return "coco80"
    if not word.lower().endswith(".json"):
        return tuple(each.strip() for each in word.split(",") if each.strip())
    found = from_file(word, "categories", tuple[str | Category, ...] | _Coco)
    return found.categories if isinstance(found, _Coco) else found


def _keep(file: Path, folder: Path, card: str, card_path: Path) -> None:
    """The files, then their card, and none where one cannot be written; older ones go at last."""
    with ExitStack() as written:
        written.enter_context(open_write(str(card_path))).write(card.encode())
        copy_build(str(file), str(folder / file.name), written)
    for old in folder.iterdir():
        if old.name not in ("sample.jpg", *(part.name for part in files_of(file))):
            old.unlink()


def to_toml(card: Card, form: str) -> str:
    """The card for people to read and change; read_card gives the same card back."""
    said = msgspec.to_builtins(card)
    lines = [
        f"# A {form}. Made by maskmill models add from the file below.",
        "# mean and std are on levels 0…255, in the order of color.",
    ]
    keys = ("name", "family", "description", "license", "categories", "input", "decode", "builds")
    return "\n".join([*lines, *_rows({key: said[key] for key in keys})]) + "\n"


def _rows(table: Facts) -> Iterator[str]:
    return (f"{key} = {_toml(value)}" for key, value in table.items() if value or value == 0)


def _toml(value: Any) -> str:
    if isinstance(value, dict):
        return f"{{ {', '.join(_rows(value))} }}"
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(_toml, value))}]"
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
