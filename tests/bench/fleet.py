"""The fleet's own speed, as ratios within one run, over a real Redis and real worker processes.

python -m tests.bench.fleet [enqueue] [planning] [resume] [scaling] [overhead]

`scaling` and `overhead` need a network whose inference dominates: `make fullsize` writes one, or
--model names a card. --photos gives a folder of pictures to use instead of drawn ones.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from itertools import cycle, islice
from pathlib import Path
from typing import Any, NamedTuple
from unittest.mock import patch

from celery import Celery
from PIL import Image

from tasks import broker
from tasks.broker import make_app, queue_of, waiting
from tasks.categories import coco80
from tasks.environment import WorkerSettings
from tasks.folder import Folder, every_attempt, missing_shards, read_job
from tasks.opening import SHARD_SIZE
from tasks.records import Attempt, Item, Job, ProducedBy, Settings, Shard, encode
from tasks.shelf import find_model
from tests.bench.stand_ins import SPAWN, canned_store, slow_wire
from tests.fleet import Worker, fleet, until
from tests.graphs import write_model
from tests.pictures import picture
from tests.services import redis_server
from worker.model import load_model
from worker.shard import Means, Stopwatch, prepare

EDGE = Path("build/edge.onnx")
MILLION = 1_000_000
SHARDS = MILLION // SHARD_SIZE
VGA = (640, 480)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", nargs="*", help=f"of {', '.join(MEASURES)}; all unless given")
    parser.add_argument("--model", help=f"a card; the graph {EDGE} unless given")
    parser.add_argument("--photos", type=Path, help="resized to 640×480")
    parser.add_argument("--images", type=int, default=96)
    parser.add_argument("--threshold", type=float, default=0.3)
    parser.add_argument("--rounds", type=int, default=3)
    asked = parser.parse_args()
    for name in asked.what or MEASURES:
        with tempfile.TemporaryDirectory(prefix="maskmill-bench-") as folder:
            print(f"\n{name}")
            MEASURES[name](asked, Path(folder))


def timed(work: Callable[[], Any]) -> tuple[float, Any]:
    start = time.perf_counter()
    found = work()
    return time.perf_counter() - start, found


def in_new_process(work: Callable[..., Any], *arguments: Any) -> Any:
    """What `work` gives in a process of its own, whose memory and threads are its own."""
    with SPAWN.Pool(1) as pool:
        return pool.apply(work, arguments)


def enqueue(asked: argparse.Namespace, folder: Path) -> None:
    """The messages of a million inputs, and the same one by one, near and 1 ms away."""
    job = planned(folder, 1)
    print(f"  {SHARDS} messages              batched   one by one   ratio")
    with redis_server() as near, slow_wire(near, 0.0005) as far:
        for place, url, count in (("Redis here", near, SHARDS), ("Redis 1 ms away", far, 2000)):
            app = make_app(url)
            best: dict[int, float] = {}
            for _ in range(asked.rounds):
                for batch in (500, 1):
                    took = timed(lambda: _send(app, job, count, batch))[0] * SHARDS / count  # noqa: B023
                    best[batch] = min(took, best.get(batch, took))
            app.close()
            print(f"  {place:<28}{best[500]:6.2f} s {best[1]:10.2f} s {best[1] / best[500]:7.2f}")


def _send(app: Celery, job: Job, count: int, batch: int) -> None:
    with patch.object(broker, "BATCH", batch):
        assert broker.send_shards(app, "s3://bucket/annotations", job, range(count)) == count


def planned(folder: Path, count: int) -> Job:
    """A job over that many URIs in shards of one, planned and sent by the real command."""
    listed = write_list(folder / "list.txt", count)
    card = write_model(folder / "model")
    with fleet(folder / "fleet") as made:
        command = ("submit", listed, "-m", card, "-o", folder / "out", "--shared-paths")
        ran = made.run(*command, "--shard-size", 1)
        assert ran.code == 0, ran.err
    job = read_job(str(folder / "out"))
    assert job is not None
    return job


def write_list(path: Path, count: int) -> Path:
    with path.open("w") as file:
        file.writelines(f"s3://bucket/photos/{n // 1000:04d}/{n:09d}.jpg\n" for n in range(count))
    return path


def planning(asked: argparse.Namespace, folder: Path) -> None:
    """A list and a listing, to a plain path and to a store that answers at once."""
    print("  inputs    from        to           time   peak RSS  requests")
    with canned_store() as store:
        for source, target in (("list", "path"), ("S3 listing", "path"), ("list", "S3")):
            peaks = []
            for count in (MILLION // 10, MILLION):
                word = f"s3://listed-{count}/photos/"
                if source == "list":
                    word = str(write_list(folder / f"{count}.txt", count))
                out = f"s3://plans/{count}" if target == "S3" else str(folder / source / str(count))
                store.reset()
                seconds, peak = _plan(word, out, store.endpoint)
                peaks.append(peak)
                print(
                    f"  {count:<9} {source:<11} {target:<6} {seconds:9.1f} s {peak:7.1f} MiB",
                    end="",
                )
                print(f"  {store.said()}")
            print(f"  {'':<28} ten times the inputs: RSS × {peaks[1] / peaks[0]:.3f}")


def _plan(word: str, out: str, endpoint: str) -> tuple[float, float]:
    """Seconds and MiB at the peak, of a process that does nothing else."""
    keys = {"AWS_ACCESS_KEY_ID": "bench", "AWS_SECRET_ACCESS_KEY": "bench"}
    done = subprocess.run(
        [sys.executable, "-m", "tests.bench.planning", word, out],
        env=os.environ | keys | {"MASKMILL_S3_ENDPOINT_URL": endpoint},
        stdout=subprocess.PIPE,
        check=True,
    )
    said = json.loads(done.stdout)
    return said["seconds"], said["mib"]


def resume(asked: argparse.Namespace, folder: Path) -> None:
    """A job of as many shards as a million inputs have, of which all but 1 % are done."""
    job = planned(folder, SHARDS)
    out = Folder(str(folder / "out"), job.run)
    model = job.asked.model
    maker = ProducedBy(model.sha256, "onnx", "1", "fp32", "", "avx2")
    Path(out.shard(0)).parent.mkdir(parents=True)
    for number in range(SHARDS):
        if number % 100:
            Path(out.shard(number)).write_bytes(encode(Shard(number, maker, (), (), ())))
    missing = -(-SHARDS // 100)
    with fleet(folder / "fleet") as made:
        seconds, ran = timed(lambda: made.run("resume", out.uri, "--json"))
        assert ran.code == 0, ran.err
        assert ran.events[0]["sent"] == waiting(made.app, queue_of(job)) == missing, ran.out
    print(f"  {SHARDS} shards, {missing} missing: those sent in {seconds:.2f} s, with start-up")


def card_of(asked: argparse.Namespace, folder: Path) -> str:
    if asked.model:
        return str(asked.model)
    if not EDGE.exists():
        raise SystemExit(f"there is no {EDGE}: make fullsize writes it; or give --model")
    card = folder / "edge.toml"
    card.write_text(
        'name = "edge"\nfamily = "yolact"\nlicense = "MIT"\ncategories = "coco80"\n'
        f'\n[[builds]]\nfile = "{EDGE.name}"\n'
    )
    (folder / EDGE.name).symlink_to(EDGE.resolve())
    return str(card)


def vga_folder(asked: argparse.Namespace, folder: Path) -> Path:
    """Photographs of 640×480, as many as are asked for; each of the few is there many times."""
    made = folder / "photos"
    made.mkdir()
    given = sorted(asked.photos.glob("*.jpg")) if asked.photos else []
    drawn = [Image.open(path) for path in given] or [picture(n, *VGA) for n in range(12)]
    for number in range(asked.images):
        path = made / f"{number:04d}.jpg"
        if number < len(drawn):
            drawn[number].convert("RGB").resize(VGA).save(path, quality=90)
        else:
            path.hardlink_to(made / f"{number % len(drawn):04d}.jpg")
    return made


class Pace(NamedTuple):
    images_per_s: float
    cpu_per_image: float  # seconds, of all that the computing processes do


def show(rounds: list[tuple[Pace, Pace]], note: str) -> None:
    """Each round, and the best of either kind: other work on the machine only ever slows."""
    for number, (one, other) in enumerate(rounds, 1):
        _row(f"{note} {number}", one, other)
    best = [max(each.images_per_s for each in kind) for kind in zip(*rounds, strict=True)]
    least = [min(each.cpu_per_image for each in kind) for kind in zip(*rounds, strict=True)]
    _row(f"{note} best", *map(Pace, best, least))


def _row(what: str, one: Pace, other: Pace) -> None:
    print(
        f"  {what:<15} {one.images_per_s:7.3f}/s {other.images_per_s:7.3f}/s"
        f" {other.images_per_s / one.images_per_s:8.3f}"
        f" {one.cpu_per_image * 1000:10.1f} ms {other.cpu_per_image * 1000:7.1f} ms"
        f" {other.cpu_per_image / one.cpu_per_image:8.3f}",
        flush=True,
    )


def scaling(asked: argparse.Namespace, folder: Path) -> None:
    """One worker and two, with one thread each: images/s from the attempts, start-up excluded."""
    card, photos = card_of(asked, folder), vga_folder(asked, folder)
    print("                  one worker     two    ratio   CPU an image: one     two    ratio")
    rounds = [
        (
            fleet_pace(folder / f"{number}-1", card, photos, asked.threshold, 1),
            fleet_pace(folder / f"{number}-2", card, photos, asked.threshold, 2),
        )
        for number in range(asked.rounds)
    ]
    show(rounds, "round")


def fleet_pace(
    folder: Path,
    card: str,
    photos: Path,
    threshold: float,
    workers: int = 1,
    cores: Iterable[int] = (),
    shard_size: int = 4,
) -> Pace:
    """The images/s of a fleet's workers added up, each from its first start to its last commit.

    So the wait of one worker for the other's last shard is left out; shards are small. Workers
    keep to `cores` with a thread for each, or run anywhere with one.
    """
    cores = set(cores)
    settings = {"MASKMILL_THREADS": str(len(cores) or 1), "MASKMILL_DECODE_THREADS": "1"}
    out = folder / "out"
    with fleet(folder, **settings) as made:
        with only(cores):
            started = [made.worker("-m", card) for _ in range(workers)]
        for each in started:
            until(partial(_is_warm, each), 120, "warm", each.said)
        before = sum(cpu_of(each.child()) for each in started)
        command = ("submit", photos, "-m", card, "-o", out, "--shared-paths")
        ran = made.run(*command, "--shard-size", shard_size, "--threshold", threshold)
        assert ran.code == 0, ran.err
        job = read_job(str(out))
        assert job is not None
        done = Folder(str(out), job.run)
        until(lambda: not missing_shards(done, job), 600, "annotated", made.logs)
        cpu = sum(cpu_of(each.child()) for each in started) - before
    spans: dict[str, list[Attempt]] = {}
    for _, attempt in every_attempt(done):
        spans.setdefault(attempt.worker, []).append(attempt)
    assert len(spans) == workers
    rate = sum(
        sum(each.images for each in mine)
        / (max(each.beat for each in mine) - min(each.started for each in mine))
        for mine in spans.values()
    )
    return Pace(rate, cpu / job.counts.items)


def _is_warm(worker: Worker) -> bool:
    return "loaded and warm" in worker.said()


def cpu_of(process: int) -> float:
    ticks = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[11:13]
    return sum(map(int, ticks)) / os.sysconf("SC_CLK_TCK")


def overhead(asked: argparse.Namespace, folder: Path) -> None:
    """A worker beside the bare runtime on prepared tensors, on the same cores."""
    card, photos = card_of(asked, folder), vga_folder(asked, folder)
    everywhere = sorted(os.sched_getaffinity(0))
    print("                  bare runtime  worker   ratio  CPU an image: bare  worker   ratio")
    for count in sorted({1, len(everywhere)}):
        rounds, cores = [], everywhere[-count:]
        for number in range(asked.rounds):
            place = folder / f"{count}-{number}"
            bare = Pace(*in_new_process(bare_pace, card, str(photos), cores))
            rounds.append((bare, fleet_pace(place, card, photos, asked.threshold, 1, cores, 16)))
        show(rounds, f"{count} core{'s' * (count > 1)},")


@contextmanager
def only(cores: Iterable[int]) -> Iterator[None]:
    """Keep to these cores, if any are named, what is started meanwhile."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, set(cores) or before)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def bare_pace(card: str, photos: str, cores: list[int]) -> tuple[float, float]:
    """Images/s and CPU seconds an image of nothing but the runtime, each photograph once."""
    os.sched_setaffinity(0, cores)
    loaded = load_model(find_model(card), WorkerSettings(threads=len(cores)))
    limits = Settings(categories=coco80(), class_ids=(), max_bytes=1 << 30, max_pixels=1 << 30)
    means = Means(loaded, limits, Stopwatch())
    ready = [
        prepare(Item(number, str(path), path.name), None, means)
        for number, path in enumerate(sorted(Path(photos).iterdir())[:12])
    ]
    feeds = [loaded.intake.feeds(tensor, picture.frame) for picture, tensor in ready]
    count = len(list(Path(photos).iterdir()))
    before = time.process_time()
    seconds, _ = timed(
        lambda: deque((loaded.runtime.run(each) for each in islice(cycle(feeds), count)), 0)
    )
    return count / seconds, (time.process_time() - before) / count


MEASURES: dict[str, Callable[[argparse.Namespace, Path], None]] = {
    "enqueue": enqueue,
    "planning": planning,
    "resume": resume,
    "scaling": scaling,
    "overhead": overhead,
}

if __name__ == "__main__":
    main()
