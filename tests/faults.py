"""What the fault tests share: the oracle, a broker to kill, and wires to cut."""

from __future__ import annotations

import contextlib
import json
import random
import socket
import struct
import subprocess
import threading
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from redis import Redis

from storage import get, list_entries, put
from storage.uris import join
from tasks.folder import Folder, every_attempt, exists, missing_shards, read_job
from tasks.reconcile import look_after
from tests.contract.test_s3_faults import Fault, Proxy, drop, status, truncate
from tests.fleet import Fleet, fleet, until
from tests.graphs import write_model
from tests.pictures import write_folder
from tests.running import maskmill
from tests.services import free_port, http_server, redis_binary, url_of, wait_for_port
from worker.audit import problems

SHARED = "--shared-paths"
TALLY: defaultdict[str, Counter[str]] = defaultdict(Counter)  # by fault: tried, lost, doubled
KILL = 9
# Messages that a dead worker held come back within seconds instead of after a few minutes.
SWEEPING = {
    "set": {
        "kombu.transport.redis:Channel.unacked_restore_interval": 1,
        "kombu.transport.redis:Channel.unacked_restore_throttle": 1,
    }
}


@dataclass(frozen=True)
class Oracle:
    """The same inputs and model through `maskmill annotate`, undisturbed."""

    photos: Path
    card: Path
    expected: bytes

    def submit(
        self, fleet: Fleet, output: object, *options: object, photos: object = "", **variables: Any
    ) -> None:
        command = ("submit", photos or self.photos, "-m", self.card, "-o", output, SHARED)
        ran = fleet.run(*command, "--shard-size", 1, *options, **variables)
        assert ran.code == 0, ran.err

    def check(
        self, output: object, fault: str = "", times: int = 1, *, crashed: Sequence[str] = ()
    ) -> None:
        """Expected ids are the committed ids, once each, and the bytes are the same.

        `fault` was tried so many times on the way. `crashed` are inputs that end as
        worker/crashed; without them all else is equal.
        """
        folder, job = folder_of(output), read_job(str(output))
        assert job is not None
        planned, committed = [], []
        for number in range(job.counts.shards):
            planned += [item.id for item in folder.read_plan(number)]
            shard = folder.read_shard(number)
            committed += [image.id for image in shard.images]
            committed += [each.image_id for each in shard.failures]
        if fault:
            lost = len(set(planned) - set(committed))
            TALLY[fault] += Counter(tried=times, lost=lost, doubled=len(committed) - len(planned))
        assert sorted(committed) == planned == list(range(1, job.counts.items + 1))
        assert list(problems(folder, job)) == []
        found = get(join(str(output), "instances.json"))
        if not crashed:
            assert found == self.expected
            return
        assert json.loads(found) == without(json.loads(self.expected), crashed)
        assert failures(output) == dict.fromkeys(crashed, "worker/crashed")


def make_oracle(folder: Path, count: int = 12, fails_on_white: bool = False) -> Oracle:
    photos = write_folder(folder / "photos", count)
    card = write_model(folder / "model", "b", fails_on_white=fails_on_white)
    ran = maskmill("annotate", photos, "-m", card, "-o", folder / "undisturbed")
    assert ran.code == 0, ran.err
    return Oracle(photos, card, (folder / "undisturbed" / "instances.json").read_bytes())


def without(dataset: dict[str, Any], names: Sequence[str]) -> dict[str, Any]:
    """A dataset as it is when some of its images were never annotated."""
    gone = {each["id"] for each in dataset["images"] if each["file_name"] in names}
    assert len(gone) == len(names)
    images = [each for each in dataset["images"] if each["id"] not in gone]
    kept = [each for each in dataset["annotations"] if each["image_id"] not in gone]
    annotations = [{**each, "id": number} for number, each in enumerate(kept, 1)]
    return {**dataset, "images": images, "annotations": annotations}


def failures(output: object) -> dict[str, str]:
    records = [json.loads(line) for line in get(join(str(output), "failures.jsonl")).splitlines()]
    return {each["file_name"]: f"{each['stage']}/{each['kind']}" for each in records}


def folder_of(output: object) -> Folder:
    job = read_job(str(output))
    assert job is not None
    return Folder(str(output), job.run)


def left(output: object) -> int:
    """How many shards are still to come."""
    job = read_job(str(output))
    assert job is not None
    return len(missing_shards(folder_of(output), job))


def done(output: object) -> int:
    job = read_job(str(output))
    assert job is not None
    return job.counts.shards - left(output)


def attempts(output: object) -> Counter[str]:
    """How many attempts each shard took."""
    found = every_attempt(folder_of(output))
    return Counter(uri.rpartition("/")[0].rpartition("/")[2] for uri, _ in found)


def ends(output: object) -> Counter[str]:
    return Counter(attempt.ended for _, attempt in every_attempt(folder_of(output)))


def dead_letters(fleet: Fleet) -> list[str]:
    try:
        return [each.uri for each in list_entries(f"{fleet.state.uri}/dead/")]
    except FileNotFoundError:
        return []


