"""`maskmill eval`: how good a job's results are, as a table or as JSON."""

from __future__ import annotations

from collections.abc import Iterator
from importlib import import_module
from typing import Any

from tasks.annotate import need_worker_parts
from tasks.exits import OK
from tasks.folder import Folder, need_job
from tasks.progress import tell

_ROWS = {
    "ap": "AP (0.50:0.95)",
    "ap50": "AP50",
    "ap75": "AP75",
    "ap_small": "AP small",
    "ap_medium": "AP medium",
    "ap_large": "AP large",
    "mean_iou": "mean IoU of matches",
}


def evaluate(output: str, truth: str, as_json: bool) -> int:
    say_report(output, truth, as_json)
    return OK


def say_report(output: str, truth: str, as_json: bool, more: str = "") -> None:
    """Measure and say it, with `more` for a person below."""
    report = measure(output, truth)
    event = {"event": "eval", "output": output, "truth": truth, **report}
    tell(event, [*_lines(report), *more.splitlines()], as_json)


def measure(output: str, truth: str) -> dict[str, Any]:
    need_worker_parts()
    folder = Folder(output, need_job(output).run)
    report: dict[str, Any] = import_module("worker.evaluate").evaluate(folder, truth)
    return report


def _lines(report: dict[str, Any]) -> Iterator[str]:
    box, mask = report["box"], report["mask"]
    rows = {name: (box[key], mask[key]) for key, name in _ROWS.items()}
    for name, value in box["by_class"].items():
        rows[f"  {name}"] = value, mask["by_class"].get(name)
    width = max(map(len, rows))
    yield f"{'':{width}}    box   mask"
    for name, (of_boxes, of_masks) in rows.items():
        yield f"{name:{width}}  {_figure(of_boxes)}  {_figure(of_masks)}"
    yield (
        f"box AP {box['ap']:.3f}, mask AP {mask['ap']:.3f},"
        f" their mean {report['mean_ap']:.3f}, on {report['images']} images"
    )
    if report["truth_images_not_in_job"]:
        yield f"{report['truth_images_not_in_job']} images of the truth are not in the job"
    if report["results_left_out"]:
        yield f"{report['results_left_out']} results are of images or classes not in it"


def _figure(value: float | None) -> str:
    return "    –" if value is None else f"{value:.3f}"
