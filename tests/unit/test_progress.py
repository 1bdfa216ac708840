"""What is shown while a job runs: numbers that hold over restarts, and three faces."""

from __future__ import annotations

import io
import json
import sys
from contextlib import redirect_stderr, redirect_stdout

import pytest

from tasks.exits import choose_face
from tasks.progress import Tally, Watcher


def image(shard: int, detections: int = 2, **more: str) -> dict[str, object]:
    return {"event": "image", "shard": shard, "detections": detections, **more}


def test_images_of_a_lost_process_do_not_count() -> None:
    tally = Tally(total=10, done=0)
    for event in (image(0), image(0), {"event": "committed", "shard": 0}):
        tally.hear(event)
    tally.hear(image(1, failed="decode/empty"))
    assert [tally.numbers()[key] for key in ("done", "failures", "detections")] == [3, 1, 6]
    tally.hear({"event": "restart", "reason": "died"})
    assert [tally.numbers()[key] for key in ("done", "failures", "detections")] == [2, 0, 4]


def test_the_rate_is_of_this_run() -> None:
    """A job that goes on at 90 of 100 has not done 90 images in a second."""
    tally = Tally(total=100, done=90)
    assert tally.numbers()["images_per_s"] == 0
    assert tally.numbers()["eta_s"] is None
    tally.started -= 10.0
    for _ in range(5):
        tally.hear(image(3))
    assert tally.numbers()["images_per_s"] == pytest.approx(0.5, rel=0.05)
    assert tally.numbers()["eta_s"] == pytest.approx(10, abs=1)


def test_faces() -> None:
    assert choose_face(as_json=True) == "json"
    assert choose_face(as_json=False) == ("bar" if sys.stderr.isatty() else "lines")
    events = [image(0), image(0, failed="fetch/denied", uri="s3://b/x"), {"event": "merging"}]
    events.insert(1, {"event": "restart", "reason": "was killed by signal 11"})
    shown = {}
    for face in ("bar", "lines", "json"):
        out, err = io.StringIO(), io.StringIO()
        with redirect_stdout(out), redirect_stderr(err):
            watcher = Watcher(face, 2, 0)  # type: ignore[arg-type]
            with watcher.bar:
                for event in events:
                    watcher.hear(event)
        shown[face] = out.getvalue(), err.getvalue()
    assert shown["bar"][0] == shown["lines"][0] == "", "standard output is the summary's"
    for face in ("bar", "lines"):
        assert "killed by signal 11" in shown[face][1]
    assert "1/2 images" in shown["lines"][1]
    lines = [json.loads(line) for line in shown["json"][0].splitlines()]
    assert {"event": "image", "failed": "fetch/denied"}.items() <= lines[2].items()
    assert lines[-1]["event"] == "progress"
    assert lines[-1]["total"] == 2
