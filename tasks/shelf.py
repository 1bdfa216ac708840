"""Where models are: a person's own folder, the bundled zoo, and what `-m NAME` means there."""

import hashlib
import os
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

from storage import CHUNK, NotFound, StorageError, get, list_entries, open_read, open_write, put
from storage.uris import basename, below, relative, shown, storable
from tasks.cards import ENGINES_BY_SUFFIX, Build, Card, Compute, Model, ModelError, read_card
from tasks.graph_file import files_of, need_files, read_graph
from tasks.recognise import derived_card

ZOO = Path(__file__).parent / "zoo"


def user_folder() -> Path:
    """Where a person's own cards and downloaded weights live."""
    chosen = os.environ.get("MASKMILL_MODELS", "")
    if chosen and not shared_folder():
        return Path(chosen)
    data = os.environ.get("XDG_DATA_HOME") or Path.home() / ".local" / "share"
    return Path(data) / "maskmill" / "models"


def shared_folder() -> str:
    """The folder that a team shares: MASKMILL_MODELS where that is a URI."""
    chosen = os.environ.get("MASKMILL_MODELS", "")
    return chosen if "://" in chosen else ""


def cache_folder() -> Path:
    cache = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(cache) / "maskmill" / "models"


def zoo_cards(name: str = "") -> Iterator[Path]:
    """The cards at hand, or those of one name: a person's own first, then shared, then bundled."""
    wanted = f"{name}.toml" if name else ""
    yield from _cards_in(user_folder(), wanted)
    for entry in list_entries(shared_folder()) if shared_folder() else ():
        path = relative(entry.uri, shared_folder())
        if path.endswith(".toml") and "/" not in path and wanted in ("", path):
            yield _shared_card(path)
    yield from _cards_in(ZOO, wanted)


def _cards_in(folder: Path, wanted: str) -> list[Path]:
    return sorted(each for each in folder.glob("*.toml") if wanted in ("", each.name))


def is_shared(card_path: Path) -> bool:
    return card_path.is_relative_to(cache_folder() / "cards")


def _shared_card(name: str) -> Path:
    """A card of the shared folder, in the cache under the hash of its bytes."""
    data = get(below(shared_folder(), name), max_bytes=1 << 20)
    place = cache_folder() / "cards" / hashlib.sha256(data).hexdigest() / name
    if not place.is_file():
        put(str(place), data)
    return place


def find_model(name: str, runtime: str = "", compute: Compute = "f32") -> Model:
    """What `-m NAME` means: a card's name, a card's path, or a network with its card beside it.

    Of the builds that are here (and that `runtime` can run) the card's first is taken.
    """
    path, card, builds = builds_at(name)
    fitting = [(build, at) for build, at in builds if not runtime or runtime in build.engines]
    if not fitting:
        raise ModelError(f"no build of {card.name} runs with {runtime}")
    build, place = next((each for each in fitting if each[1]), fitting[0])
    if place is None and is_shared(path) and Path(name).suffix.lower() != ".toml":
        place = fetch_shared(card, build)  # of a card that was asked for by its name
    if place is None:
        raise _absent(path, card, build)
    return model_at(card, build, place, runtime, compute)


def find_models(name: str, runtime: str, compute: Compute, mixed: bool) -> list[Model]:
    """What `-m NAME` means; mixed: then its other builds here, each by its usual engine, then all
    builds by the other engines."""
    chosen = find_model(name, runtime, compute)
    _, card, builds = builds_at(name)
    others = [
        model_at(card, build, place, engine, compute if engine == "openvino" else "f32")
        for build, place in builds
        for engine in build.engines
        if mixed and place and (build, engine) != (chosen.build, chosen.engine)
    ]
    if mixed and not others:
        only = f"there is {chosen.build.file} with {chosen.engine} alone"
        raise ModelError(f"--mixed needs a second build of {card.name} or a second engine: {only}")
    return [chosen, *sorted(others, key=lambda each: each.engine != each.build.engines[0])]


def builds_at(name: str) -> tuple[Path, Card, list[tuple[Build, Path | None]]]:
    """What find_card finds, and its builds with their files that are here; a network that was
    asked for itself is the only one.
    """
    path, card = find_card(name)
    own = Path(name).name if is_network(name) else ""
    builds = [each for each in card.builds if own in ("", each.file)]
    if not builds:
        raise ModelError(f"the model card {path} has no build {own!r}")
    return path, card, [(each, place_of(path, card, each)) for each in builds]