class KillableRedis:
    """A broker with an append-only file, which comes back on its port with what it had."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._folder, self.port = folder, free_port()
        self.url = f"redis://127.0.0.1:{self.port}/0"
        self.start()

    def start(self) -> None:
        command = [redis_binary(), "--port", str(self.port), "--bind", "127.0.0.1", "--save", ""]
        durable = ["--dir", str(self._folder), "--appendonly", "yes", "--appendfsync", "everysec"]
        quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        self._process = subprocess.Popen([*command, *durable], **quiet)
        wait_for_port(self.port, self._process)

    def kill(self) -> None:
        self._process.kill()
        self._process.wait()


@contextmanager
def killable_redis(folder: Path) -> Iterator[KillableRedis]:
    made = KillableRedis(folder)
    try:
        yield made
    finally:
        made.kill()


def client_of(url: str) -> Redis:
    return Redis.from_url(url)


class Wire:
    """A TCP proxy before a server: it passes on, falls silent, or hangs up."""

    def __init__(self, target: int) -> None:
        self._target = target
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self._pairs: list[tuple[socket.socket, socket.socket, threading.Event]] = []
        self.accepting = True
        self.silent = False  # new connections carry nothing either
        threading.Thread(target=self._accept, daemon=True).start()

    def fall_silent(self) -> int:
        """Connections of now stay open and carry nothing any more; how many these are."""
        for _, _, silent in self._pairs:
            silent.set()
        return len(self._pairs)

    def hang_up(self) -> None:
        """Reset every connection of now."""
        pairs, self._pairs = self._pairs, []
        for pair in pairs:
            for each in pair[:2]:
                _reset(each)

    def close(self) -> None:
        self.hang_up()
        self._listener.close()

    def _accept(self) -> None:
        while True:
            try:
                near, _ = self._listener.accept()
            except OSError:
                return
            if not self.accepting:
                _reset(near)
                continue
            try:
                far = socket.create_connection(("127.0.0.1", self._target))
            except OSError:
                _reset(near)
                continue
            silent = threading.Event()
            if self.silent:
                silent.set()
            self._pairs.append((near, far, silent))
            for source, sink in ((near, far), (far, near)):
                threading.Thread(target=_pump, args=(source, sink, silent), daemon=True).start()


def _reset(each: socket.socket) -> None:
    with contextlib.suppress(OSError):
        each.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        each.shutdown(socket.SHUT_RDWR)
    each.close()


def _pump(source: socket.socket, sink: socket.socket, silent: threading.Event) -> None:
    with contextlib.suppress(OSError):
        while data := source.recv(1 << 16):
            if silent.is_set():
                continue  # read and thrown away: the sender's buffer never fills, as on a dead link
            sink.sendall(data)
    if not silent.is_set():
        _reset(source)
        _reset(sink)


class Storm(Proxy):
    """A proxy before S3 that spoils a share of the requests, seeded."""

    def __init__(self, endpoint: str, faults: Sequence[tuple[str, Fault]], share: float) -> None:
        super().__init__(endpoint)
        self._choices, self._share, self._chance = list(faults), share, random.Random(5)
        self.spoilt: Counter[str] = Counter()

    def answer(self, request: Any) -> None:
        if not self.faults and self._chance.random() < self._share:
            fits = [each for each in self._choices if each[0] == request.command]
            if fits:
                self.faults.append(self._chance.choice(fits))
                self.spoilt[request.command] += 1
        super().answer(request)


def conflict(proxy: Proxy, request: Any, body: bytes) -> None:
    """409 to a create-only write: another is under way."""
    if "If-None-Match" in request.headers:
        status(409, "ConditionalRequestConflict")(proxy, request, body)
    else:
        proxy.send(request, proxy.forward(request, body))


STORM = [
    ("GET", status(500, "InternalError")),
    ("GET", status(503, "SlowDown")),
    ("GET", drop),
    ("GET", truncate(300)),
    ("HEAD", status(503)),
    ("PUT", status(503, "SlowDown")),
    ("POST", status(500, "InternalError")),
]


@dataclass(frozen=True)
class OverS3:
    fleet: Fleet
    photos: str
    out: str


@contextmanager
def over_s3(folder: Path, oracle: Oracle, root: str, proxy: Proxy) -> Iterator[OverS3]:
    """A fleet whose workers see S3 through the proxy. What the test does itself goes past it."""
    for path in sorted(oracle.photos.rglob("*.jpg")):
        put(f"{root}/photos/{path.relative_to(oracle.photos)}", path.read_bytes())
    few = {"AWS_MAX_ATTEMPTS": "5", "MASKMILL_S3_READ_TIMEOUT": "1"}
    with (
        http_server(proxy.answer) as server,
        fleet(folder, MASKMILL_STATE=f"{root}/state", **few) as made,
    ):
        made.worker_variables = {"MASKMILL_S3_ENDPOINT_URL": url_of(server)}
        yield OverS3(made, f"{root}/photos/", f"{root}/out")
        proxy.released.set()
    proxy.close()


def table(tally: dict[str, Counter[str]]) -> str:
    """What was tried and what came of it, as Markdown."""
    rows = ["| fault | times | lost | doubled |", "|---|---|---|---|"]
    for fault in sorted(tally, key=lambda fault: (int(fault.partition(".")[0]), fault)):
        counts = tally[fault]
        rows.append(f"| {fault} | {counts['tried']} | {counts['lost']} | {counts['doubled']} |")
    return "\n".join(rows)


def recover(fleet: Fleet, output: object, *, seconds: float = 120.0) -> None:
    """What beat and `status --watch` do, without their waiting times."""

    def merged() -> bool:
        if exists(join(str(output), "run.json")):
            return True
        for known in fleet.state.jobs():
            if known.uri == str(output):
                look_after(fleet.app, fleet.state, known, [], 1.0)
        return False

    until(merged, seconds, f"{output} is merged", fleet.logs)
