"""The end of a run, as a table or as one JSON object."""

from __future__ import annotations

from typing import Any

from rich.console import Console
from rich.table import Table

from tasks.folder import Folder
from tasks.records import Job

FILES = ("instances.json", "results.json", "failures.jsonl", "run.json", "contact-sheet.jpg")


def summarise(folder: Folder, job: Job, run: dict[str, Any]) -> dict[str, Any]:
    counts = job.counts
    return {
        "output": folder.uri,
        "inputs": counts.items,
        "duplicates": counts.duplicates,
        "not_images": counts.not_images,
        "not_images_named": list(counts.not_images_named),
        **{
            key: run[key]
            for key in (
                "images",
                "annotations",
                "annotations_by_class",
                "failures",
                "failures_by_kind",
                "empty_masks_dropped",
                "seconds_by_stage",
            )
        },
        "files": {name: folder.file(name) for name in FILES},
    }


def print_summary(summary: dict[str, Any]) -> None:
    table = Table(show_header=False, box=None, pad_edge=False)
    table.add_row("images", f"{summary['images']} of {summary['inputs']} inputs")
    if summary["duplicates"]:
        table.add_row("given twice", f"{summary['duplicates']}, run once")
    if summary["not_images"]:
        table.add_row("not images", _some(summary["not_images"], summary["not_images_named"]))
    table.add_row("annotations", str(summary["annotations"]))
    for name, number in summary["annotations_by_class"].items():
        table.add_row("", f"{number} {name}")
    table.add_row("failures", str(summary["failures"]))
    for name, number in summary["failures_by_kind"].items():
        table.add_row("", f"{number} {name}")
    stages = summary["seconds_by_stage"].items()
    table.add_row("time by stage", ", ".join(f"{name} {value:.1f} s" for name, value in stages))
    for name, uri in summary["files"].items():
        table.add_row("files" if name == FILES[0] else "", uri)
    Console(soft_wrap=True, highlight=False).print(table)


def _some(number: int, named: list[str]) -> str:
    rest = "" if number == len(named) else ", …"
    return f"{number}: {', '.join(named)}{rest}"
