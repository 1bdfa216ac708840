"""Schedules over a real Redis: the real beat, a real worker, and both killed."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from random import Random

import pytest
from redis import Redis

from storage import put
from storage.uris import parse
from tasks.runs import read_schedules
from tests.fleet import Fleet, fleet, until
from tests.graphs import write_model
from tests.pictures import jpeg, write_folder
from tests.running import maskmill
from tests.schedules import check_runs, ended, write_schedule
from tests.services import http_server, reply, url_of


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_folder(tmp_path_factory.mktemp("photos"), 4)


@pytest.fixture(scope="module")
def card(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("model"), "b")


@pytest.fixture
def fleet_here(tmp_path: Path) -> Iterator[Fleet]:
    with fleet(tmp_path / "fleet") as made:
        yield made


def test_beat_and_worker_are_killed_and_each_run_is_made_once(
    fleet_here: Fleet, tmp_path: Path, photos: Path, card: Path
) -> None:
    alone = tmp_path / "alone"
    assert maskmill("annotate", photos, "-m", card, "-o", alone, "--shard-size", 2).code == 0
    whole = (alone / "instances.json").read_bytes()
    random, taken = Random(3), Counter[str]()

    def receive(request: BaseHTTPRequestHandler) -> None:
        body = request.rfile.read(int(request.headers["Content-Length"]))
        fails = random.random() < 0.5
        if not fails:
            taken[request.headers["Idempotency-Key"]] += 1
            assert json.loads(body)["state"] == "finished"
        reply(request, 500 if fails else 200)

    with http_server(receive) as server:
        fleet_here.variables["MASKMILL_WEBHOOK_ALLOW"] = "127.0.0.1"
        file = write_schedule(tmp_path, photos, card, f'webhook = "{url_of(server)}/"')
        beats, worker = (
            [fleet_here.serve(file) for _ in range(2)],
            fleet_here.worker("-m", str(card)),
        )

        def reached(number: int) -> bool:
            return len(ended(fleet_here)) >= number

        for number in (1, 2, 3):
            until(lambda n=number: reached(n), 120, f"{number} runs", fleet_here.logs)
            if number == 1:
                beats[0].kill()
                worker.kill()
                worker = fleet_here.worker("-m", str(card))
            elif number == 2:
                beats[1].kill()
                beats = [fleet_here.plain_celery("-l", "WARNING", part="beat")]
                worker.kill_child()
        told = {run.nominal for run, _ in ended(fleet_here)}
        until(lambda: len(taken) >= len(told), 120, "all are told", fleet_here.logs)
        for each in [*beats, worker]:
            each.kill()
    check_runs(fleet_here, tmp_path / "out", whole)
    assert all(key.startswith("often/") and key.endswith("/finished") for key in taken)
    listed = fleet_here.run("schedule", "list", "--json")
    assert listed.code == 0, listed.err
    (about,) = listed.events
    assert about["name"] == "often"
    assert (
        about["last"] == f"{ended(fleet_here)[-1][0].nominal:%Y%m%dT%H%M%SZ}"
        or about["state"] == "running"
    )


def test_events_come_to_a_dataset_though_the_worker_is_killed(
    fleet_here: Fleet, tmp_path: Path, card: Path, moto_s3: str
) -> None:
    """Over a real Redis and S3 over HTTP: each object that was told of is in it once."""
    queue, out = Redis.from_url(fleet_here.broker), tmp_path / "grown"
    fleet_here.variables["MASKMILL_INPUT_ROOTS"] += f",{moto_s3}"
    file = tmp_path / "schedules.toml"
    file.write_text(
        f"""[[schedule]]
name = "arrivals"
every = "2s"
events = "{fleet_here.broker}/photos"
into = "{out}"
model = "{card}"
options = {{ shard_size = 1 }}
"""
    )

    def arrive(*numbers: int) -> None:
        for n in numbers:
            put(f"{moto_s3}/{n}.jpg", jpeg(n))
            there = {"bucket": {"name": parse(moto_s3).host}, "object": {"key": f"{n}.jpg"}}
            record = {"eventName": "s3:ObjectCreated:Put", "s3": there}
            queue.rpush("photos", json.dumps([{"Event": [record]}]))

    def images() -> list[str]:
        found = json.loads((out / "instances.json").read_bytes())["images"]
        return sorted(each["file_name"] for each in found)

    arrive(0, 1, 2)
    beat, worker = fleet_here.serve(file), fleet_here.worker("-m", str(card))
    until(lambda: list(out.glob("plan/*/*")), 60, "they are in the plan", fleet_here.logs)
    worker.kill()
    arrive(2, 3, 4)
    worker = fleet_here.worker("-m", str(card))
    until(lambda: (out / "run.json").exists(), 150, "it is merged", fleet_here.logs)
    wanted = [f"{n}.jpg" for n in range(5)]
    until(lambda: images() == wanted, 150, "all are in it", fleet_here.logs)
    until(lambda: sum(end.images for _, end in ended(fleet_here)) >= 5, 150, "they are counted")
    listed = fleet_here.run("schedule", "list", "--json")
    assert listed.events[0]["output"] == str(out)
    assert not queue.llen("photos")
    for each in (beat, worker):
        each.kill()


def test_run_list_and_serve_in_words(
    fleet_here: Fleet, tmp_path: Path, photos: Path, card: Path
) -> None:
    file = write_schedule(tmp_path, photos, card)
    done = fleet_here.run("schedule", "run", "often")
    assert (done.code, "there is no schedule 'often'" in done.err) == (2, True)
    text = file.read_text()
    file.write_text(text.replace("3s", "3x"))
    refused = fleet_here.run("schedule", "serve", file)
    assert refused.code == 2
    assert f"{file}, line 3: every:" in refused.err
    assert read_schedules(fleet_here.state) == ()
    file.write_text(text.replace("3s", "30d"))
    serving = fleet_here.serve(file)
    until(lambda: read_schedules(fleet_here.state), 60, "the file is there", fleet_here.logs)
    listed = fleet_here.run("schedule", "list")
    assert listed.out.startswith("name      often\nnext ")
    done = fleet_here.run("schedule", "run", "often")
    assert done.code == 0, done.err
    assert "begins in" in done.out
    again = fleet_here.run("schedule", "run", "often")
    assert again.code == 4
    assert "is not over yet" in again.err
    assert "state     running" in fleet_here.run("schedule", "list").out
    worker = fleet_here.worker("-m", str(card))
    until(lambda: list(tmp_path.glob("out/*/run.json")), 60, "it is merged", fleet_here.logs)
    until(lambda: ended(fleet_here), 90, "its end is written", fleet_here.logs)
    listed = fleet_here.run("schedule", "list")
    assert "state     finished\n" in listed.out
    assert fleet_here.run("schedule", "check").code == 0
    assert (serving.stop(), worker.stop()) == (0, 0)
