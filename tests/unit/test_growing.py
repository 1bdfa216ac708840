"""A dataset that a schedule grows is what a fresh run over the same objects makes, but for ids."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import tasks.segments
from storage import get, put
from tasks.cards import Build, Card, Model
from tasks.folder import Folder
from tasks.inputs import Found
from tasks.ledger import compared, ledger_uri, settle
from tasks.merge import is_merged, merge_all
from tasks.records import (
    Annotation,
    Asked,
    Counts,
    Failure,
    Image,
    Item,
    Job,
    Problem,
    ProducedBy,
    RleMask,
    Selection,
    Settings,
    Shard,
    VideoFrame,
    encode,
    encode_lines,
)
from worker.audit import problems

CARD = Card("canned", "yolact", (Build("canned.onnx"),), ("ash",))
BY = ProducedBy("0" * 64, "onnx", "1", "fp32", "", "avx2")
MASK = RleMask((4, 4), "04<")
OBJECTS = ("a.jpg", "b.jpg", "c.jpg", "v.mp4", "w.mp4")
NOTHING_DRAWN = lambda folder, job, picks: False  # noqa: E731


@dataclass
class Run:
    """What a schedule's run meets, and how its parts and merges come to lie."""

    listed: dict[str, int]  # the version of each object that is there
    broken: set[str]  # of these nothing can be fetched this time
    part: int = 2  # items a part
    merged: int = 1  # there is a merge after each so many parts; 0: none


def runs() -> st.SearchStrategy[list[Run]]:
    listed = st.dictionaries(st.sampled_from(OBJECTS), st.integers(0, 3))
    broken = st.sets(st.sampled_from(OBJECTS), max_size=2)
    return st.lists(
        st.builds(Run, listed, broken, st.integers(1, 4), st.integers(0, 3)), max_size=5
    )


def lot(*about: object) -> int:
    return hashlib.sha256(repr(about).encode()).digest()[0]


def frames(name: str, version: int) -> list[str]:
    """The names of what an object has, as the dataset knows them."""
    if name.endswith(".jpg"):
        return [name]
    count = lot("frames", name, version) % 4
    return [f"{name}/frame_{number:06d}.jpg" for number in range(count)] or [name]


def ends(name: str, version: int) -> dict[str, str | list[float]]:
    """How each part of an object ends when it can be fetched: by scores, or why not."""
    found: dict[str, str | list[float]] = {}
    for number, each in enumerate(frames(name, version)):
        chance = lot(name, version, number)
        if name.endswith(".mp4") and each == name:
            found[each] = "decode/no-frame"
        elif chance % 5 == 0:
            found[each] = "decode/damaged"
        else:
            found[each] = [0.1 * version + 0.01 * n for n in range(chance % 3)]
    return found


