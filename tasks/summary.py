"""The end of a run, as a table or as one JSON object."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from tasks.folder import Folder
from tasks.records import Job

_OF_RUN = (
    *("images", "annotations", "annotations_by_class", "failures", "failures_by_kind"),
    *("empty_masks_dropped", "seconds_by_stage"),
)


def summarise(folder: Folder, job: Job, run: dict[str, Any]) -> dict[str, Any]:
    counts = job.counts
    return {
        "output": folder.uri,
        "inputs": run["inputs"],
        "duplicates": counts.duplicates,
        "not_images": counts.not_images,
        "not_images_named": list(counts.not_images_named),
        **{key: run[key] for key in _OF_RUN},
        "files": {name: folder.file(name) for name in [*run["files"], "run.json"]},
    }


def summary_lines(summary: dict[str, Any]) -> Iterator[str]:
    """Two columns, never cut: what a path says at its end matters."""
    return (f"{label:<15}{text}" for label, text in _rows(summary))


def _rows(summary: dict[str, Any]) -> Iterator[tuple[str, str]]:
    yield "images", f"{summary['images']} of {summary['inputs']} inputs"
    if summary["duplicates"]:
        yield "given twice", f"{summary['duplicates']}, run once"
    if summary["not_images"]:
        named = summary["not_images_named"]
        rest = ", …" if summary["not_images"] > len(named) else ""
        yield "not images", f"{summary['not_images']}: {', '.join(named)}{rest}"
    yield "annotations", str(summary["annotations"])
    for name, number in summary["annotations_by_class"].items():
        yield "", f"{number} {name}"
    yield "failures", str(summary["failures"])
    for name, number in summary["failures_by_kind"].items():
        yield "", f"{number} {name}"
    stages = summary["seconds_by_stage"].items()
    yield "time by stage", ", ".join(f"{name} {value:.1f} s" for name, value in stages)
    for number, uri in enumerate(summary["files"].values()):
        yield "" if number else "files", uri
