"""A fleet over a real Redis, steered by the real commands."""

from __future__ import annotations

import json
import runpy
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from msgspec.structs import replace

from storage import get, list_entries
from tasks.broker import make_app, queues_for, send_merge
from tasks.cards import engines_here
from tasks.folder import Folder, JobError, missing_shards, read_job
from tasks.markers import cancel, halt_of, lift, stop
from tasks.reconcile import QUIET_S, look_after
from tasks.state import KnownJob, State
from tasks.status import followers
from tests.fleet import Fleet, fleet, until
from tests.graphs import write_model
from tests.pictures import write_folder
from tests.running import maskmill

SHARED = "--shared-paths"


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_folder(tmp_path_factory.mktemp("photos"), 12)


@pytest.fixture(scope="module")
def card(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("model"), "b")


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory, photos: Path, card: Path) -> bytes:
    out = tmp_path_factory.mktemp("local") / "out"
    assert maskmill("annotate", photos, "-m", card, "-o", out).code == 0
    return (out / "instances.json").read_bytes()


@pytest.fixture
def fleet_here(tmp_path: Path) -> Iterator[Fleet]:
    with fleet(tmp_path / "fleet") as made:
        yield made


def folder_of(output: Path) -> Folder:
    job = read_job(str(output))
    assert job is not None
    return Folder(str(output), job.run)


def test_submit_and_follow(
    fleet_here: Fleet, tmp_path: Path, photos: Path, card: Path, undisturbed: bytes
) -> None:
    fleet_here.worker("-m", str(card))
    out = tmp_path / "out"
    ran = fleet_here.run(
        "submit", photos, "-m", card, "-o", out, SHARED, "--shard-size", 2, "--wait", "--json"
    )
    assert ran.code == 0, ran.err
    assert ran.events[0]["event"] == "submitted"
    assert ran.events[0]["sent"] == 6
    assert ran.events[-1]["event"] == "summary"
    assert (out / "instances.json").read_bytes() == undisturbed
    again = fleet_here.run("submit", photos, "-m", card, "-o", out, SHARED, "--shard-size", 2)
    assert again.code == 0
    assert "sent        0" in again.out
    look = fleet_here.run("status", out, "--json").events[0]
    assert (look["state"], look["images"], look["shards"]) == ("merged", 12, 6)
    assert fleet_here.workers[0].stop() == 0
    assert not fleet_here.state.present(), "a worker that stops takes its leave"


def test_a_plain_celery_worker_serves_as_well(
    fleet_here: Fleet, tmp_path: Path, photos: Path, card: Path, undisturbed: bytes
) -> None:
    fleet_here.variables["MASKMILL_TARGET"] = "cam"
    fleet_here.plain_celery("--pool", "prefork", "-c", "2", "-l", "WARNING")
    out = tmp_path / "out"
    command = ("submit", photos, "-m", card, "-o", out, SHARED, "--shard-size", 3)
    assert fleet_here.run(*command, "--target", "cam").code == 0
    assert fleet_here.await_merged(out) == undisturbed


def test_a_plain_celery_worker_takes_the_urgent_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MASKMILL_STATE", "/nonexistent/state")
    monkeypatch.setenv("MASKMILL_BROKER_URL", "amqp://nobody@127.0.0.1:1//")
    monkeypatch.setenv("MASKMILL_TARGET", "cam")
    ours = runpy.run_module("worker.app")["app"].amqp.queues
    names = queues_for(engines_here(), ("cam", "cloud"))
    assert list(ours.consume_from) == names
    producers = make_app("amqp://nobody@127.0.0.1:1//").amqp.queues
    assert [ours[name] for name in names] == [producers[name] for name in names]
    assert {ours[name].queue_arguments["x-queue-type"] for name in names} == {"quorum"}


