"""A random soak: kill -9 of anything at any time, with the oracle on every job.

    python -m tests.chaos.soak

CHAOS_MINUTES (30) and CHAOS_KILLS (1000) say when it ends: at the first of them; CHAOS_SEED makes
its choices again. Killed are processes that compute, whole workers, the broker (Redis with an
append-only file), the scheduler, mergers, and whoever submits and follows. Small jobs follow one
another, three at a time, and each is held against the bytes of an undisturbed run. It ends with a
table in Markdown.

By rule 5 of the attempts an image whose process dies on it twice in careful mode is given up, since
nothing tells such a kill from a poisonous image. Kills are random over many shards, so that is
rare; where it happens the records of the attempts must show those two deaths, the failure is
counted beside the table as given up, and all else of that job must be equal.
"""

from __future__ import annotations

import os
import random
import subprocess
import sys
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from storage import exists
from tasks.folder import every_attempt
from tests.faults import (
    TALLY,
    KillableRedis,
    Oracle,
    failures,
    folder_of,
    killable_redis,
    make_oracle,
    table,
)
from tests.fleet import Fleet, Worker, fleet
from tests.running import MASKMILL, environment

IMAGES, SHARD, WORKERS, AT_A_TIME = 24, 2, 3, 3
STUCK_S = 600.0  # a job that takes longer than this is lost
KINDS = ("child", "whole worker", "supervisor", "Redis with AOF", "beat", "merger", "submitter")
WEIGHTS = (46, 18, 10, 8, 4, 8, 6)
LETTERS = {kind: f"{number}. soak: {kind}" for number, kind in enumerate(KINDS, 1)}


@dataclass
class Running:
    out: Path
    since: float
    watch: subprocess.Popen[bytes]
    hit_by: Counter[str] = field(default_factory=Counter)


