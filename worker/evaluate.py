"""How good datasets are, by pycocotools: `maskmill eval`, COCO's AP against a ground truth; `models
reproduce`, that beside what a card says; and how far two of the same images are apart.
"""

import contextlib
import io
from collections import Counter, defaultdict
from collections.abc import Iterator
from pathlib import Path
from posixpath import basename
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from storage import NotFound, get
from tasks.annotate import annotate
from tasks.cards import Model
from tasks.exits import GATE_FAILED, OK, Said, record_lines, say
from tasks.folder import Folder, JobError, find_job
from tasks.inputs import InputError
from tasks.records import Selection, Wishes
from tasks.shelf import find_model

MATCH_IOU = 0.5
METRICS = ("ap", "ap50", "ap75", "ap_small", "ap_medium", "ap_large")
Record = dict[str, Any]


def evaluate(output: str, truth: str, more: str = "") -> Said:
    """What is measured, with `more` for a person below."""
    report = measure(find_job(output)[1], truth)
    event = {"event": "eval", "output": output, "truth": truth, **report}
    box, mask, mean = report["box"]["ap"], report["mask"]["ap"], report["mean_ap"]
    both = f"box AP {box:.3f}, mask AP {mask:.3f}, their mean {mean:.3f}"
    return Said(event, [*record_lines(report, empty="no truth of it"), both, *more.splitlines()])


def reproduce(
    name: str, coco: str, output: str, limit: int | None, tolerance: float, as_json: bool
) -> int | Said:
    truth, images = _truth_in(Path(coco))
    model = find_model(name)
    wishes = Wishes(model=name, output=output or f"reproduce-{model.card.name}")
    selection = Selection(limit=limit, images_root=str(images))
    code = say(annotate([str(truth)], selection, wishes, as_json), as_json)
    return code or _beside_card(model, wishes.output, str(truth), tolerance)


def _truth_in(coco: Path) -> tuple[Path, Path]:
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


def _beside_card(model: Model, output: str, truth: str, tolerance: float) -> Said:
    report = measure(find_job(output)[1], truth)
    measured = {f"{kind}_ap": report[kind]["ap"] for kind in ("box", "mask")}
    measured["mean_ap"] = report["mean_ap"]
    rows = list(_differences(model, measured))
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


def _differences(model: Model, measured: Record) -> Iterator[Record]:
    for number, accuracy in enumerate(model.build.ap):
        for figure, here in measured.items():
            said: float | None = getattr(accuracy, figure.removesuffix("_ap"))
            if said is not None:
                fact = {"figure": figure, "card": said, "difference": round(here - said, 4)}
                yield {**fact, "own": not number, "source": accuracy.source, "on": accuracy.on}


def measure(folder: Folder, truth_uri: str) -> Record:
    """Box and mask AP (their mean is what model zoos call mAP), by size and by class."""
    dataset, results = read_dataset(folder), read_dataset(folder, "results.json")
    truth = _read_truth(truth_uri)
    images = _image_ids(dataset, folder, truth)
    if not images:
        raise InputError(f"no image of {folder.uri} is in {truth_uri}, by name")
    categories = _category_ids(dataset, truth)
    mapped = [
        each
        | {"image_id": images[each["image_id"]], "category_id": categories[each["category_id"]]}
        for each in results
        if each["image_id"] in images and each["category_id"] in categories
    ]
    wanted = sorted(set(images.values()))
    report: Record = {
        "images": len(wanted),
        "truth_images_not_in_job": len(truth["images"]) - len(wanted),
        "results_left_out": len(results) - len(mapped),
    }
    with contextlib.redirect_stdout(io.StringIO()):  # pycocotools talks
        coco = COCO()
        coco.dataset = truth
        coco.createIndex()
        report["box"] = _measure(coco, mapped, wanted, "bbox")
        report["mask"] = _measure(coco, mapped, wanted, "segm")
    if report["mask"]["ap"] is None:
        raise InputError(f"{truth_uri} has nothing of the job's classes in the job's images")
    report["mean_ap"] = (report["box"]["ap"] + report["mask"]["ap"]) / 2
    return report


def read_dataset(folder: Folder, name: str = "instances.json") -> Any:
    try:
        return msgspec.json.decode(get(folder.file(name)))
    except NotFound as exc:
        raise JobError(f"{folder.uri} is not merged yet: {exc}") from exc


def _read_truth(uri: str) -> Record:
    try:
        truth = msgspec.json.decode(get(uri), type=Record)
    except (NotFound, msgspec.DecodeError) as exc:
        raise InputError(f"the ground truth {uri} cannot be read: {exc}") from exc
    for key in ("images", "annotations", "categories"):
        if not isinstance(truth.get(key), list):
            raise InputError(f"the ground truth {uri} is no COCO dataset: it has no {key}")
    for number, each in enumerate(truth["annotations"], 1):
        box = each.get("bbox")
        if "segmentation" not in each or not isinstance(box, list) or len(box) != 4:
            raise InputError(f"annotation {number} of {uri} has no bbox or no segmentation")
        each["id"] = number  # pycocotools takes a match with the id 0 for no match
        each.setdefault("iscrowd", 0)
        each.setdefault("area", each["bbox"][2] * each["bbox"][3])
    return truth