def test_cancel_resume_and_merge_without_a_broker(
    tmp_path: Path, photos: Path, card: Path, undisturbed: bytes
) -> None:
    out = tmp_path / "out"
    command = ("submit", photos, "-m", card, "-o", out, SHARED, "--shard-size", 1)
    with fleet(tmp_path / "fleet") as made:
        assert made.run(*command).code == 0
        made.worker()
        until(lambda: len(missing_shards(folder_of(out), read_job(str(out)))) < 9)
        made.workers[0].kill()
        left = len(missing_shards(folder_of(out), read_job(str(out))))
    # the broker is gone with its queue, the fleet's folder is not
    gone = Fleet(tmp_path / "fleet", made.broker)
    look = gone.run("status", out, "--json").events[0]
    assert (look["state"], look["shards"]) == ("running", 12 - left)
    assert gone.run("cancel", out).code == 0
    assert gone.run("status", out, "--json").events[0]["state"] == "cancelled"
    assert gone.run("merge", out).code == 0
    partial = json.loads((out / "partial" / "instances.json").read_bytes())
    assert len(partial["images"]) == 12 - left
    refused = gone.run("resume", out)
    assert refused.code == 4
    assert "broker does not answer" in refused.err
    assert refused.err.count("\n") == 1
    gone.close()
    assert halt_of(folder_of(out)) is None
    with fleet(tmp_path / "fleet") as back:
        ran = back.run("resume", out, "--json")
        assert ran.code == 0, ran.err
        assert ran.events[0]["sent"] == left, "only what is missing"
        back.worker()
        assert back.await_merged(out) == undisturbed


def test_who_follows_a_job_is_told_when_it_is_started_anew(
    fleet_here: Fleet, tmp_path: Path, photos: Path, card: Path
) -> None:
    command = ("submit", photos, "-m", card, "-o", tmp_path / "out", SHARED)
    assert fleet_here.run(*command).code == 0
    [follower] = followers(str(tmp_path / "out"), None)
    assert follower.look()["state"] == "running"
    assert fleet_here.run(*command, "--overwrite").code == 0
    with pytest.raises(JobError, match=r"started the job in .* anew"):
        follower.look()


def test_a_worker_warms_the_build_of_its_runtime(fleet_here: Fleet, card: Path) -> None:
    refused = fleet_here.run("worker", "-m", card, "--runtime", "tflite")
    assert refused.code == 2
    assert "no build of" in refused.err


def test_a_wrong_setting_of_a_worker_is_refused_at_the_start(fleet_here: Fleet) -> None:
    refused = fleet_here.run("worker", MASKMILL_SPOOL_BYTES="64M")
    assert refused.code == 2
    assert "MASKMILL_SPOOL_BYTES is '64M'" in refused.err


def test_a_cancelled_job_is_let_go_of_and_not_merged(
    fleet_here: Fleet, tmp_path: Path, photos: Path, card: Path
) -> None:
    out = tmp_path / "out"
    command = ("submit", photos, "-m", card, "-o", out, SHARED, "--shard-size", 1)
    assert fleet_here.run(*command).code == 0
    assert fleet_here.run("cancel", out).code == 0
    worker = fleet_here.worker()
    until(lambda: worker.said().count("is cancelled") == 12, what="all shards are let go of")
    assert len(missing_shards(folder_of(out), read_job(str(out)))) == 12
    assert not (out / "run.json").exists()
    ran = fleet_here.run("submit", photos, "-m", card, "-o", out, SHARED, "--shard-size", 1)
    assert ran.code == 4
    assert "maskmill resume" in ran.err


