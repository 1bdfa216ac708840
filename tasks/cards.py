"""Model cards: a TOML file that says what a network's bytes cannot say of themselves."""

from __future__ import annotations

import hashlib
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import msgspec

from storage.uris import shown, storable
from tasks.categories import Category, coco80

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ZOO = Path(__file__).parent / "zoo"
ENGINE_BY_SUFFIX = {".onnx": "onnx", ".tflite": "tflite", ".xml": "openvino"}


class ModelError(Exception):
    """A model that cannot be used, in one sentence. It stops a command before anything runs."""


class InputSpec(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How pixels become the network's input; mean and std are on 0…255, in the order of `color`."""

    size: tuple[int, int] | None = None  # (height, width), only where the graph leaves it open
    fit: Literal["stretch"] = "stretch"
    color: Literal["rgb", "bgr"] = "rgb"
    mean: tuple[float, float, float] = (0.0, 0.0, 0.0)
    std: tuple[float, float, float] = (1.0, 1.0, 1.0)


class Accuracy(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """AP of one precision, between 0 and 1; None where nobody has published or measured it."""

    box_ap: float | None = None
    mask_ap: float | None = None
    mean_ap: float | None = None
    source: Literal["published", "measured"] = "published"
    on: str = ""


class Facts(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    backbone: str = ""
    dataset: str = ""
    operations: str = ""
    parameters: str = ""
    boards: tuple[str, ...] = ()
    accuracy: dict[str, Accuracy] = {}
    notes: str = ""


class Build(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One file of a model. Its own `input`, if any, stands in place of the card's."""

    file: str
    precision: str = "fp32"
    sha256: str = ""
    url: str = ""
    input: InputSpec | None = None

    @property
    def engine(self) -> str:
        return ENGINE_BY_SUFFIX[Path(self.file).suffix.lower()]


class Card(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    name: str
    family: str
    builds: tuple[Build, ...]
    categories: Literal["coco80"] | tuple[str | Category, ...]
    input: InputSpec = InputSpec()
    decode: dict[str, Any] = {}  # the family validates it when the model is loaded
    description: str = ""
    license: str = ""
    source: str = ""
    facts: Facts = Facts()

    def category_list(self) -> tuple[Category, ...]:
        if isinstance(self.categories, str):
            return coco80()
        return tuple(
            Category(number, each) if isinstance(each, str) else each
            for number, each in enumerate(self.categories, 1)
        )


class Model(msgspec.Struct, frozen=True):
    """A card, the build chosen from it, and where that build's bytes are."""

    card: Card
    build: Build
    path: str
    sha256: str

    @property
    def input(self) -> InputSpec:
        return self.build.input or self.card.input


def user_folder() -> Path:
    """Where a person's own cards and downloaded weights live."""
    chosen = os.environ.get("MASKMILL_MODELS")
    if chosen:
        return Path(chosen)
    data = os.environ.get("XDG_DATA_HOME") or Path.home() / ".local" / "share"
    return Path(data) / "maskmill" / "models"


def read_card(path: Path) -> Card:
    try:
        card = msgspec.convert(tomllib.loads(path.read_text("utf-8")), Card, strict=False)
    except FileNotFoundError:
        raise ModelError(f"there is no model card {path}") from None
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError, msgspec.ValidationError) as exc:
        raise ModelError(f"the model card {path} cannot be read: {exc}") from exc
    _check(card, path)
    return card


def _check(card: Card, path: Path) -> None:
    if not card.builds:
        raise ModelError(f"the model card {path} names no build")
    for build in card.builds:
        if Path(build.file).suffix.lower() not in ENGINE_BY_SUFFIX:
            known = ", ".join(ENGINE_BY_SUFFIX)
            raise ModelError(
                f"the model card {path} names {build.file!r}, which is none of {known}"
            )
    categories = card.category_list()
    if not categories or len({each.id for each in categories}) < len(categories):
        raise ModelError(f"the model card {path} needs categories with an id each of their own")


def zoo_cards() -> Iterator[Path]:
    """The cards at hand: a person's own first, then the bundled ones."""
    for folder in (user_folder(), ZOO):
        yield from sorted(folder.glob("*.toml"))


def find_model(name: str) -> Model:
    """What `-m NAME` means: a card's name, a card's path, or a network with its card beside it."""
    path = _card_path(name)
    card = read_card(path)
    if Path(name).suffix.lower() in ENGINE_BY_SUFFIX:
        build = next((each for each in card.builds if each.file == Path(name).name), None)
        if build is None:
            raise ModelError(f"the model card {path} has no build {Path(name).name!r}")
        return _hashed(card, build, Path(name))
    folders = [path.parent, user_folder() / card.name, user_folder()]
    places = [(build, folder / build.file) for build in card.builds for folder in folders]
    for build, place in places:
        if place.is_file():
            return _hashed(card, build, place)
    first = card.builds[0]
    source = f"download it from {first.url} and " if first.url else ""
    raise ModelError(
        f"the weights of {card.name} are not here: {source}"
        f"put {first.file} into {user_folder() / card.name}"
    )


def _card_path(name: str) -> Path:
    suffix = Path(name).suffix.lower()
    if suffix == ".toml":
        return Path(name)
    if suffix in ENGINE_BY_SUFFIX:
        if not Path(name).is_file():
            raise ModelError(f"there is no model file {name}")
        beside = Path(name).with_suffix(".toml")
        if not beside.is_file():
            raise ModelError(f"{name} has no card: write {beside.name} beside it (see the README)")
        return beside
    cards = {path.stem: path for path in reversed(list(zoo_cards()))}
    if name not in cards:
        known = ", ".join(sorted(cards)) or "none"
        raise ModelError(f"there is no model {name!r}; the cards at hand: {known}")
    return cards[name]


def _hashed(card: Card, build: Build, path: Path) -> Model:
    try:
        with path.open("rb") as file:
            digest = hashlib.sha256()
            while chunk := file.read(1 << 20):
                digest.update(chunk)
    except OSError as exc:
        raise ModelError(f"the model file {path} cannot be read: {exc.strerror}") from exc
    if storable(str(path)) != str(path):
        raise ModelError(f"the path of the model file {shown(str(path))} is not UTF-8; rename it")
    found = digest.hexdigest()
    if build.sha256 and build.sha256 != found:
        raise ModelError(
            f"the model file {path} is not the one that its card names: "
            f"SHA-256 {found[:16]}… instead of {build.sha256[:16]}…"
        )
    return Model(card, build, str(path.resolve()), found)
