"""`maskmill models reproduce`: a model's AP as measured here, beside what its card says."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tasks.annotate import annotate
from tasks.cards import Model
from tasks.evaluate import measure
from tasks.exits import OK, ended
from tasks.inputs import InputError
from tasks.progress import say_json
from tasks.records import Selection
from tasks.shelf import find_model
from tasks.wishes import Wishes

GATE_FAILED = 5


def reproduce(
    name: str, coco: str, output: str, limit: int | None, tolerance: float, as_json: bool
) -> int:
    def command() -> int:
        truth, images = _truth(Path(coco))
        model = find_model(name)
        wishes = Wishes(model=name, output=output or f"reproduce-{model.card.name}")
        selection = Selection(limit=limit, images_root=str(images))
        code = annotate([str(truth)], selection, wishes, as_json)
        return code or _judge(model, wishes.output, str(truth), tolerance, as_json)

    return ended(command, as_json)


def _truth(coco: Path) -> tuple[Path, Path]:
    """The ground truth and the folder of its images, in COCO's layout or with both in one."""
    for truth, images in (
        (coco / "annotations" / "instances_val2017.json", coco / "val2017"),
        (coco / "instances.json", coco),
    ):
        if truth.is_file() and images.is_dir():
            return truth, images
    raise InputError(
        f"{coco} holds neither annotations/instances_val2017.json with val2017/,"
        " nor an instances.json beside its images"
    )


def _judge(model: Model, output: str, truth: str, tolerance: float, as_json: bool) -> int:
    report = measure(output, truth)
    measured = {f"{kind}_ap": report[kind]["ap"] for kind in ("box", "mask")}
    rows = list(_rows(model, measured | {"mean_ap": report["mean_ap"]}))
    # Only the figure of the card's own input is a gate; the others are of other protocols.
    own = [row for row in rows if row["key"] == model.build.precision]
    code = OK if all(abs(row["difference"]) <= tolerance for row in own) else GATE_FAILED
    said = {
        "model": model.card.name,
        "build": model.build.file,
        "engine": model.engine,
        "images": report["images"],
        "left_out": report["truth_images_not_in_job"],
        "measured": measured | {"mean_ap": report["mean_ap"]},
        "comparison": rows,
        "tolerance": tolerance,
        "same": None if not own else code == OK,
        "output": output,
    }
    if as_json:
        say_json({"event": "reproduced", **said, "exit": code})
    else:
        _print(said)
    return code


def _rows(model: Model, measured: dict[str, float]) -> Iterator[dict[str, Any]]:
    for key, accuracy in model.card.facts.accuracy.items():
        if key.partition("/")[0] == model.build.precision:
            for figure, here in measured.items():
                said: float | None = getattr(accuracy, figure)
                if said is not None:
                    fact = {"key": key, "figure": figure, "card": said, "difference": here - said}
                    yield {**fact, "source": accuracy.source, "on": accuracy.on}


def _print(said: dict[str, Any]) -> None:
    left = f"; {said['left_out']} more are left out" if said["left_out"] else ""
    print(
        f"\n{said['model']}, {said['build']} with {said['engine']}, {said['images']} images{left}"
    )
    for figure, here in said["measured"].items():
        print(f"{figure:<10}{here:.4f} measured here")
        for row in said["comparison"]:
            if row["figure"] == figure:
                print(
                    f"{row['card']:16.4f} {row['source']}, {row['difference']:+.4f} ({row['on']})"
                )
    verdict = {None: "the card has no figure of this build", True: "as its card says"}
    print(f"{verdict.get(said['same'], 'not what its card says')}, within {said['tolerance']}")
