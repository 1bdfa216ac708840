"""Open jobs and bare clients: messages made without maskmill, over a real Redis."""

from __future__ import annotations

import hashlib
import json
import os
import re
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Iterator
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
from celery import Celery

from storage import get
from tasks.folder import Folder, missing_shards, parts, read_job
from tasks.inputs import find
from tasks.ledger import compared, ledger_uri, settle
from tasks.merge import is_merged, merge_all
from tasks.open_jobs import append
from tasks.reconcile import look_after
from tasks.records import Routing
from tasks.state import KnownJob
from tests.fleet import Fleet, fleet, until
from tests.graphs import write_model
from tests.pictures import jpeg, write_folder
from tests.running import environment, maskmill
from worker.per_image import per_image_uri

# `make chaos` asks for 20,000
SINGLES = int(os.environ.get("MASKMILL_TEST_SINGLES", "300"))

# What a code base without maskmill has: Celery, and the names in our documentation.
BARE = """
import json, sys
for name in ("storage", "tasks", "worker"):
    sys.modules[name] = None
from celery import Celery
with Celery(broker=sys.argv[1]) as app:
    for line in sys.stdin:
        task, kwargs = json.loads(line)
        app.send_task(task, kwargs=kwargs)
"""


def send_bare(broker: str, cwd: Path, *messages: tuple[str, dict[str, Any]]) -> None:
    lines = "".join(json.dumps(message) + "\n" for message in messages)
    subprocess.run(
        [sys.executable, "-I", "-c", BARE, broker],
        input=lines,
        text=True,
        check=True,
        cwd=cwd,
        timeout=300,
        env=environment(None),
    )


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_folder(tmp_path_factory.mktemp("photos"), 12)


