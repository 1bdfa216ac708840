"""How the inputs of a shard come through: each ends once, in order, and one thread runs models."""

from __future__ import annotations

import threading
import weakref
from pathlib import Path
from typing import Any

import pytest

from storage.errors import BadUri, Unavailable
from tasks.environment import WorkerSettings
from tasks.records import Image, Item, ItemError, Problem, Settings
from tasks.shelf import find_model
from tests.fleet import until
from tests.graphs import write_model
from worker import onnx_runtime, shard
from worker.model import load_model, network
from worker.shard import Means, Outcome, Stopwatch, annotate

SETTINGS = Settings(categories=(), class_ids=(), max_bytes=1, max_pixels=1)
ITEMS = [Item(n, f"s3://bucket/{n}.jpg", f"{n}.jpg") for n in range(1, 41)]


class Steps:
    """Stand-ins for the steps: what each has seen, and what it raises."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.opened: list[int] = []
        self.threads: set[int] = set()
        self.raised: dict[int, Exception] = {}
        for step in (self.prepare, self.infer, self.finish):
            monkeypatch.setattr(shard, step.__name__, step)

    def prepare(self, item: Item, *_: Any) -> tuple[int, str]:
        self.opened.append(item.id)
        if item.id in self.raised:
            raise self.raised[item.id]
        return item.id, "tensor"

    def infer(self, number: int, *_: Any) -> tuple[int, str]:
        self.threads.add(threading.get_ident())
        if number % 10 == 7:
            raise ItemError("model", "failed", "the network failed on this image")
        return number, "raw"

    def finish(self, number: int, *_: Any) -> Outcome:
        return Outcome(Image(number, f"{number}.jpg", 4, 3))


@pytest.fixture
def steps(monkeypatch: pytest.MonkeyPatch) -> Steps:
    return Steps(monkeypatch)


def means(threads: int = 2, **more: Any) -> Means:
    model: Any = None
    return Means(model, SETTINGS, Stopwatch(), threads, **more)


def ids(outcomes: list[Outcome]) -> list[int]:
    return [each.image.id if each.image else each.failure.image_id for each in outcomes]  # type: ignore[union-attr]


@pytest.mark.parametrize("threads", [1, 2, 7])
def test_each_input_ends_once_and_in_order(steps: Steps, threads: int) -> None:
    steps.raised = {3: ItemError("decode", "empty", "it is empty")}
    gone = Item(5, "s3://bucket/5.mp4#t=3", "5.jpg", problem=Problem("fetch", "no-frame", "none"))
    items = [*ITEMS[:4], gone, *ITEMS[5:]]

    def refused(item: Item) -> str:
        if item.id == 9:
            raise BadUri("gs://bucket/9.jpg", "is not a usable URI")
        return "it may not be read" if item.id == 8 else ""

    asked = means(threads, refused=refused)
    outcomes = list(annotate(items, asked))
    assert ids(outcomes) == list(range(1, 41))
    kinds = {each.image_id: f"{each.stage}/{each.kind}" for o in outcomes if (each := o.failure)}
    wanted = {3: "decode/empty", 5: "fetch/no-frame", 8: "fetch/refused", 9: "fetch/bad-uri"}
    assert kinds == wanted | dict.fromkeys((7, 17, 27, 37), "model/failed")
    assert sorted(steps.opened) == sorted({*range(1, 41)} - {5, 8, 9})


def ended(asked: Means, found_away_after: int = 0) -> list[Outcome]:
    """What comes before a store's error, which has to come; it may be somebody else's find."""
    ended: list[Outcome] = []
    try:
        for outcome in annotate(ITEMS, asked):
            ended.append(outcome)
            if len(ended) == found_away_after:
                asked.away.append(Unavailable("s3://bucket/out"))
    except Unavailable:
        return ended
    raise AssertionError("nothing was raised")


def test_what_is_fetched_is_finished_when_a_store_goes_away(steps: Steps) -> None:
    steps.raised = {4: Unavailable("s3://bucket/4.jpg")}
    assert ids(ended(means())) == sorted({*steps.opened} - {4})
    assert len(steps.opened) <= 4 + 4, "those that were under way, and no more"


def test_nothing_more_is_fetched_once_a_store_is_found_away(steps: Steps) -> None:
    assert ids(ended(means(), 3)) == sorted(steps.opened)
    assert len(steps.opened) <= 3 + 4


def test_the_runtime_has_one_thread_for_all_shards(steps: Steps) -> None:
    for threads in (1, 4):
        assert len(list(annotate(ITEMS[:6], means(threads)))) == 6
    assert len(steps.threads) == 1
    assert threading.get_ident() not in steps.threads


def test_a_tensor_is_let_go_once_the_network_has_run(
    steps: Steps, monkeypatch: pytest.MonkeyPatch
) -> None:
    tensors: dict[int, weakref.ref[Any]] = {}

    def prepare(item: Item, *_: Any) -> tuple[int, Any]:
        tensor = threading.Event()  # whatever can be watched
        tensors[item.id] = weakref.ref(tensor)
        return item.id, tensor

    def finish(number: int, *_: Any) -> Outcome:
        until(lambda: tensors[number]() is None, 10, "the tensor is gone")
        return Outcome(Image(number, f"{number}.jpg", 4, 3))

    monkeypatch.setattr(shard, "prepare", prepare)
    monkeypatch.setattr(shard, "finish", finish)
    assert len(list(annotate(ITEMS[:6], means()))) == 6


def test_a_network_is_loaded_by_the_thread_that_runs_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    threads: list[int] = []
    real = onnx_runtime.load

    def load(*args: Any) -> Any:
        threads.append(threading.get_ident())
        return real(*args)

    monkeypatch.setattr(onnx_runtime, "load", load)
    load_model(find_model(str(write_model(tmp_path, "b"))), WorkerSettings())
    assert threads == [network.submit(threading.get_ident).result()]