@dataclass
class Grown:
    """A job into which the runs of a schedule go, with what was seen of it at each merge."""

    place: Path
    absent: str = "dropped"
    runs: int = 0
    image_ids: dict[str, int] = field(default_factory=dict)
    annotations: dict[int, str] = field(default_factory=dict)  # ids are for ever

    def __post_init__(self) -> None:
        self.folder = Folder(str(self.place / "out"), "run")
        self.ledger = ledger_uri(str(self.place / "state"), "nightly")
        model = Model(CARD, CARD.builds[0], "", "0" * 64, "onnx")
        wanted = Settings(
            categories=CARD.category_list(), class_ids=(1,), max_bytes=1 << 20, max_pixels=1 << 20
        )
        asked = Asked((), Selection(), model, wanted, 64)
        self.job = Job("run", asked, Counts(items=0, shards=0), open=True)
        put(self.folder.file("job.json"), encode(self.job))

    def run(self, run: Run) -> set[str]:
        """What it took."""
        self.runs += 1
        found = [Found(f"s3://b/{name}", name, f"v{v}") for name, v in run.listed.items()]
        taken = list(compared(found, self.ledger, self.absent))
        items = list(self._items(taken, run))
        turn = f"{1_800_000_000 + self.runs:08x}{lot('nightly'):08x}"
        for number, at in enumerate(range(0, len(items), run.part), 1):
            chunk = [
                Item(n, each.uri, each.file_name, each.version, each.frame, each.problem)
                for n, each in enumerate(items[at : at + run.part], 1)
            ]
            self._done(turn, chunk, run)
            if run.merged and number % run.merged == 0:
                self.merge()
        settle(self.ledger, self.runs, self.folder, turn)
        return {each.file_name for each in taken if each.problem is None}

    def _items(self, taken: list[Found], run: Run) -> Iterator[Item]:
        for each in taken:
            if each.problem or each.file_name.endswith(".jpg"):
                yield Item(1, each.uri, each.file_name, each.version, problem=each.problem)
                continue
            for index, name in enumerate(frames(each.file_name, run.listed[each.file_name])):
                if name == each.file_name:
                    stage = "fetch" if each.file_name in run.broken else "decode"
                    problem = Problem(stage, "no-frame", "it has none")
                    yield Item(1, f"{each.uri}#t=1.5", name, each.version, problem=problem)
                else:
                    frame = VideoFrame(index, index, index / 4, 0)
                    yield Item(1, f"{each.uri}#frame={index}", name, each.version, frame)

    def _done(self, turn: str, items: list[Item], run: Run) -> None:
        """Write a part and what a worker makes of it."""
        data = encode_lines(items)
        part = turn + hashlib.sha256(data).hexdigest()[:24]
        put(self.folder.plan(part), data, create_only=True)
        images, annotations, failures = [], [], []
        for item in items:
            name = item.file_name.partition("/")[0]
            end: Any = "fetch/denied"
            if item.problem:
                end = f"{item.problem.stage}/{item.problem.kind}"
            elif name not in run.broken or (item.frame and item.frame.index):  # its first frame
                end = ends(name, run.listed[name])[item.file_name]
            if isinstance(end, str):
                failures.append(Failure(item.id, item.uri, item.file_name, *end.split("/"), "so"))
            else:
                images.append(Image(item.id, item.file_name, 4, 4))
                for score in end:
                    annotations.append(Annotation(item.id, 1, (0.0, 0.0, 1.0, 4.0), 4, MASK, score))
        shard = Shard(part, BY, tuple(images), tuple(annotations), tuple(failures))
        put(self.folder.shard(part), encode(shard), create_only=True)

    def merge(self) -> dict[str, Any]:
        """The dataset by names: of each image its annotations, of each failure why; checked."""
        merge_all(self.folder, self.job, NOTHING_DRAWN)
        assert is_merged(self.folder, self.job)
        dataset = json.loads(get(self.folder.file("instances.json")))
        by_id = {each["id"]: each["file_name"] for each in dataset["images"]}
        found: dict[str, Any] = {name: [] for name in by_id.values()}
        assert len(found) == len(by_id) == len(dataset["images"])
        for id, name in by_id.items():
            assert self.image_ids.setdefault(name, id) == id
        for each in dataset["annotations"]:
            assert self.annotations.setdefault(each["id"], repr(each)) == repr(each)
            found[by_id[each["image_id"]]].append(each["score"])
        ids = [each["id"] for each in dataset["annotations"]]
        assert sorted(set(ids)) == ids
        for line in get(self.folder.file("failures.jsonl")).splitlines():
            failure = json.loads(line)
            assert failure["file_name"] not in found
            found[failure["file_name"]] = f"{failure['stage']}/{failure['kind']}"
        for each in dataset["images"]:
            if "vanished" in each:
                found[each["file_name"]].append("vanished")
        return found


class Plain:
    """What is to come of a history, an object at a time."""

    def __init__(self) -> None:
        self.known: dict[str, tuple[int, bool]] = {}  # of each object its version, and if it failed
        self.there: dict[str, dict[str, Any]] = {}
        self.seen: dict[str, bool] = {}  # whether it was listed last time

    def run(self, run: Run) -> set[str]:
        taken = set()
        for name, version in run.listed.items():
            if self.known.get(name) == (version, False):
                continue
            taken.add(name)
            found: dict[str, Any] = ends(name, version)
            if name in run.broken:
                first = next(iter(found))
                found[first] = (
                    "fetch/no-frame" if found[first] == "decode/no-frame" else "fetch/denied"
                )
            self.known[name] = version, name in run.broken
            self.there[name] = found
        self.seen = {name: name in run.listed for name in self.known}
        return taken

    def dataset(self, absent: str) -> dict[str, Any]:
        whole: dict[str, Any] = {}
        for name, found in self.there.items():
            for each, end in found.items():
                if self.seen[name]:
                    whole[each] = end
                elif absent == "vanished" and not isinstance(end, str):
                    whole[each] = [*end, "vanished"]
        return whole


@given(history=runs(), absent=st.sampled_from(["vanished", "dropped"]), size=st.integers(300, 2000))
@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_any_history_ends_as_a_fresh_run_over_what_is_there(
    tmp_path_factory: pytest.TempPathFactory, history: list[Run], absent: str, size: int
) -> None:
    grown, plain = Grown(tmp_path_factory.mktemp("grown"), absent), Plain()
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(tasks.segments, "MOST_BYTES", size)  # so that a merge makes many segments
        patched.setattr("os.fsync", lambda file: None)
        for run in history:
            assert grown.run(run) == plain.run(run)
            if run.merged:
                assert grown.merge() == plain.dataset(absent)
        assert grown.merge() == plain.dataset(absent)
    assert list(problems(grown.folder, grown.job)) == []