@pytest.fixture(scope="module")
def card(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(write_model(tmp_path_factory.mktemp("model"), "b"))


@pytest.fixture
def fleet_here(tmp_path: Path) -> Iterator[Fleet]:
    with fleet(tmp_path / "fleet") as made:
        yield made


def images(photos: Path) -> list[str]:
    return sorted(str(path) for path in photos.rglob("*.jpg"))


def folder_of(output: Path) -> Folder:
    job = read_job(str(output))
    assert job is not None
    return Folder(str(output), job.run)


def await_parts(output: Path, count: int, seconds: float = 120.0) -> None:
    """Until that many parts have come and each has its shard object."""

    def done() -> bool:
        for kind, suffix in (("plan", ".jsonl"), ("shards", ".json")):
            if sum(path.endswith(suffix) for path in _names(output / kind)) < count:
                return False
        job = read_job(str(output))
        return job is not None and not missing_shards(Folder(str(output), job.run), job)

    until(done, seconds, f"{count} parts of {output}")


def _names(folder: Path) -> list[str]:
    """The names of a run's objects of a kind."""
    return [name for run in folder.glob("*") for name in os.listdir(run)]


def dataset(output: Path) -> dict[str, Any]:
    return json.loads((output / "instances.json").read_bytes())


def records(found: dict[str, Any]) -> dict[str, Any]:
    """Each image with its annotations, without the ids, which depend on what else is there."""
    names = {each["id"]: each["file_name"] for each in found["images"]}
    by_name: dict[str, Any] = {}
    for each in found["images"]:
        by_name[each["file_name"].rpartition("/")[2]] = [{**each, "id": 0, "file_name": ""}]
    for each in found["annotations"]:
        last = names[each["image_id"]].rpartition("/")[2]
        by_name[last].append({**each, "id": 0, "image_id": 0})
    return by_name


def test_a_bare_client_has_a_job_planned(
    fleet_here: Fleet, tmp_path: Path, photos: Path, card: str
) -> None:
    local, out = tmp_path / "local", tmp_path / "out"
    assert maskmill("annotate", photos, "-m", card, "-o", local, "--shard-size", 5).code == 0
    fleet_here.worker()
    wish = {"inputs": [f"{photos}/"], "model": card, "output": str(out)}
    wish |= {"options": {"shard_size": 5, "priority": "high"}, "schema": 1}
    send_bare(fleet_here.broker, tmp_path, ("maskmill.submit", wish))
    assert fleet_here.await_merged(out) == (local / "instances.json").read_bytes()


def test_single_inputs_of_a_bare_client_with_repeats(
    fleet_here: Fleet, tmp_path: Path, card: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Merged three times on the way: ids never change, each input is there once, few reads."""
    pictures = [jpeg(seed) for seed in range(10)]
    uris = []
    for number in range(SINGLES):
        below = tmp_path / "in" / f"{number % 100:02}"
        below.mkdir(parents=True, exist_ok=True)
        (below / f"{number:05}.jpg").write_bytes(pictures[number % 10])
        uris.append(str(below / f"{number:05}.jpg"))
    fleet_here.worker()
    out = tmp_path / "out"

    def send(chosen: list[str], *again: str) -> None:
        asked = {"model": card, "output": str(out), "schema": 1}
        messages = [{"items": [uri], **asked} for uri in chosen]
        messages[3:3] = [{"items": [uri, uri], **asked} for uri in again]
        send_bare(fleet_here.broker, tmp_path, *(("maskmill.annotate", each) for each in messages))

    thirds = (SINGLES * 6 // 10, SINGLES * 9 // 10, SINGLES)
    seen: dict[str, int] = {}
    annotations: list[Any] = []
    before = 0
    for number, upto in enumerate(thirds):
        # the same message again, and an input that another message had
        send(uris[before:upto], *uris[before : upto : max(upto // 20, 1)], uris[0])
        named_again = {"uri": uris[0], "file_name": f"again {number}.jpg"}
        asked = {"model": card, "output": str(out)}
        fleet_here.app.send_task("maskmill.annotate", kwargs={"items": [named_again], **asked})
        await_parts(out, upto + number + 1, 60 + SINGLES / 2)
        folder, job = folder_of(out), read_job(str(out))
        assert job is not None
        with Reads(monkeypatch) as reads:
            merge_all(folder, job, lambda *_: False)
        assert is_merged(folder, job)
        new = upto - before + 1
        assert reads.kinds["shards"] == reads.kinds["plan"] == new
        segments = len(list(out.glob("segments/*/*.json")))  # of some megabytes, read 3 times
        assert sum(reads.kinds.values()) <= 2 * new + 3 * segments + 10
        merged = dataset(out)
        ids = {each["file_name"]: each["id"] for each in merged["images"]}
        assert len(merged["images"]) == len(set(ids.values())) == upto
        assert sorted(ids.values()) == list(range(1, upto + 1))
        assert seen.items() <= ids.items(), "ids never change"
        assert merged["annotations"][: len(annotations)] == annotations
        seen, annotations, before = ids, merged["annotations"], upto
    assert sum(reads.kinds.values()) < SINGLES, "far fewer than there are inputs"
    sound = fleet_here.run("doctor", out)
    assert sound.code == 0, sound.out
    assert f"{SINGLES} inputs" in sound.out
    look = fleet_here.run("status", out, "--json").events[0]
    assert (look["state"], look["shards"]) == ("merged", SINGLES + 3)


class Reads:
    """Counts what is read from the disk, by the kind of object."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.kinds: Counter[str] = Counter()
        self._patch = monkeypatch

    def __enter__(self) -> Reads:
        disk = import_module("storage.disk")
        really = disk.open_versioned

        def counted(location: Any, *part: Any) -> Any:
            kinds = ("plan", "shards", "segments")
            self.kinds[next((k for k in kinds if f"/{k}/" in location.uri), "other")] += 1
            return really(location, *part)

        self._patch.setattr(disk, "open_versioned", counted)
        return self

    def __exit__(self, *_: object) -> None:
        self._patch.undo()


def test_an_open_job_has_the_same_records_as_a_planned_one(
    fleet_here: Fleet, tmp_path: Path, photos: Path, card: str
) -> None:
    local, out = tmp_path / "local", tmp_path / "out"
    assert maskmill("annotate", photos, "-m", card, "-o", local).code == 0
    fleet_here.worker()
    wish = {"items": images(photos), "model": card, "output": str(out)}
    send_bare(
        fleet_here.broker, tmp_path, ("maskmill.annotate", {**wish, "options": {"shard_size": 5}})
    )
    await_parts(out, 3)
    ran = fleet_here.run("merge", out)
    assert ran.code == 0, ran.err
    assert records(dataset(out)) == records(dataset(local))
    assert (out / "contact-sheet.jpg").stat().st_size > 1000


def test_bad_messages_are_kept_with_the_reason(
    fleet_here: Fleet, tmp_path: Path, photos: Path, card: str
) -> None:
    fleet_here.variables["MASKMILL_OUTPUT_ROOTS"] = str(tmp_path)
    fleet_here.variables["MASKMILL_INPUT_ROOTS"] = f"{photos},{Path(card).parent}"
    one = images(photos)[0]
    planned, opened = tmp_path / "planned", tmp_path / "opened"
    assert maskmill("annotate", photos, "-m", card, "-o", planned).code == 0
    good = {"items": [one], "model": card, "output": str(opened)}
    bad: list[tuple[str, dict[str, Any]]] = [
        ("items", {"items": []}),
        ("items[0]", {"items": [{"uri": one, "id": 3}]}),
        ("positional|options has no 'limit'", {"options": {"limit": 3}}),
        ("'output'", {"options": {"output": str(tmp_path)}}),
        ("options has no 'max_failures'", {"options": {"max_failures": 3}}),
        ("options has no 'replace_edited'", {"options": {"replace_edited": True}}),
        ("never overwritten", {"options": {"overwrite": True}}),
        ("$.threshold", {"options": {"threshold": "much"}}),
        ("shard_size", {"options": {"shard_size": -1}}),
        ("<= 1 - at `$.schema`", {"schema": 2}),
        ("neither a URI nor a path", {"items": ["photos/a.jpg"]}),
        (".. parts", {"items": [{"uri": one, "file_name": "../../etc/x"}]}),
        ("same file name", {"items": [one, {"uri": "/a", "file_name": Path(one).name}, "/a/x",
                                      {"uri": "/b", "file_name": "a/x"}]}),
        ("UTF-8", {"items": ["s3://b/\ud800.jpg"]}),
        ("no model 'nobody'", {"model": "nobody"}),
        ("model: /etc/passwd.toml is not below", {"model": "/etc/passwd.toml"}),
        ("category_map: /etc/x is not below", {"options": {"category_map": "/etc/x"}}),
    ]  # fmt: skip
    messages = [
        ("maskmill.annotate", {**good, "output": str(tmp_path / f"bad{n}"), **body})
        for n, (_, body) in enumerate(bad)
    ]
    also = [
        ("holds a job with a plan", {"output": str(planned)}),
        ("threshold (null before, 0.9 now)", {"options": {"threshold": 0.9}}),
        ("other priority, per image", {"options": {"priority": "high", "per_image": True}}),
        ("MASKMILL_OUTPUT_ROOTS", {"output": "/elsewhere"}),
    ]
    messages += [("maskmill.annotate", {**good, **body}) for _, body in also]
    fleet_here.worker()
    send_bare(fleet_here.broker, tmp_path, ("maskmill.annotate", good), *messages)
    dead = Path(fleet_here.state.uri) / "dead"
    until(
        lambda: dead.is_dir() and len(list(dead.glob("*.json"))) == len(messages),
        logs=fleet_here.workers[0].said,
    )
    letters = [json.loads(path.read_bytes()) for path in dead.glob("*.json")]
    letters.sort(key=lambda letter: letter["at"])
    for (words, _), letter in zip([*bad, *also], letters, strict=True):
        assert any(word in letter["reason"] for word in words.split("|")), letter["reason"]
    await_parts(opened, 1)
    assert not list(tmp_path.glob("bad*")), "a bad message opens no job"


def test_a_bad_message_is_in_the_queue_until_it_can_be_kept(
    fleet_here: Fleet, tmp_path: Path
) -> None:
    dead = Path(fleet_here.state.uri) / "dead"
    dead.parent.mkdir(exist_ok=True)
    dead.touch()
    worker = fleet_here.worker()
    send_bare(fleet_here.broker, tmp_path, ("maskmill.annotate", {}), ("no.such.task", {}))
    until(lambda: "is not acted on" in worker.said(), logs=worker.said)
    dead.unlink()
    until(lambda: len(list(dead.glob("*.json"))) == 2, logs=worker.said)
    assert worker.process.poll() is None


def test_inputs_that_a_worker_may_not_read_are_failures(
    fleet_here: Fleet, tmp_path: Path, photos: Path, card: str
) -> None:
    fleet_here.variables["MASKMILL_INPUT_ROOTS"] = f"{photos},{Path(card).parent}"
    fleet_here.worker()
    out = tmp_path / "out"
    wish = {"items": [images(photos)[0], "/etc/hostname"], "model": card, "output": str(out)}
    send_bare(fleet_here.broker, tmp_path, ("maskmill.annotate", wish))
    await_parts(out, 1)
    assert fleet_here.run("merge", out).code == 0
    failures = [json.loads(line) for line in (out / "failures.jsonl").read_text().splitlines()]
    assert [(each["uri"], each["kind"]) for each in failures] == [("/etc/hostname", "refused")]
    assert len(dataset(out)["images"]) == 1


def test_each_input_has_its_own_answer(
    fleet_here: Fleet, tmp_path: Path, photos: Path, card: str
) -> None:
    local, out = tmp_path / "local", tmp_path / "out"
    assert maskmill("annotate", photos, "-m", card, "-o", local).code == 0
    inputs = [{"uri": uri, "file_name": f"cam/{Path(uri).name}"} for uri in images(photos)]
    inputs.append({"uri": str(tmp_path / "gone.jpg"), "file_name": "gone.jpg"})
    told: dict[str, dict[str, Any]] = {}
    bare = Celery(broker=fleet_here.broker)
    listener = threading.Thread(target=_listen, args=(bare, told))
    listener.start()
    with bare.events.default_dispatcher() as dispatcher:
        until(lambda: dispatcher.send("maskmill-image", uri="probe", key="") or told)
    fleet_here.worker()
    asked = {"model": card, "output": str(out), "options": {"per_image": True, "shard_size": 5}}
    send_bare(fleet_here.broker, tmp_path, ("maskmill.annotate", {"items": inputs, **asked}))
    until(lambda: len(told) == len(inputs) + 1, logs=fleet_here.workers[0].said)
    with bare.events.default_dispatcher() as dispatcher:
        dispatcher.send("maskmill-image", uri="end", key="")
    listener.join(30)
    bare.close()
    whole = records(dataset(local))
    for each in inputs:
        event = told[each["uri"]]
        assert event["job"] == str(out)
        assert event["key"] == f"{out}/per-image/{each['file_name']}.json"
        answer = json.loads(get(event["key"]))
        assert answer["uri"] == each["uri"]
        if "failure" in answer:
            assert (each["file_name"], answer["failure"]["kind"]) == ("gone.jpg", "not-found")
            continue
        assert [found["id"] for found in answer["annotations"]] == [
            *range(1, len(answer["annotations"]) + 1)
        ]
        answers = {"images": [answer["image"]], "annotations": answer["annotations"]}
        name = Path(each["uri"]).name
        assert records(answers)[name] == whole[name]


@pytest.mark.parametrize(
    ("name", "place"),
    [
        ("a/b c.jpg", "a/b c.jpg.json"),
        ("../x.jpg", None),
        ("/etc/x.jpg", None),
        ("a//b.jpg", None),
        ("a\\b.jpg", None),
        ("", ".json"),
        (251 * "n", None),
    ],
)
def test_an_answer_lies_below_its_folder_whatever_the_name(name: str, place: str | None) -> None:
    uri = per_image_uri(Folder("s3://bucket/out", "run"), name, "s3://bucket/in")
    if place is None:
        assert re.fullmatch("s3://bucket/out/per-image/sha256-[0-9a-f]{64}.json", uri)
    else:
        assert uri == f"s3://bucket/out/per-image/{place}"


def test_a_folder_that_changes_is_added_in_turns(
    fleet_here: Fleet, tmp_path: Path, card: str
) -> None:
    """As a schedule does it: what is new, changed, gone and back, each once, and ids stay."""
    photos, out, fresh = write_folder(tmp_path / "in", 8), tmp_path / "out", tmp_path / "fresh"
    ledger = ledger_uri(fleet_here.state.uri, "nightly")
    fresh_ones = partial(compared, ledger=ledger, absent="dropped")
    options = {"shared_paths": True, "fleet": fleet_here.sending}
    fleet_here.worker()
    ids: dict[str, int] = {}

    def run(number: int) -> int:
        turn = f"{number:08x}{7:08x}"
        added = append(
            *(find([f"{photos}/"]), card, str(out)),
            **{"turn": turn, "fresh": fresh_ones, "shard_size": 3, **options},
        )
        job, folder = added.job, added.folder
        names = [name for name in parts(folder, job) if str(name).startswith(turn)]
        assert all(len(str(name)) == 40 for name in names)
        assert len(names) == added.shards
        until(lambda: not missing_shards(folder, job), logs=fleet_here.logs)
        assert fleet_here.run("merge", out).code == 0
        settle(ledger, number, folder, turn)
        for each in dataset(out)["images"]:
            assert ids.setdefault(each["file_name"], each["id"]) == each["id"]
        assert maskmill("annotate", photos, "-m", card, "-o", fresh, "--overwrite").code == 0
        assert records(dataset(out)) == records(dataset(fresh))
        return added.items

    assert run(1) == 8
    assert run(2) == 0
    changed, gone = photos / "picture 0001.jpg", photos / "picture 0002.jpg"
    os.utime(gone, ns=(1, 1))
    changed.write_bytes(jpeg(50))
    (photos / "picture 0100.jpg").write_bytes(jpeg(51))
    assert run(3) == 3
    kept = gone.rename(tmp_path / "kept.jpg")
    assert run(4) == 1
    (photos / "picture 0004.jpg").unlink()
    kept.rename(gone)
    assert run(5) == 2
    assert fleet_here.run("doctor", out).code == 0


def test_two_inputs_of_one_name_have_an_answer_each(
    fleet_here: Fleet, tmp_path: Path, photos: Path, card: str
) -> None:
    out, twin, uri = tmp_path / "out", tmp_path / "twin.jpg", images(photos)[0]
    options = {"shared_paths": True, "fleet": fleet_here.sending}
    for number, each in enumerate((uri, str(twin)), 1):
        line = {"uri": each, "file_name": "same.jpg"}
        append([line], card, str(out), routing=Routing(per_image=True), **options)
        if number == 1:
            fleet_here.worker()
        await_parts(out, number)
    digest = hashlib.sha256(str(twin).encode()).hexdigest()
    answers = [out / "per-image" / name for name in ("same.jpg.json", f"sha256-{digest}.json")]
    first, second = (json.loads(path.read_bytes()) for path in answers)
    assert (first["uri"], "image" in first) == (uri, True)
    assert (second["uri"], second["failure"]["kind"]) == (str(twin), "not-found")
    twin.write_bytes(jpeg(3))
    assert fleet_here.run("retry", out).code == 0
    until(lambda: "image" in json.loads(answers[1].read_bytes()), logs=fleet_here.logs)
    assert json.loads(answers[0].read_bytes()) == first


def _listen(bare: Celery, told: dict[str, dict[str, Any]]) -> None:
    with bare.connection() as connection:
        receiver = bare.events.Receiver(connection)

        def heard(event: dict[str, Any]) -> None:
            receiver.should_stop = event["uri"] == "end"
            told[event["uri"]] = event

        receiver.handlers = {"maskmill-image": heard}
        receiver.capture(limit=None, timeout=60, wakeup=False)


def test_a_planned_job_answers_for_each_input_too(
    fleet_here: Fleet, tmp_path: Path, photos: Path, card: str
) -> None:
    fleet_here.worker()
    out = tmp_path / "out"
    ran = fleet_here.run(
        "submit", photos, "-m", card, "-o", out, "--shared-paths", "--per-image", "--wait"
    )
    assert ran.code == 0, ran.err
    found = sorted(
        str(path.relative_to(out / "per-image")) for path in out.rglob("per-image/**/*.json")
    )
    assert found == sorted(f"{each['file_name']}.json" for each in dataset(out)["images"])


def test_what_a_producer_adds_is_stored_whatever_the_broker_does(
    tmp_path: Path, photos: Path, card: str
) -> None:
    out, uris = tmp_path / "out", images(photos)
    with fleet(tmp_path / "fleet") as gone:
        pass
    ran = gone.run("submit", photos, "-m", card, "-o", out, "--append", "--shared-paths")
    assert ran.code == 4
    assert "broker does not answer" in ran.err
    folder, job = folder_of(out), read_job(str(out))
    assert job is not None
    assert job.open
    assert len(missing_shards(folder, job)) == 1, "the inputs are stored, though nobody was told"
    with fleet(tmp_path / "fleet") as back:
        extra = tmp_path / "extra.jpg"
        extra.write_bytes(jpeg(77))
        named = {"uri": str(extra), "file_name": "more/extra.jpg"}
        options = {"shared_paths": True, "fleet": back.sending}
        added = append([uris[0], named], card, str(out), **options)
        assert (added.items, added.shards) == (2, 1)
        again = append([uris[0], named], card, str(out), **options)
        assert again.job.run == job.run
        assert len(missing_shards(folder, job)) == 2
        worker = back.worker()
        until(lambda: len(missing_shards(folder, job)) == 1, logs=worker.said)
        # The reconciler finds the part that nobody was told of, and then what is to be merged.
        assert "1 shards" in until(lambda: look(back, folder))
        until(lambda: not missing_shards(folder, job), logs=worker.said)
        assert "its merge was sent" in until(lambda: look(back, folder))
        back.await_merged(out)
        assert look(back, folder) == "", "until there is something new"
    names = {each["file_name"]: each["id"] for each in dataset(out)["images"]}
    assert sorted(names.values()) == list(range(1, 14))
    assert "more/extra.jpg" in names
    # 12 by a listing, by their path below it; one of them by its whole path too, and once
    assert len(names) == 13


def look(fleet_here: Fleet, folder: Folder) -> str:
    known = KnownJob(folder.uri, folder.run, sent=0.0)
    return look_after(fleet_here.app, fleet_here.state, known, [])


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["--limit", "3"], 2, "none chosen and none numbered"),
        (["--overwrite"], 2, "never overwritten"),
        (["--threshold", "0.9"], 2, "threshold (null before, 0.9 now)"),
        (["--per-image"], 2, "per image"),
        (["--priority", "normal"], 0, "items       12\nshards      1\n"),
        (["--shard-size", "5"], 0, "items       12\nshards      3\n"),
    ],
)
def test_what_is_added_must_be_asked_for_as_the_job_was(
    fleet_here: Fleet, tmp_path: Path, photos: Path, card: str, arguments, code: int, words: str
) -> None:
    out = tmp_path / "out"
    append(images(photos)[:1], card, str(out), shared_paths=True,
           fleet=fleet_here.sending)  # fmt: skip
    ran = fleet_here.run(
        "submit", photos, "-m", card, "-o", out, "--append", "--shared-paths", *arguments
    )
    assert ran.code == code, ran.err
    assert words in ran.err + ran.out


