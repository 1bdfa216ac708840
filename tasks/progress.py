"""What a person or a program sees while a job runs: a bar, plain lines, or JSON lines."""

import sys
import time
from collections import Counter
from datetime import timedelta
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TimeElapsedColumn

from tasks.exits import Face, say_json

Event = dict[str, Any]

EVERY_S = {"bar": 0.0, "lines": 10.0, "json": 1.0}


class Tally:
    """What is done. Images of a shard that is lost with its process do not count."""

    def __init__(self, total: int, done: int) -> None:
        self.total, self.resumed = total, done
        self.started = time.monotonic()
        self._committed, self._in_hand = Counter(done=done), Counter[str]()

    def hear(self, event: Event) -> None:
        if event["event"] == "image":
            failed = int("failed" in event)
            self._in_hand.update(done=1, failures=failed, detections=event["detections"])
        elif event["event"] == "committed":
            self._committed.update(self._in_hand)
        if event["event"] in ("committed", "restart"):
            self._in_hand.clear()

    def numbers(self) -> Event:
        now = self._committed + self._in_hand
        rate = (now["done"] - self.resumed) / max(time.monotonic() - self.started, 1e-6)
        return {
            "done": now["done"],
            "total": self.total,
            "images_per_s": round(rate, 2),
            "eta_s": round((self.total - now["done"]) / rate) if rate else None,
            "failures": now["failures"],
            "detections": now["detections"],
        }


class Watcher:
    """Hears the worker's events and shows them with one face. All but JSON goes to stderr."""

    def __init__(self, face: Face, total: int, done: int) -> None:
        self.tally = Tally(total, done)
        self._face, self._last = face, 0.0
        columns = (BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
        said = ("{task.description}", *columns, "{task.fields[pace]}")
        self.bar = Progress(*said, console=Console(stderr=True), disable=face != "bar")
        self._task = self.bar.add_task("loading", total=total, completed=done, pace="")

    def hear(self, event: Event) -> None:
        self.tally.hear(event)
        kind, now = event["event"], time.monotonic()
        if self._face == "json" and (kind != "image" or "failed" in event):
            say_json(event)
        elif self._face != "json" and kind in _REMARKS:
            said = _REMARKS[kind].format(**event)
            self.bar.console.print(said, markup=False, highlight=False, soft_wrap=True)
        # Now and then, and once more when the last image is in.
        if now - self._last >= EVERY_S[self._face] or kind == "merging":
            self._last = now
            self._show(_DOING.get(kind, "annotating"), self.tally.numbers())

    def _show(self, doing: str, numbers: Event) -> None:
        done, pace = numbers["done"], _pace(numbers)
        if self._face == "json":
            say_json({"event": "progress", **numbers})
        elif self._face == "lines":
            print(f"{done}/{numbers['total']} images, {pace}", file=sys.stderr, flush=True)
        else:
            self.bar.update(self._task, completed=done, description=doing, pace=pace)


_DOING = {"merging": "merging", "merged": "done", "stopping": "stopping"}
_REMARKS = {"restart": "the worker process {reason}; it is started again", "warning": "{message}"}


def _pace(numbers: Event) -> str:
    left = "?" if numbers["eta_s"] is None else str(timedelta(seconds=numbers["eta_s"]))
    return (
        f"{numbers['images_per_s']} images/s, {left.removeprefix('0:')} left,"
        f" {numbers['failures']} failed, {numbers['detections']} found"
    )
