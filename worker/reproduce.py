"""`maskmill models reproduce`: a model's AP as measured here, beside what its card says."""

from collections.abc import Iterator
from pathlib import Path

from tasks.annotate import annotate
from tasks.cards import Model
from tasks.exits import GATE_FAILED, OK
from tasks.folder import find_job
from tasks.inputs import InputError
from tasks.progress import Said, say
from tasks.records import Selection, Wishes
from tasks.shelf import find_model
from tasks.zoo_table import record_lines
from worker.evaluate import Record, measure


def reproduce(
    name: str, coco: str, output: str, limit: int | None, tolerance: float, as_json: bool
) -> int | Said:
    truth, images = _truth(Path(coco))
    model = find_model(name)
    wishes = Wishes(model=name, output=output or f"reproduce-{model.card.name}")
    selection = Selection(limit=limit, images_root=str(images))
    code = say(annotate([str(truth)], selection, wishes, as_json), as_json)
    return code or _judge(model, wishes.output, str(truth), tolerance)


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


def _judge(model: Model, output: str, truth: str, tolerance: float) -> Said:
    report = measure(find_job(output)[1], truth)
    measured = {f"{kind}_ap": report[kind]["ap"] for kind in ("box", "mask")}
    measured["mean_ap"] = report["mean_ap"]
    rows = list(_rows(model, measured))
    # Only the figures of this input are a gate; the others are of other protocols.
    own = [abs(row["difference"]) for row in rows if row["own"]]
    code = OK if max(own, default=0) <= tolerance else GATE_FAILED
    said = {
        "event": "reproduced",
        "model": model.card.name,
        "build": model.build.file,
        "engine": model.engine,
        "images": report["images"],
        "left_out": report["truth_images_not_in_job"],
        "measured": measured,
        "comparison": rows,
        "tolerance": tolerance,
        "same": code == OK if own else None,
        "output": output,
    }
    return Said(said, record_lines(said), code)


def _rows(model: Model, measured: Record) -> Iterator[Record]:
    for number, accuracy in enumerate(model.build.ap):
        for figure, here in measured.items():
            said: float | None = getattr(accuracy, figure.removesuffix("_ap"))
            if said is not None:
                fact = {"figure": figure, "card": said, "difference": round(here - said, 4)}
                yield {**fact, "own": not number, "source": accuracy.source, "on": accuracy.on}