def test_a_failed_input_of_an_open_job_is_tried_again(
    fleet_here: Fleet, tmp_path: Path, photos: Path, card: str
) -> None:
    out, late = tmp_path / "out", tmp_path / "late.jpg"
    fleet_here.worker()
    options = {"shared_paths": True, "fleet": fleet_here.sending}
    append([str(late), images(photos)[0]], card, str(out), **options)
    await_parts(out, 1)
    assert fleet_here.run("merge", out).code == 0
    before = dataset(out)["images"]
    late.write_bytes(jpeg(5))
    assert fleet_here.run("retry", out).code == 0
    await_parts(out, 1)
    assert fleet_here.run("merge", out).code == 0
    after = dataset(out)["images"]
    assert after[: len(before)] == before
    assert sorted(each["id"] for each in after) == [1, 2]
    assert (out / "failures.jsonl").read_bytes() == b""
    assert fleet_here.run("doctor", out).code == 0


def test_a_cancelled_open_job_keeps_what_comes_and_goes_on_when_resumed(
    fleet_here: Fleet, tmp_path: Path, photos: Path, card: str
) -> None:
    out, uris = tmp_path / "out", images(photos)
    options = {"shared_paths": True, "fleet": fleet_here.sending}
    append(uris[:2], card, str(out), **options)
    assert fleet_here.run("cancel", out).code == 0
    worker = fleet_here.worker()
    until(lambda: "is cancelled" in worker.said())
    wish = {"items": uris[2:4], "model": card, "output": str(out)}
    send_bare(fleet_here.broker, tmp_path, ("maskmill.annotate", wish))
    folder, job = folder_of(out), read_job(str(out))
    assert job is not None
    until(lambda: len(missing_shards(folder, job)) == 2)
    assert look(fleet_here, folder) == "", "nobody looks after a cancelled job"
    assert fleet_here.run("resume", out).code == 0
    await_parts(out, 2)


def test_an_open_job_is_made_once_whoever_comes_first(
    fleet_here: Fleet, tmp_path: Path, photos: Path, card: str
) -> None:
    out = tmp_path / "out"
    for _ in range(2):
        fleet_here.worker()
    wishes = [
        {"items": [uri], "model": card, "output": str(out), "options": {"threshold": 0.25}}
        for uri in images(photos)
    ]
    send_bare(fleet_here.broker, tmp_path, *(("maskmill.annotate", wish) for wish in wishes))
    await_parts(out, 12)
    assert len(list((out / "plan").iterdir())) == 1
    dead = Path(fleet_here.state.uri) / "dead"
    assert not dead.exists()


def test_a_priority_of_an_open_job_is_the_jobs(
    fleet_here: Fleet, tmp_path: Path, photos: Path, card: str
) -> None:
    out = tmp_path / "out"
    fleet_here.plain_celery(
        "--pool", "solo", "-Q", "celery,maskmill.onnx.any.high", "-l", "WARNING"
    )
    added = append(images(photos)[:2], card, str(out), routing=Routing(priority="high"),
                   shared_paths=True, fleet=fleet_here.sending)  # fmt: skip
    assert added.shards == 1
    await_parts(out, 1)
