"""`maskmill models check`: every build that is here, with every engine that is installed."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import Any

from storage.uris import shown, storable
from tasks.annotate import need_worker_parts
from tasks.cards import Build, Card, Model, ModelError
from tasks.demo import IMAGES
from tasks.exits import OK, WRONG, ended
from tasks.inputs import absolute
from tasks.progress import say_json
from tasks.shelf import builds_at, is_here, model_at
from tasks.wishes import Wishes, settings_of

PICTURE = str(IMAGES / "000001.jpg")


def check(name: str, image: str, output: str, as_json: bool) -> int:
    return ended(lambda: _check(name, image, Path(storable(output)), as_json), as_json)


def _check(name: str, image: str, output: Path, as_json: bool) -> int:
    _, card, places = builds_at(name)
    reports = []
    for build in dict.fromkeys(build.file for build, _ in places):
        here = next((each for each in places if each[0].file == build and is_here(each[1])), None)
        if here is None:
            reports.append({"build": build, "fits": None, "problem": "it is not here"})
        else:
            for engine in here[0].engines:
                drawing = output / f"{build.replace('/', '-')}-{engine}.jpg"
                reports.append(try_build(card, *here, engine, image, drawing))
    usable = [each["fits"] for each in reports if each["fits"] is not None]
    code = OK if usable and all(usable) else WRONG
    if as_json:
        say_json({"event": "check", "model": card.name, "builds": reports, "exit": code})
    else:
        for report in reports:
            print_report(report)
    return code


def try_build(
    card: Card, build: Build, place: Path, engine: str, image: str, drawing: Path
) -> dict[str, Any]:
    """What came of it; `fits` is None where this machine cannot try it."""
    about = {"build": build.file, "engine": engine, "path": str(place)}
    try:
        need_worker_parts(engine)
    except ModelError as exc:
        return {**about, "fits": None, "problem": str(exc)}
    try:
        model: Model = model_at(card, build, place, engine)
        settings = settings_of(model, Wishes(model=card.name, output=""))
    except ModelError as exc:
        return {**about, "fits": False, "problem": str(exc)}
    picture = absolute(image) if image else PICTURE
    found = import_module("worker.check").check_build(model, settings, picture, str(drawing))
    return {**about, "picture": shown(picture), **found}


def print_report(report: dict[str, Any]) -> None:
    verdict = {True: "fits", False: "does not fit", None: "not tried"}[report["fits"]]
    engine = " ".join(filter(None, (report.get("engine"), report.get("version"))))
    print(f"{report['build']}{f' with {engine}' if engine else ''}: {verdict}")
    if not report["fits"]:
        print(f"  {report['problem']}")
        return
    found = report["detections"]
    listed = ", ".join(f"{number} {name}" for name, number in found.items()) or "nothing"
    print(f"  inputs      {', '.join(report['inputs'])}")
    print(f"  outputs     {', '.join(report['outputs'])}")
    print(f"  loaded in   {report['load_seconds']} s")
    print(f"  found       {sum(found.values())} on {report['picture']}: {listed}")
    print(f"  drawn       {report['drawn']}, from a score of {report['drawn_from_score']}")
