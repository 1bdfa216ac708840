"""`maskmill models check`: every build that is here, with every engine that is installed."""

from collections.abc import Iterator
from importlib import import_module
from pathlib import Path

from storage.uris import shown, storable
from tasks.annotate import need_worker_parts
from tasks.cards import Build, Card, Model, ModelError
from tasks.demo import IMAGES
from tasks.exits import OK, WRONG
from tasks.inputs import absolute
from tasks.progress import tell
from tasks.shelf import builds_at, model_at
from tasks.wishes import Wishes, settings_of
from tasks.zoo_table import Facts, record_lines

PICTURE = str(IMAGES / "000001.jpg")


def check(name: str, image: str, output: str, as_json: bool) -> int:
    reports = list(try_builds(name, image, Path(storable(output))))
    usable = [each["fits"] for each in reports if each["fits"] is not None]
    code = OK if usable and all(usable) else WRONG
    event = {"event": "check", "model": name, "builds": reports, "exit": code}
    tell(event, (line for each in reports for line in report_lines(each)), as_json)
    return code


def try_builds(name: str, image: str, folder: Path) -> Iterator[Facts]:
    """What came of each build of a model with each engine."""
    _, card, builds = builds_at(name)
    for build, place in builds:
        if place is None:
            yield {"build": build.file, "fits": None, "problem": "it is not here"}
            continue
        for engine in build.engines:
            drawing = folder / f"{build.file.replace('/', '-')}-{engine}.jpg"
            yield try_build(card, build, place, engine, image, drawing)


def try_build(
    card: Card, build: Build, place: Path, engine: str, image: str, drawing: Path
) -> Facts:
    """What came of it; `fits` is None where this machine cannot try it."""
    about: Facts = {"build": build.file, "engine": engine, "path": str(place), "fits": None}
    try:
        need_worker_parts(engine)
        about["fits"] = False
        model: Model = model_at(card, build, place, engine)
        settings = settings_of(model, Wishes(model=card.name, output=""))
    except ModelError as exc:
        return about | {"problem": str(exc)}
    picture = absolute(image) if image else PICTURE
    found: Facts = import_module("worker.check").check_build(model, settings, picture, str(drawing))
    return about | {"picture": shown(picture)} | found


def report_lines(report: Facts) -> Iterator[str]:
    verdict = {True: "fits", False: "does not fit", None: "not tried"}[report["fits"]]
    engine = " ".join(filter(None, (report.get("engine"), report.get("version"))))
    yield f"{report['build']}{f' with {engine}' if engine else ''}: {verdict}"
    said = ("build", "engine", "version", "fits", "path", "expected", "found")
    yield from record_lines({k: v for k, v in report.items() if k not in said}, "  ")