def test_failed_inputs_are_tried_again(
    fleet_here: Fleet, tmp_path: Path, photos: Path, card: Path, undisturbed: bytes
) -> None:
    places = [str(path) for path in sorted(photos.rglob("*")) if path.is_file()]
    listed = tmp_path / "list.jsonl"
    moved = tmp_path / "moved"
    moved.mkdir()
    for number, place in enumerate(places):
        (moved / f"{number:02}.jpg").write_bytes(Path(place).read_bytes())
    names = sorted(moved.iterdir())
    listed.write_text(
        "".join(json.dumps({"uri": str(p), "file_name": p.name}) + "\n" for p in names)
    )
    whole = tmp_path / "whole"
    assert maskmill("annotate", listed, "-m", card, "-o", whole).code == 0
    kept = {path: path.read_bytes() for path in (names[3], names[7])}
    names[3].unlink()
    names[7].write_bytes(b"no image")
    out = tmp_path / "out"
    fleet_here.worker()
    command = ("submit", listed, "-m", card, "-o", out, SHARED, "--shard-size", 4, "--wait")
    ran = fleet_here.run(*command)
    assert ran.code == 3, ran.err
    for path, data in kept.items():
        path.write_bytes(data)
    look = fleet_here.run("status", out, "--json").events[0]
    assert look["failures_by_kind"] == {"decode/not-an-image": 1, "fetch/not-found": 1}
    assert fleet_here.run("retry", out, MASKMILL_STATE="").code == 2
    assert fleet_here.run("cancel", out).code == 0
    assert "lets it go on" in fleet_here.run("retry", out).err
    assert fleet_here.run("resume", out).code == 0
    assert fleet_here.run("retry", out, "--only", "fetch").code == 0
    watched = fleet_here.run("status", out, "--watch", "--json")
    assert watched.events[-1]["failures_by_kind"] == {"decode/not-an-image": 1}
    assert fleet_here.run("retry", out).code == 0
    assert fleet_here.run("status", out, "--watch", "--json").events[-1]["failures"] == 0
    assert (out / "instances.json").read_bytes() == (whole / "instances.json").read_bytes()
    assert "no failure" in fleet_here.run("retry", out).out


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["{photos}", "-o", "{out}"], ["cannot see", "--shared-paths"]),
        (["{photos}", "-o", "s3://bucket/out"], ["cannot see", "--upload"]),
        (["{photos}", "-o", "{out}", SHARED, "--priority", "urgent"], ["urgent"]),
    ],
    ids=["a local output", "local inputs", "a priority"],
)
def test_what_workers_cannot_see_is_refused(
    fleet_here: Fleet, tmp_path: Path, photos: Path, card: Path, arguments, words
) -> None:
    filled = [word.format(photos=photos, out=tmp_path / "out") for word in arguments]
    ran = fleet_here.run("submit", *filled, "-m", card)
    assert ran.code == 2
    assert all(word in ran.err for word in words), ran.err
    assert not (tmp_path / "out" / "job.json").exists()


def test_without_a_state_folder_or_a_broker(tmp_path: Path, photos: Path, card: Path) -> None:
    command = ("submit", photos, "-m", card, "-o", tmp_path / "out", SHARED)
    ran = maskmill(*command, MASKMILL_STATE="")
    assert (ran.code, ran.err.count("\n")) == (2, 1)
    assert "MASKMILL_STATE" in ran.err
    there = {"MASKMILL_STATE": str(tmp_path / "state")}
    ran = maskmill(*command, **there, MASKMILL_BROKER_URL="redis://127.0.0.1:1/0")
    assert (ran.code, ran.err.count("\n")) == (4, 1)
    assert "broker does not answer" in ran.err
    assert f"all is stored, and maskmill resume {tmp_path / 'out'}" in ran.err
    command = ("submit", photos, "-m", card, "-o", tmp_path / "other", SHARED)
    for url in (
        "kafka://x",
        "redis://:s3cret@127.0.0.1/notadb",
        "redis://:s3cret@127.0.0.1/0?foo=bar",
        "redis://:s3cret@127.0.0.1:port/0",
        "redis://:s3cret/x@127.0.0.1/0",
        "rediss://127.0.0.1/0?ssl_cert_reqs=bogus",
        "amqp://u:s3cret@127.0.0.1//?heartbeat=x",
        "redis://[::1/0",
    ):
        ran = maskmill(*command, **there, MASKMILL_BROKER_URL=url)
        assert (ran.code, ran.err.count("\n")) == (2, 1), ran.err
        assert "MASKMILL_BROKER_URL" in ran.err
        assert "s3cret" not in ran.err
    assert not (tmp_path / "other").exists()


