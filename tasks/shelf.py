"""Where models are: a person's own folder, the bundled zoo, and what `-m NAME` means there."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from pathlib import Path

from storage.uris import shown, storable
from tasks.cards import ENGINES_BY_SUFFIX, Build, Card, Compute, Model, ModelError, read_card

ZOO = Path(__file__).parent / "zoo"


def user_folder() -> Path:
    """Where a person's own cards and downloaded weights live."""
    chosen = os.environ.get("MASKMILL_MODELS")
    if chosen:
        return Path(chosen)
    data = os.environ.get("XDG_DATA_HOME") or Path.home() / ".local" / "share"
    return Path(data) / "maskmill" / "models"


def zoo_cards() -> Iterator[Path]:
    """The cards at hand: a person's own first, then the bundled ones."""
    for folder in (user_folder(), ZOO):
        yield from sorted(folder.glob("*.toml"))


def find_model(name: str, runtime: str = "", compute: Compute = "f32") -> Model:
    """What `-m NAME` means: a card's name, a card's path, or a network with its card beside it.

    Of the builds that are here (and that `runtime` can run) the card's first is taken.
    """
    path = _card_path(name)
    card = read_card(path)
    if Path(name).suffix.lower() in ENGINES_BY_SUFFIX:
        build = next((each for each in card.builds if each.file == Path(name).name), None)
        if build is None:
            raise ModelError(f"the model card {path} has no build {Path(name).name!r}")
        places = [(build, Path(name))]
    else:
        places = [(each, place) for each in card.builds for place in _places(path, card, each)]
    fitting = [(build, at) for build, at in places if not runtime or runtime in build.engines]
    if not fitting:
        raise ModelError(f"no build of {card.name} runs with {runtime}")
    for build, place in fitting:
        if place.is_file():
            engine = runtime or build.engines[0]
            if compute != "f32" and engine != "openvino":
                raise ModelError(f"{compute} is a precision of openvino, not of {engine}")
            return Model(card, build, *_hashed(build, place), engine, compute)
    first = fitting[0][0]
    source = f"download it from {first.downloads[0].url} and " if first.downloads else ""
    raise ModelError(
        f"the weights of {card.name} are not here: {source}"
        f"put {first.file} into {user_folder() / card.name}"
    )


def _places(path: Path, card: Card, build: Build) -> list[Path]:
    return [f / build.file for f in (path.parent, user_folder() / card.name, user_folder())]


def _card_path(name: str) -> Path:
    suffix = Path(name).suffix.lower()
    if suffix == ".toml":
        return Path(name)
    if suffix in ENGINES_BY_SUFFIX:
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


def _hashed(build: Build, path: Path) -> tuple[str, str]:
    """The path in full, and the SHA-256 of the bytes: the card's, where it names one."""
    if storable(str(path)) != str(path):
        raise ModelError(f"the path of the model file {shown(str(path))} is not UTF-8; rename it")
    found = digest(path)
    if build.sha256 and build.sha256 != found:
        raise ModelError(
            f"the model file {path} is not the one that its card names: "
            f"SHA-256 {found[:16]}… instead of {build.sha256[:16]}…"
        )
    return str(path.resolve()), found


def files_of(path: Path) -> list[Path]:
    """A build's files: OpenVINO keeps the weights of an .xml in a .bin beside it."""
    return [path, path.with_suffix(".bin")] if path.suffix.lower() == ".xml" else [path]


def digest(path: Path) -> str:
    sum_ = hashlib.sha256()
    for part in files_of(path):
        try:
            with part.open("rb") as file:
                while chunk := file.read(1 << 20):
                    sum_.update(chunk)
        except OSError as exc:
            raise ModelError(f"the model file {part} cannot be read: {exc.strerror}") from exc
    return sum_.hexdigest()
