"""Webhooks over real HTTP: each state reaches the receiver, and nobody else is spoken to."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from datetime import datetime, timedelta
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import pytest

from storage import http_requests
from storage.errors import BadUri, Refused, StorageError, Unreachable
from storage.http_requests import post, webhook_rules
from tasks import runs
from tasks.broker import SubmitMessage, make_app
from tasks.folder import Folder, read_job
from tasks.markers import cancel, stop
from tasks.runs import look_at, place_of, read_book, tick
from tasks.schedules import UTC, Schedule
from tasks.state import Fleet, State
from tests.graphs import write_model
from tests.pictures import write_folder
from tests.schedules import toml
from tests.services import http_server, reply, url_of

LOCAL = "127.0.0.1"
NEW_YEAR = datetime(2026, 1, 1, tzinfo=UTC)


def allow_all(message: SubmitMessage) -> None:
    pass


class Receiver:
    """Keeps what it takes; `answers` are how it ends the next requests, 204 when there are none."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, str]] = []  # method and path
        self.taken: list[tuple[str, dict[str, Any]]] = []  # key and body
        self.answers: list[int | str] = []
        self.slept = threading.Event()
        self.hangs = False

    def __call__(self, request: BaseHTTPRequestHandler) -> None:
        self.asked.append((request.command, request.path))
        body = request.rfile.read(int(request.headers.get("Content-Length", "0")))
        answer = self.answers.pop(0) if self.answers else 204
        if answer == "hang":
            self.hangs = True
            self.slept.wait(20)
            self.hangs = False
            return
        if isinstance(answer, str):
            reply(request, 307, headers={"Location": answer})
            return
        reply(request, answer)
        if answer < 300:
            assert request.headers["Content-Type"] == "application/json"
            self.taken.append((request.headers["Idempotency-Key"], json.loads(body)))


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    made = Receiver()
    yield made
    made.slept.set()


