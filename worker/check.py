"""One build tried for real: loaded, run on a picture, and what it found drawn."""

import io
import time
from collections import Counter
from typing import Any

from PIL import Image

from storage import put
from tasks.cards import Model, ModelError
from tasks.inputs import InputError
from tasks.records import Item, Settings
from worker.detections import ModelMismatch
from worker.model import LoadedModel, load_model
from worker.settings import read_settings
from worker.shard import Stopwatch, annotate_one
from worker.sheet import SHOWN, drawn

Facts = dict[str, Any]


def check_build(model: Model, settings: Settings, picture: str, drawing: str) -> Facts:
    """What the build is and finds, or why it cannot be used; InputError for a bad picture."""
    start, watch = time.perf_counter(), Stopwatch()
    try:
        loaded = load_model(model, read_settings())
        seconds = time.perf_counter() - start
        outcome = annotate_one(Item(1, picture, picture), loaded, settings, watch)
    except (ModelError, ModelMismatch, ValueError) as exc:
        return {"fits": False, "problem": str(exc), **vars(exc)}  # expected, found
    if outcome.failure is not None:
        if outcome.failure.stage == "model":
            return {"fits": False, "problem": outcome.failure.message}
        raise InputError(f"{outcome.failure.uri}: {outcome.failure.message}")
    file = io.BytesIO()
    pixels = drawn(picture, outcome.annotations, settings)
    Image.fromarray(pixels).save(file, "JPEG", quality=90)
    put(drawing, file.getvalue())
    taken, all_of_them = getattr(loaded.runtime, "operators", (0, 0))  # by its delegate
    names = {each.id: each.name for each in settings.categories}
    return {
        "fits": True,
        "version": loaded.engine_version,
        "inputs": [str(each) for each in loaded.runtime.inputs],
        "outputs": [str(each) for each in loaded.runtime.outputs],
        "roles": _roles(loaded),
        "device": loaded.runtime.device
        + (f", {taken} of {all_of_them} operators" if taken else ""),
        "load_seconds": round(seconds, 3),
        "seconds": {stage: round(each, 4) for stage, each in watch.seconds.items()},
        "detections": dict(Counter(names[each.category_id] for each in outcome.annotations)),
        "drawn": drawing,
        "drawn_from_score": SHOWN,
    }


def _roles(loaded: LoadedModel) -> Facts:
    """The tensor that the family's decoder reads each of its parts from."""
    decode: Any = loaded.decode
    return {role: str(reading.tensor) for role, reading in decode.outputs.items()}