def test_a_dry_run_says_what_would_go_wrong(
    fleet_here: Fleet, tmp_path: Path, photos: Path, card: Path
) -> None:
    listed, out = tmp_path / "list.txt", tmp_path / "out"
    (tmp_path / "empty.jpg").touch()
    good = sorted(str(path) for path in photos.rglob("*.jpg"))[:3]
    listed.write_text("\n".join([*good, good[0], "gone.jpg", "empty.jpg"]))
    command = ("submit", listed, "-o", out, SHARED, "--dry-run", "--json")
    ran = fleet_here.run(*command, "-m", card)
    assert ran.code == 0, ran.err
    (dry,) = ran.events
    assert (dry["items"], dry["first_tried"], dry["unreadable_of_these"], dry["duplicates"]) == (
        5,
        5,
        2,
        1,
    )
    assert "gone.jpg" in dry["for_example"] or "empty.jpg is empty" in dry["for_example"]
    assert dry["model"] == "canned"
    assert dry["expected_s"] == "unknown: no recent speed"
    assert fleet_here.run(*command, "-m", "nobody").code == 2
    assert not out.exists()
    assert fleet_here.run("submit", *command[1:5], "-m", card).code == 0
    other = fleet_here.run(*command, "-m", card, "--threshold", "0.9")
    assert (other.code, "threshold" in other.out) == (2, True)
    adding = fleet_here.run(*command, "-m", card, "--append")
    assert (adding.code, "nothing can be added" in adding.out) == (2, True)
    assert fleet_here.run(*command, "-m", card, "--target", "a roof").code == 2
    for more in ((), ("--threshold", "0.9", "--overwrite")):
        assert fleet_here.run(*command, "-m", card, *more).code == 0
    out = tmp_path / "foreign"
    out.mkdir()
    (out / "instances.json").write_bytes(b"{}")
    assert fleet_here.run("submit", photos, "-o", out, SHARED, "--dry-run", "-m", card).code == 2


def test_a_submitter_killed_before_it_sends(
    fleet_here: Fleet, tmp_path: Path, photos: Path, card: Path
) -> None:
    """Whatever has a job.json is looked after, though nobody types resume."""
    out = tmp_path / "out"
    command = ("submit", photos, "-m", card, "-o", out, SHARED)
    fault = {"call": "tasks.submit:send_missing", "signal": 9}
    assert fleet_here.run(*command, fault=fault).code == -9
    (known,) = fleet_here.state.jobs()
    assert (known.uri, known.run) == (str(out), folder_of(out).run)
    late = replace(known, sent=known.sent - QUIET_S)
    assert "1 shards" in look_after(fleet_here.app, fleet_here.state, late, [])


def test_a_job_that_goes_on_is_not_forgotten(tmp_path: Path, photos: Path, card: Path) -> None:
    """The reconciler looks at a cancelled job, which is resumed before it has forgotten it."""
    out = tmp_path / "out"
    assert maskmill("annotate", photos, "-m", card, "-o", out).code == 0
    folder = folder_of(out)
    (out / "run.json").unlink()

    class Slow(State):
        def forget(self, job: KnownJob) -> None:
            if going_on:
                lift(folder)
                self.register(job)
            super().forget(job)

    state, known = Slow(str(tmp_path / "state")), KnownJob(str(out), folder.run, time.time())
    app = make_app("memory://")
    for going_on in (True, False):
        state.register(known)
        cancel(folder)
        assert look_after(app, state, known, []) == ""
        assert list(state.jobs()) == [known] * going_on
    planning = KnownJob(str(out), "another", time.time())
    for word, kept in ((planning, [planning]), (replace(planning, sent=1.0), [])):
        state.register(word)
        look_after(app, state, word, [])
        assert list(state.jobs()) == kept, "its job.json may be on the way, but not for long"