@pytest.fixture
def url(receiver: Receiver, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    monkeypatch.setenv("MASKMILL_WEBHOOK_ALLOW", LOCAL)
    with http_server(receiver) as server:
        yield url_of(server, "/hook?token=secret")


@pytest.fixture
def made(tmp_path: Path, url: str) -> Iterator[tuple[Schedule, Fleet]]:
    """A schedule with real jobs that nobody works off, at the moment at which its first begins."""
    schedule = Schedule(
        name="nightly",
        every="1d",
        inputs=(str(write_folder(tmp_path / "photos", 2)),),
        model=str(write_model(tmp_path / "model", "b")),
        output=str(tmp_path / "out/{run}"),
        webhook=url,
    )
    fleet = Fleet(make_app("memory://"), State(str(tmp_path / "state")), allow_all, lambda uri: "")
    list(look_at(schedule, fleet, NEW_YEAR))
    list(look_at(schedule, fleet, NEW_YEAR + timedelta(days=1)))
    yield schedule, fleet
    fleet.app.close()


def at(hours: float) -> datetime:
    return NEW_YEAR + timedelta(hours=hours)


def folder_of(schedule: Schedule, fleet: Fleet) -> Folder:
    book = read_book(fleet.state, schedule)
    output = book.run(book.last).output
    job = read_job(output)
    assert job is not None
    return Folder(output, job.run)


def test_each_state_once_though_the_receiver_fails_at_first(
    made: tuple[Schedule, Fleet], receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    schedule, fleet = made
    monkeypatch.setattr("storage.http_requests.WEBHOOK_S", 1.0)
    receiver.answers = [500, "hang", "http://169.254.169.254/", 429]
    stop(folder_of(schedule, fleet), "a bucket is gone")
    for n in range(4):
        with pytest.raises(StorageError) as said:
            list(look_at(schedule, fleet, at(25 + n)))
        assert "secret" not in str(said.value)
        assert receiver.hangs or n != 1  # it was given up, not waited for
    assert receiver.taken == []
    for n in range(4):
        list(look_at(schedule, fleet, at(40 + n)))
    assert len(receiver.asked) == 5
    ((key, body),) = receiver.taken
    assert key == "nightly/20260102T000000Z/failed"
    assert body == {
        "schema": 1,
        "schedule": "nightly",
        "nominal": "20260102T000000Z",
        "output": schedule.output_of(at(24)),
        "state": "failed",
        "reason": "a bucket is gone",
        "images": 0,
        "failures": 0,
    }


def test_a_stalled_run_is_told_once_and_then_its_end(
    made: tuple[Schedule, Fleet], receiver: Receiver
) -> None:
    schedule, fleet = made
    receiver.answers = [503]
    list(look_at(schedule, fleet, at(24.1)))
    list(look_at(schedule, fleet, at(24.5)))
    folder = folder_of(schedule, fleet)
    runs.put(folder.shard(0), b"{}")  # it goes on
    for hours in (24.6, 24.9, 25.0):
        list(look_at(schedule, fleet, at(hours)))
    assert receiver.asked == []
    with pytest.raises(Unreachable, match="status 503"):
        list(look_at(schedule, fleet, at(25.2)))
    for hours in (25.3, 25.4, 28):
        list(look_at(schedule, fleet, at(hours)))
    assert [key.rpartition("/")[2] for key, _ in receiver.taken] == ["stalled"]
    assert receiver.taken[0][1]["reason"] == "no shard was written for 30 minutes"
    stop(folder, "the disk is full")
    for hours in (29, 30):
        list(look_at(schedule, fleet, at(hours)))
    assert [body["state"] for _, body in receiver.taken] == ["stalled", "failed"]


def test_finished_with_and_without_failures_and_cancelled(
    made: tuple[Schedule, Fleet], receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    schedule, fleet = made
    monkeypatch.setattr(runs, "is_merged", lambda folder, job: True)
    for day, failures in ((1, 0), (2, 3)):
        list(look_at(schedule, fleet, at(24 * day)))
        found = {"images": 5, "failures": failures}
        monkeypatch.setattr(runs, "read_run", lambda folder, found=found: found)
        list(look_at(schedule, fleet, at(24 * day + 1)))
    list(look_at(schedule, fleet, at(72)))
    cancel(folder_of(schedule, fleet))
    list(look_at(schedule, fleet, at(73)))
    states = [(body["state"], body["images"], body["failures"]) for _, body in receiver.taken]
    assert states == [("finished", 5, 0), ("finished-with-failures", 5, 3)]
    assert len({key for key, _ in receiver.taken}) == 2
    assert read_book(fleet.state, schedule).end(3).state == "cancelled"


def test_they_are_told_in_order_and_none_is_left_out(
    made: tuple[Schedule, Fleet], receiver: Receiver
) -> None:
    """The receiver is away for days; runs go on meanwhile."""
    schedule, fleet = made
    put = runs.put
    put(place_of(fleet.state), toml(schedule))
    receiver.answers = [500] * 12
    for n in range(1, 6):
        stop(folder_of(schedule, fleet), f"reason {n}")
        said = [*tick(fleet, at(24 * n + 1)), *tick(fleet, at(24 * n + 24))]
        assert any("answered with status 500" in line for line in said)
        assert read_book(fleet.state, schedule).last == n + 1
    receiver.answers = []
    list(tick(fleet, at(24 * 6 + 0.1)))
    assert [body["reason"] for _, body in receiver.taken] == [f"reason {n}" for n in range(1, 6)]


@pytest.mark.parametrize(
    ("allowed", "target", "said"),
    [
        ("", "http://hooks.example/x", "MASKMILL_WEBHOOK_ALLOW lists"),
        ("hooks.example", "http://other.example/x", "MASKMILL_WEBHOOK_ALLOW lists"),
        ("hooks.example", "http://hooks.example.evil/x", "MASKMILL_WEBHOOK_ALLOW lists"),
        ("hooks.example", "http://127.0.0.1/x", "MASKMILL_WEBHOOK_ALLOW lists"),
        ("hooks.example", "s3://hooks.example/x", "MASKMILL_WEBHOOK_ALLOW lists"),
        ("10.0.0.0/8", "http://127.0.0.1/x", "MASKMILL_WEBHOOK_ALLOW lists"),
    ],
)
def test_hosts_that_are_not_listed_are_refused_at_check_and_at_sending(
    allowed: str, target: str, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MASKMILL_WEBHOOK_ALLOW", allowed)
    monkeypatch.setattr(http_requests, "resolve", lambda *_: pytest.fail("it was looked up"))
    with pytest.raises(Refused, match=said):
        webhook_rules(target)
    with pytest.raises(Refused, match=said):
        post(target, b"{}", {})


@pytest.mark.parametrize("target", ["ftp://hooks.example/", "http://", "http://[::1/", "hooks"])
def test_what_is_no_url(target: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MASKMILL_WEBHOOK_ALLOW", "hooks.example,hooks,::/0")
    with pytest.raises((BadUri, Refused)):
        webhook_rules(target)


def test_a_listed_name_that_leads_into_a_private_network_needs_it_listed(
    url: str, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the name resolves to is asked once: the address that was checked is the one used."""
    named = url.replace(LOCAL, "hooks.example")
    answers = [LOCAL, "8.8.8.8"]
    looked_up = []

    def resolve(host: str, port: int) -> list[http_requests.Address]:
        looked_up.append(host)
        return [http_requests.ipaddress.ip_address(answers[0])]

    monkeypatch.setattr(http_requests, "resolve", resolve)
    monkeypatch.setenv("MASKMILL_WEBHOOK_ALLOW", "hooks.example")
    with pytest.raises(Refused, match=r"private, loopback.*MASKMILL_WEBHOOK_ALLOW"):
        post(named, b"{}", {})
    monkeypatch.setenv("MASKMILL_HTTP_ALLOW", "127.0.0.0/8,hooks.example")  # that is for inputs
    with pytest.raises(Refused):
        post(named, b"{}", {})
    assert receiver.asked == []
    monkeypatch.setenv("MASKMILL_WEBHOOK_ALLOW", "hooks.example,127.0.0.0/8")
    headers = {"Idempotency-Key": "k", "Content-Type": "application/json"}
    post(named, b"{}", headers)
    assert receiver.asked == [("POST", "/hook?token=secret")]
    assert looked_up == ["hooks.example"] * 3


def test_a_redirect_is_not_followed(url: str, receiver: Receiver) -> None:
    receiver.answers = [url, 204]
    with pytest.raises(Unreachable, match="answered with status 307"):
        post(url, b"{}", {})
    assert len(receiver.asked) == 1