def _image_ids(dataset: Record, folder: Folder, truth: Record) -> dict[int, int]:
    """Our image ids to the truth's, by file name, or by its last part where that is of one alone.

    Failed inputs count, with no detections: an image that was not annotated was not found.
    """
    ours = {each["id"]: each["file_name"] for each in dataset["images"]}
    for line in get(folder.file("failures.jsonl")).splitlines():
        failure = msgspec.json.decode(line)
        ours[failure["image_id"]] = failure["file_name"]
    by_name = {each["file_name"]: each["id"] for each in truth["images"]}
    bases = Counter(map(basename, by_name))
    by_base = {basename(name): n for name, n in by_name.items() if bases[basename(name)] == 1}
    found = ((our, by_name.get(name, by_base.get(basename(name)))) for our, name in ours.items())
    return {our: their for our, their in found if their is not None}


def _category_ids(dataset: Record, truth: Record) -> dict[int, int]:
    """Our category ids to the truth's, by name."""
    by_name = {each["name"]: each["id"] for each in truth["categories"]}
    ours = {each["id"]: each["name"] for each in dataset["categories"]}
    found = {number: by_name[name] for number, name in ours.items() if name in by_name}
    if not found:
        some = ", ".join([*ours.values()][:5])
        raise InputError(f"no class of the job ({some}, …) is a category of the ground truth")
    return found


def _measure(truth: Any, results: list[Record], images: list[int], kind: str) -> Record:
    if not results:
        return dict.fromkeys(METRICS, 0.0) | {"by_class": {}, "mean_iou": None}
    judge = COCOeval(truth, truth.loadRes([dict(each) for each in results]), kind)
    judge.params.imgIds = images
    judge.evaluate()
    judge.accumulate()
    judge.summarize()
    report: Record = dict(zip(METRICS, map(_rounded, judge.stats[:6]), strict=True))
    precision = judge.eval["precision"]  # (IoU, recall, class, area, detections)
    report["by_class"] = {
        truth.cats[category]["name"]: _rounded(_mean(precision[:, :, place, 0, -1]))
        for place, category in enumerate(judge.params.catIds)
    }
    report["mean_iou"] = _mean_iou(judge)
    return report


def _mean(values: Any) -> float:
    """COCO's mean: -1 stands for no ground truth."""
    valid = values[values > -1]
    return float(valid.mean()) if valid.size else -1.0


def _rounded(value: float) -> float | None:
    return None if value < 0 else round(float(value), 4)


def _mean_iou(judge: Any) -> float | None:
    """Over the detections that match an instance at IoU 0.5, whatever their score."""
    overlaps: list[float] = []
    for each in judge.evalImgs:
        if each is None or list(each["aRng"]) != list(judge.params.areaRng[0]):
            continue
        place_in = each["image_id"], each["category_id"]
        truth = {real["id"]: number for number, real in enumerate(judge._gts[place_in])}
        ious = judge.ious[place_in]
        for place, match in enumerate(each["dtMatches"][0]):  # best score first, as in `ious`
            if match:
                overlaps.append(float(ious[place, truth[int(match)]]))
    return round(float(np.mean(overlaps)), 4) if overlaps else None


def compare(reference: Folder, other: Folder, threshold: float) -> Record:
    """What of one dataset the other has too, and how alike the pairs are.

    Instances that score at least `threshold` in either are counted; the partner of one may score
    less, so that what lies on the threshold is no difference.
    """
    ours, theirs = _by_image(reference), _by_image(other)
    counted = matched = flips = 0
    overlaps: list[float] = []
    drifts: list[float] = []
    for image in ours.keys() & theirs.keys():
        a, b = ours[image], theirs[image]
        counted += sum(found["score"] >= threshold for found in (*a, *b))
        overlap = _overlap(a, b)
        for i, j in _pairs(overlap):
            scores = a[i]["score"], b[j]["score"]
            matched += sum(score >= threshold for score in scores)
            if max(scores) >= threshold:
                overlaps.append(float(overlap[i, j]))
                drifts.append(abs(scores[0] - scores[1]))
                flips += a[i]["category_id"] != b[j]["category_id"]
    return {
        "images": len(ours.keys() & theirs.keys()),
        "images_in_one_only": len(ours.keys() ^ theirs.keys()),
        "instances": counted,
        "matched": round(matched / counted, 4) if counted else 1.0,
        "mask_iou": round(float(np.mean(overlaps)), 4) if overlaps else 1.0,
        "score_drift": round(float(np.mean(drifts)), 5) if drifts else 0.0,
        "score_drift_max": round(max(drifts, default=0.0), 5),
        "class_flips": flips,
    }


def _by_image(folder: Folder) -> dict[int, list[Record]]:
    dataset = read_dataset(folder)
    found: dict[int, list[Record]] = defaultdict(list)
    for each in dataset["annotations"]:
        found[each["image_id"]].append(each)
    return {each["id"]: found[each["id"]] for each in dataset["images"]}


def _overlap(a: list[Record], b: list[Record]) -> NDArray[np.float64]:
    """Mask IoU of each with each: (len(a), len(b)), empty where either is."""
    rles: Any = [[each["segmentation"] for each in side] for side in (a, b)]
    return np.asarray(coco_mask.iou(*rles, [0] * len(b)))


def _pairs(overlap: NDArray[np.float64]) -> Iterator[tuple[int, int]]:
    """The best match first, each instance once, whatever its class."""
    free = np.ones(overlap.shape, bool)
    for place in np.argsort(-overlap, axis=None, kind="stable"):
        i, j = (int(n) for n in np.unravel_index(place, overlap.shape))
        if overlap[i, j] < MATCH_IOU:
            return
        if free[i, j]:
            free[i, :] = free[:, j] = False
            yield i, j