def test_local_inputs_are_uploaded_and_a_model_travels(
    tmp_path: Path, photos: Path, card: Path, undisturbed: bytes, s3: str
) -> None:
    """Nothing of this machine's disks is seen by the worker: not the inputs, not the model."""
    roots = {
        "MASKMILL_INPUT_ROOTS": "",
        "MASKMILL_OUTPUT_ROOTS": "",
        "MASKMILL_STATE": f"{s3}/state",
    }
    cache = {"XDG_CACHE_HOME": str(tmp_path / "cache")}
    with fleet(tmp_path / "fleet", **roots, **cache) as made:
        command = ("submit", photos, "-m", card, "-o", f"{s3}/out", "--shard-size", 4)
        dry = made.run(*command, "--upload", "--dry-run", "--json").events[0]
        assert (dry["items"], dry["shards"]) == (12, 3)
        assert dry["bytes"] == sum(path.stat().st_size for path in photos.rglob("*.*"))
        assert not list(list_entries(f"{s3}/out/"))
        made.worker()
        ran = made.run(*command, "--upload", "--wait")
        assert ran.code == 0, get(f"{s3}/out/failures.jsonl")
        assert get(f"{s3}/out/instances.json") == undisturbed
        twice = tmp_path / "twice"
        for part, data in (("A", b"one"), ("B", b"other")):
            (twice / part).mkdir(parents=True)
            (twice / part / "same.jpg").write_bytes(data)
        clash = ("submit", twice / "A", twice / "B", "-m", card, "-o", f"{s3}/clash", "--upload")
        for refused in (made.run(*clash, "--dry-run"), made.run(*clash)):
            assert (refused.code, "same.jpg" in refused.err) == (2, True), "they stay two"
        look = made.run("status", f"{s3}/out", "--json").events
        assert [each["job"] for each in look] == [f"{s3}/out"]
    assert len(list((tmp_path / "cache" / "maskmill" / "models").iterdir())) == 1


def test_an_output_outside_the_roots_and_a_model_not_allowed(
    tmp_path: Path, photos: Path, card: Path
) -> None:
    """Messages choose what a worker touches, within its own limits."""
    out = tmp_path / "out"
    with fleet(tmp_path / "fleet", MASKMILL_OUTPUT_ROOTS=str(tmp_path / "elsewhere")) as made:
        command = ("submit", photos, "-m", card, "-o", out, SHARED)
        assert made.run(*command).code == 0
        made.worker()
        letters = made.folder / "state" / "dead"
        until(lambda: letters.is_dir() and list(letters.iterdir()))
        letter = json.loads(next(letters.iterdir()).read_bytes())
        assert "MASKMILL_OUTPUT_ROOTS" in letter["reason"]
        assert not (out / "shards").exists()
        send_merge(made.app, str(out))
        send_merge(made.app, "nonsense://x")
        until(lambda: len(list(letters.iterdir())) == 3, logs=made.logs)
    with fleet(tmp_path / "other", MASKMILL_INPUT_ROOTS=str(tmp_path / "elsewhere")) as made:
        made.worker()
        assert made.run(*command[:-1], "--overwrite", SHARED, "--wait").code == 3
        kinds = made.run("status", out, "--json").events[0]["failures_by_kind"]
        assert kinds == {"fetch/refused": 12}


