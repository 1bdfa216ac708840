"""What a person or a program sees while a job runs: a bar, plain lines, or JSON lines."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from typing import Any, Literal

import msgspec
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

Event = dict[str, Any]
Face = Literal["bar", "lines", "json"]

LINES_EVERY_S = 10.0
JSON_EVERY_S = 1.0
PLANNING_EVERY_S = 3.0


def choose_face(as_json: bool) -> Face:
    if as_json:
        return "json"
    return "bar" if sys.stderr.isatty() else "lines"


def say_json(event: Event) -> None:
    print(msgspec.json.encode(event).decode(), flush=True)


def planning_notice(face: Face) -> Callable[[int], None]:
    """Says now and then how many inputs are planned; a small plan is done before the first word."""
    last = time.monotonic()

    def say(planned: int) -> None:
        nonlocal last
        if time.monotonic() - last < PLANNING_EVERY_S:
            return
        last = time.monotonic()
        if face == "json":
            say_json({"event": "planning", "inputs": planned})
        else:
            print(f"planning: {planned:,} inputs so far", file=sys.stderr, flush=True)

    return say


class Tally:
    """What is done. Images of a shard that is lost with its process do not count."""

    def __init__(self, total: int, done: int) -> None:
        self.total, self.resumed = total, done
        self.images, self.failures, self.detections = done, 0, 0
        self._live: dict[int, list[int]] = {}
        self.started = time.monotonic()

    def hear(self, event: Event) -> None:
        if event["event"] == "image":
            live = self._live.setdefault(event["shard"], [0, 0, 0])
            live[0] += 1
            live[1] += "failed" in event
            live[2] += event["detections"]
        elif event["event"] == "committed":
            images, failures, detections = self._live.pop(event["shard"], [0, 0, 0])
            self.images += images
            self.failures += failures
            self.detections += detections
        elif event["event"] == "restart":
            self._live.clear()

    def numbers(self) -> Event:
        images, failures, detections = map(sum, zip([0, 0, 0], *self._live.values(), strict=True))
        done = self.images + images
        elapsed = max(time.monotonic() - self.started, 1e-6)
        rate = (done - self.resumed) / elapsed
        return {
            "done": done,
            "total": self.total,
            "images_per_s": round(rate, 2),
            "eta_s": round((self.total - done) / rate) if rate else None,
            "failures": self.failures + failures,
            "detections": self.detections + detections,
        }


class Watcher:
    """Hears the worker's events and shows them with one face. All but JSON goes to stderr."""

    def __init__(self, face: Face, total: int, done: int) -> None:
        self.tally = Tally(total, done)
        self._face = face
        self._last = 0.0
        self._bar = _bar(total, done) if face == "bar" else None
        self._show: Callable[[Event], None] = {
            "bar": self._move_bar,
            "lines": self._line,
            "json": self._json,
        }[face]

    def __enter__(self) -> Watcher:
        if self._bar is not None:
            self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.stop()

    def hear(self, event: Event) -> None:
        self.tally.hear(event)
        self._show(event)

    def _move_bar(self, event: Event) -> None:
        assert self._bar is not None
        numbers = self.tally.numbers()
        self._bar.update(
            self._bar.task_ids[0],
            completed=numbers["done"],
            rate=numbers["images_per_s"],
            eta=_duration(numbers["eta_s"]),
            failures=numbers["failures"],
            detections=numbers["detections"],
            description=_DOING.get(event["event"], "annotating"),
        )
        if event["event"] in _REMARKS:
            self._bar.console.print(_REMARKS[event["event"]](event), markup=False)

    def _line(self, event: Event) -> None:
        if event["event"] in _REMARKS:
            print(_REMARKS[event["event"]](event), file=sys.stderr)
        if not self._due(LINES_EVERY_S, event):
            return
        n = self.tally.numbers()
        print(
            f"{n['done']}/{n['total']} images, {n['images_per_s']} images/s,"
            f" {_duration(n['eta_s'])} left, {n['failures']} failures,"
            f" {n['detections']} detections",
            file=sys.stderr,
            flush=True,
        )

    def _json(self, event: Event) -> None:
        if event["event"] != "image" or "failed" in event:
            say_json(event)
        if self._due(JSON_EVERY_S, event):
            say_json({"event": "progress", **self.tally.numbers()})

    def _due(self, every_s: float, event: Event) -> bool:
        """Now and then, and once more when the last image is in."""
        now = time.monotonic()
        if now - self._last < every_s and event["event"] != "merging":
            return False
        self._last = now
        return True


_DOING = {"merging": "merging", "merged": "done", "stopping": "stopping"}


_REMARKS: dict[str, Callable[[Event], str]] = {
    "restart": lambda event: f"the worker process {event['reason']}; it is started again",
    "warning": lambda event: str(event["message"]),
}


def _bar(total: int, done: int) -> Progress:
    bar = Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[rate]} images/s"),
        TimeElapsedColumn(),
        TextColumn("{task.fields[eta]} left"),
        TextColumn("{task.fields[failures]} failed, {task.fields[detections]} found"),
        console=Console(stderr=True),
    )
    bar.add_task(
        "loading", total=total, completed=done, rate=0.0, eta="?", failures=0, detections=0
    )
    return bar


def _duration(seconds: int | None) -> str:
    if seconds is None:
        return "?"
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"