def find_card(name: str) -> tuple[Path, Card]:
    """The card of that name, at that path, or beside the network at that path, and where it lies.

    A network without one that tells all that a card says stands for it.
    """
    path = Path(name)
    if is_network(name):
        need_files(path)
        if not path.with_suffix(".toml").is_file():
            return path, derived_card(path)
        path = path.with_suffix(".toml")
    elif path.suffix.lower() != ".toml":
        named = next(zoo_cards(name), None)
        if named is None:
            known = ", ".join(sorted({each.stem for each in zoo_cards()})) or "none"
            raise ModelError(f"there is no model {shown(name)!r}; the cards at hand: {known}")
        path = named
    return path, read_card(path)


def is_network(name: str) -> bool:
    return Path(name).suffix.lower() in ENGINES_BY_SUFFIX


def _absent(path: Path, card: Card, build: Build) -> ModelError:
    usual = user_folder() / card.name / build.file
    place = next((each for each in _places(path, card, build) if each.is_file()), usual)
    missing = next(part for part in files_of(place) if not part.is_file())
    bring = any(each.url for each in build.downloads)
    return ModelError(
        f"the weights of {card.name} are not here: "
        f"{f'maskmill models pull {card.name} brings them, or ' if bring else ''}"
        f"put {missing.name} into {missing.parent}"
    )


def model_at(
    card: Card, build: Build, place: Path, engine: str = "", compute: Compute = "f32"
) -> Model:
    """A build whose file is here, to be run by `engine` or its usual one."""
    engine = engine or build.engines[0]
    if compute != "f32" and engine != "openvino":
        raise ModelError(f"{compute} is a precision of openvino, not of {engine}")
    if storable(str(place)) != str(place):
        raise ModelError(f"the path of the model file {shown(str(place))} is not UTF-8; rename it")
    if place.suffix.lower() == ".onnx":
        read_graph(place)  # it refuses weights in files that no hash would cover
    sha256 = digest(place)
    _require_same(build.sha256, sha256, f"the model file {place}")
    return Model(card, build, str(place.resolve()), sha256, engine, compute)


def place_of(path: Path, card: Card, build: Build) -> Path | None:
    """Where the file of a build lies, if it is here and whole."""
    return next(filter(_is_whole, _places(path, card, build)), None)


def _places(path: Path, card: Card, build: Build) -> list[Path]:
    places = [f / build.file for f in (path.parent, user_folder() / card.name, user_folder())]
    cached = cache_folder() / build.sha256 / Path(build.file).name
    return [*places, cached] if build.sha256 and is_shared(path) else places


def _is_whole(place: Path) -> bool:
    return all(part.is_file() for part in files_of(place))


def fetch_shared(card: Card, build: Build) -> Path:
    """A build's files out of the shared folder: in a folder of its name, or beside the card."""
    shared = shown(shared_folder())
    if not build.sha256:
        why = f"names no sha256 of {build.file}, which models in a shared folder need"
        raise ModelError(f"the card of {card.name} in {shared} {why}")
    for remote in (f"{card.name}/{build.file}", build.file):
        try:
            return cached_build(below(shared_folder(), remote), build.sha256)
        except NotFound:
            continue
    raise ModelError(f"{shared} has neither {card.name}/{build.file} nor {build.file}, whole")


def cached_build(uri: str, sha256: str) -> Path:
    """The network at `uri`, an .xml with its .bin, in the cache under the hash of its bytes.

    Nothing of it is there before all of it is right, and an .xml not before its .bin. Processes
    that fetch it at once each bring the same.
    """
    place = cache_folder() / sha256 / basename(uri)
    if _is_whole(place):
        return place
    with ExitStack() as written:
        _require_same(sha256, copy_build(uri, str(place), written), shown(uri))
    return place


def copy_build(uri: str, place: str, written: ExitStack) -> str:
    """The network at `uri` to a place that has it once `written` ends well; gives its SHA-256."""
    found, ending = hashlib.sha256(), Path(place).suffix
    for part in files_of(Path(place)):
        copy = written.enter_context(open_write(place.removesuffix(ending) + part.suffix))
        with open_read(uri.removesuffix(ending) + part.suffix) as stream:
            while chunk := stream.read(CHUNK):
                found.update(chunk)
                copy.write(chunk)
    return found.hexdigest()


def _require_same(expected: str, found: str, said: str) -> None:
    if expected and expected != found:
        why = f"SHA-256 {found[:16]}… instead of {expected[:16]}…"
        raise ModelError(f"{said} is not the one that its card names: {why}")


def digest(path: Path) -> str:
    """SHA-256 of all bytes of a build."""
    try:
        return checksum("sha256", *map(str, files_of(path)))
    except StorageError as exc:
        raise ModelError(f"the model file {exc}") from exc


def checksum(kind: str, *uris: str) -> str:
    """Of the bytes of these objects, one after the other."""
    found = hashlib.new(kind)
    for uri in uris:
        with open_read(uri) as file:
            while chunk := file.read(CHUNK):
                found.update(chunk)
    return found.hexdigest()