def test_a_merge_that_is_refused_ends_the_job_for_who_follows_it(
    fleet_here: Fleet, tmp_path: Path, card: Path
) -> None:
    out = tmp_path / "out"
    photos = write_folder(tmp_path / "photos", 4)
    (photos / "zz.jpg").write_bytes(b"no image")
    command = ("submit", photos, "-m", card, "-o", out, SHARED, "--shard-size", 2)
    fleet_here.worker("-m", str(card))
    assert fleet_here.run(*command, "--wait").code == 3
    (out / "instances.json").write_bytes(b"{}")
    assert fleet_here.run("retry", out).code == 0
    watched = fleet_here.run("status", out, "--watch")
    assert watched.code == 4
    assert f"{out}  stopped" in watched.out
    assert f"maskmill merge {out} --replace-edited" in watched.out
    waited = fleet_here.run(*command, "--wait")
    assert (waited.code, "was changed" in waited.err) == (4, True), waited.err
    assert fleet_here.run("merge", out).code == 4
    assert halt_of(folder_of(out)) is not None
    assert fleet_here.run("merge", out, "--replace-edited").code == 0
    assert len(json.loads((out / "instances.json").read_bytes())["images"]) == 4
    assert fleet_here.run("status", out, "--watch", "--json").events[-1]["state"] == "merged"


def test_a_stopped_merge_goes_on_when_it_is_resumed(
    fleet_here: Fleet, tmp_path: Path, photos: Path, card: Path, undisturbed: bytes
) -> None:
    out = tmp_path / "out"
    fleet_here.worker("-m", str(card))
    assert fleet_here.run("submit", photos, "-m", card, "-o", out, SHARED, "--wait").code == 0
    stop(folder_of(out), "its merge was refused")
    for name in ("run.json", "instances.json"):
        (out / name).unlink()
    assert fleet_here.run("resume", out).code == 0
    assert fleet_here.await_merged(out) == undisturbed


def test_the_heartbeat_file_of_a_worker(fleet_here: Fleet, tmp_path: Path) -> None:
    fleet_here.variables["MASKMILL_HEARTBEAT_FILE"] = str(tmp_path / "beat")
    fleet_here.worker("-m", "shapes")
    until((tmp_path / "beat").exists)
    workers = until(lambda: fleet_here.state.present())
    assert workers[0].models == ("shapes",)
    refused = fleet_here.run("worker", "-m", "no-such-model")
    assert refused.code == 2
    assert "no-such-model" in refused.err


def test_a_model_that_no_worker_can_load_stops_the_job(
    tmp_path: Path, photos: Path, card: Path
) -> None:
    """One worker leaves the model's queue; the second that cannot load it stops the job."""
    out = tmp_path / "out"
    with fleet(tmp_path / "fleet") as made:
        assert made.run("submit", photos, "-m", card, "-o", out, SHARED).code == 0
        (weights,) = (made.folder / "state" / "models").rglob("*.onnx")
        weights.write_bytes(b"damaged on the way")
        made.worker()
        until(lambda: list(out.glob("unfit/*/*")))
        assert halt_of(folder_of(out)) is None
        until(lambda: "no more from maskmill.onnx.any.normal" in made.workers[0].said())
        made.worker()
        until(lambda: halt_of(folder_of(out)), what="two workers could not load it")
        look = maskmill("status", out, "--json").events[0]
        assert look["state"] == "stopped"
        assert "2 workers cannot load the model" in look["reason"]
        weights.write_bytes(card.with_suffix(".onnx").read_bytes())
        assert made.run("resume", out).code == 0
        assert not list(out.glob("unfit/*/*")), "it starts from nothing again"
        made.worker()
        made.await_merged(out)


def test_a_model_that_is_not_allowed_stops_its_job_and_no_other(
    tmp_path: Path, photos: Path, card: Path
) -> None:
    """A worker that left its queue for it would be deaf for jobs that are allowed."""
    with fleet(tmp_path / "fleet", MASKMILL_ALLOWED_MODELS="shapes") as made:
        made.worker()
        refused = made.run("submit", photos, "-m", card, "-o", tmp_path / "no", SHARED, "--wait")
        assert refused.code == 4
        assert "MASKMILL_ALLOWED_MODELS" in refused.err
        allowed = ("submit", photos, "-m", "shapes", "-o", tmp_path / "yes", SHARED, "--wait")
        assert made.run(*allowed).code == 0