@dataclass
class Soak:
    folder: Path
    fleet: Fleet
    redis: KillableRedis
    oracle: Oracle
    chance: random.Random
    kills: Counter[str] = field(default_factory=Counter)
    jobs: list[Running] = field(default_factory=list)
    finished: int = 0
    given_up: int = 0
    broken: list[str] = field(default_factory=list)
    workers: list[Worker] = field(default_factory=list)
    beat: Worker | None = None

    def keep_going(self) -> None:
        """What systemd or Kubernetes does: start again what has ended."""
        self.workers = [each for each in self.workers if each.process.poll() is None]
        while len(self.workers) < WORKERS:
            self.workers.append(self.fleet.worker())
        if self.beat is None or self.beat.process.poll() is not None:
            self.beat = self.fleet.beat()
        for job in self.jobs:
            if job.watch.poll() is not None:
                job.watch = self.watch(job.out)

    def watch(self, out: Path) -> subprocess.Popen[bytes]:
        """`submit --wait`: it plans what is not planned, and sends again what was lost."""
        command = [MASKMILL, "submit", self.oracle.photos, "-m", self.oracle.card, "-o", out]
        options = ["--shared-paths", "--shard-size", SHARD, "--wait", "--max-failures", IMAGES]
        with (self.folder / "watch.log").open("ab") as log:
            return subprocess.Popen(
                [str(word) for word in (*command, *options)],
                env=environment(None, **self.fleet.variables),
                stdout=log,
                stderr=log,
            )

    def submit(self, number: int) -> None:
        out = self.folder / f"job-{number}" / "out"
        self.jobs.append(Running(out, time.monotonic(), self.watch(out)))

    def kill_something(self) -> None:
        (kind,) = self.chance.choices(KINDS, WEIGHTS)
        if not self.blows()[kind]():
            return
        self.kills[kind] += 1
        for job in self.jobs:
            job.hit_by[kind] += 1

    def blows(self) -> dict[str, Callable[[], bool]]:
        return {
            "child": lambda: self.kill_child(self.any_worker()),
            "whole worker": lambda: _killed(self.any_worker().kill),
            "supervisor": lambda: _killed(self.any_worker().process.kill),
            "Redis with AOF": self.kill_redis,
            "beat": lambda: self.beat is not None and _killed(self.beat.kill),
            "merger": self.kill_merger,
            "submitter": self.kill_submitter,
        }

    def any_worker(self) -> Worker:
        return self.chance.choice(self.workers)

    def kill_child(self, worker: Worker) -> bool:
        with suppress(ProcessLookupError, FileNotFoundError, AssertionError, IndexError):
            worker.kill_child()
            return True
        return False

    def kill_redis(self) -> bool:
        self.redis.kill()
        time.sleep(self.chance.choice((0.0, 0.5, 2.0)))
        self.redis.start()
        return True

    def kill_merger(self) -> bool:
        """One is started, whatever else merges, and dies somewhere on its way."""
        if not self.jobs:
            return False
        merger = subprocess.Popen(
            [MASKMILL, "merge", str(self.chance.choice(self.jobs).out)],
            env=environment(None, **self.fleet.variables),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        with suppress(subprocess.TimeoutExpired):
            merger.wait(self.chance.uniform(0.3, 2.0))
            return False  # it was quicker
        merger.kill()
        merger.wait()
        return True

    def kill_submitter(self) -> bool:
        """Planning, publishing or following; `keep_going` types the same again."""
        if not self.jobs:
            return False
        watch = self.chance.choice(self.jobs).watch
        alive = watch.poll() is None
        watch.kill()
        watch.wait()
        return alive

    def look(self) -> None:
        """Hold what is merged against the oracle, and give up on nothing before its time."""
        for job in list(self.jobs):
            if exists(f"{job.out}/run.json"):
                self.jobs.remove(job)
                self.finished += 1
                self.judge(job)
                job.watch.terminate()
                job.watch.wait()
            elif time.monotonic() - job.since > STUCK_S:
                self.jobs.remove(job)
                self.broken.append(f"{job.out} is not done after {STUCK_S:g} s")
                job.watch.kill()
                job.watch.wait()

    def judge(self, job: Running) -> None:
        before = _sums()
        crashed = sorted(failures(job.out))
        self.given_up += len(crashed)
        try:
            if crashed:
                _require_two_deaths_each(job.out, len(crashed))
            self.oracle.check(job.out, "0. job", crashed=crashed)
        except AssertionError as exc:
            self.broken.append(f"{job.out}: {exc}")
        lost, doubled = (after - b for after, b in zip(_sums(), before, strict=True))
        for kind in job.hit_by:
            TALLY[LETTERS[kind]] += Counter(lost=lost, doubled=doubled)


def _sums() -> tuple[int, int]:
    return TALLY["0. job"]["lost"], TALLY["0. job"]["doubled"]


def _killed(blow: Callable[[], object]) -> bool:
    with suppress(ProcessLookupError):
        blow()
        return True
    return False


def _require_two_deaths_each(out: Path, images: int) -> None:
    deaths: defaultdict[int, int] = defaultdict(int)
    for _, attempt in every_attempt(folder_of(out)):
        if attempt.careful and attempt.item is not None and attempt.ended != "committed":
            deaths[attempt.item] += 1
    enough = [item for item, times in deaths.items() if times >= 2]
    assert len(enough) >= images, f"given up without two deaths: {dict(deaths)}"


def soak(minutes: float, kills: int, seed: int) -> Soak:
    with tempfile.TemporaryDirectory(prefix="maskmill-soak-", ignore_cleanup_errors=True) as name:
        folder = Path(name)
        oracle = make_oracle(folder / "oracle", IMAGES)
        with killable_redis(folder / "redis") as redis, fleet(folder / "fleet", redis.url) as made:
            running = Soak(folder, made, redis, oracle, random.Random(seed))
            end, number = time.monotonic() + 60 * minutes, 0
            said = 0.0
            while running.jobs or _goes_on(running, end, kills):
                running.keep_going()
                while len(running.jobs) < AT_A_TIME and _goes_on(running, end, kills):
                    running.submit(number)
                    number += 1
                time.sleep(running.chance.expovariate(1.0))
                if _goes_on(running, end, kills):
                    running.kill_something()
                running.look()
                if time.monotonic() - said > 30:
                    said = time.monotonic()
                    _say(running)
            for each in running.jobs:
                each.watch.kill()
            if running.broken:
                print(made.logs()[-20_000:], file=sys.stderr)
            return running


def _goes_on(running: Soak, end: float, kills: int) -> bool:
    return time.monotonic() < end and running.kills.total() < kills


def _say(running: Soak) -> None:
    told = ", ".join(f"{count} × {kind}" for kind, count in running.kills.items())
    print(f"{running.finished} jobs, {running.kills.total()} kills: {told}", flush=True)


def main() -> int:
    minutes = float(os.environ.get("CHAOS_MINUTES") or 30)
    kills = int(os.environ.get("CHAOS_KILLS") or 1000)
    seed = int(os.environ.get("CHAOS_SEED") or random.SystemRandom().randrange(1 << 32))
    start = time.monotonic()
    print(f"CHAOS_SEED={seed}", flush=True)
    ran = soak(minutes, kills, seed)
    for kind in KINDS:
        TALLY[LETTERS[kind]]["tried"] = ran.kills[kind]
    total = TALLY.pop("0. job")
    print(
        f"\n{ran.finished} jobs of {IMAGES} images, {ran.kills.total()} kills in"
        f" {(time.monotonic() - start) / 60:.0f} minutes; lost {total['lost']}, doubled"
        f" {total['doubled']}, given up after two deaths in careful mode {ran.given_up}\n"
    )
    print(table(TALLY))
    for each in ran.broken:
        print(each, file=sys.stderr)
    return 1 if ran.broken else 0


if __name__ == "__main__":
    sys.exit(main())
