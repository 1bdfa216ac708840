"""`maskmill models check`: every build that is here, with every engine that is installed.

Each is tried for real: loaded, run on a picture, and what it found drawn.
"""

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from storage import put, shown, storable
from tasks.annotate import DEMO
from tasks.cards import Build, Card, Model, ModelError, need_worker_parts
from tasks.environment import WorkerSettings
from tasks.exits import OK, WRONG, Facts, Said, record_lines
from tasks.inputs import InputError, absolute
from tasks.opening import settings_of
from tasks.records import Item, Wishes
from tasks.shelf import builds_at, model_at
from worker.drawing import contact_sheet, drawn
from worker.model import load_model
from worker.shard import Means, Stopwatch, annotate


def check(name: str, image: str, output: str) -> Said:
    reports = list(try_builds(name, image, Path(storable(output))))
    usable = [each["fits"] for each in reports if each["fits"] is not None]
    code = OK if usable and all(usable) else WRONG
    event = {"event": "check", "model": name, "builds": reports}
    return Said(event, record_lines({"builds": reports}), code)


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
    picture = absolute(image) if image else str(DEMO / "000001.jpg")
    about: Facts = {"build": build.file, "engine": engine, "path": str(place), "fits": None}
    about["picture"] = shown(picture)
    try:
        need_worker_parts(engine)
        about["fits"] = False
        return about | _try(model_at(card, build, place, engine), picture, str(drawing))
    except (ModelError, ValueError) as exc:
        return about | {"problem": str(exc), **vars(exc)}  # expected, found


def _try(model: Model, picture: str, drawing: str) -> Facts:
    """What a build is and finds; raises what says why it cannot be used, or that the picture
    cannot."""
    settings = settings_of(model, Wishes(model=model.card.name, output=""))
    loaded, watch = load_model(model, WorkerSettings()), Stopwatch()
    items = [Item(1, picture, picture)]
    (outcome,) = annotate(items, Means(loaded, settings, watch))
    if outcome.failure is not None:
        failed = ModelError if outcome.failure.stage == "model" else InputError
        raise failed(f"{outcome.failure.uri}: {outcome.failure.message}")
    caption = f"{model.build.file} with {loaded.runtime.version}"
    put(drawing, contact_sheet([(caption, drawn(items[0], outcome.annotations, settings))]))
    taken, all_of_them = getattr(loaded.runtime, "operators", (0, 0))  # by its delegate
    names = {each.id: each.name for each in settings.categories}
    decode: Any = loaded.decode  # it says which tensor it reads each of its parts from
    return {
        "fits": True,
        "version": loaded.runtime.version,
        "inputs": [str(each) for each in loaded.runtime.inputs],
        "outputs": [str(each) for each in loaded.runtime.outputs],
        "roles": {role: str(reading.tensor) for role, reading in decode.outputs.items()},
        "device": loaded.runtime.device
        + (f", {taken} of {all_of_them} operators" if taken else ""),
        "seconds": {stage: round(each, 4) for stage, each in watch.seconds.items()},
        "detections": dict(Counter(names[each.category_id] for each in outcome.annotations)),
        "drawn": drawing,
    }
