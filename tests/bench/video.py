"""Videos: what is decoded for each frame annotated, read of S3 for each byte needed, and planned.

python -m tests.bench.video [--frames 3000]
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Any
from unittest.mock import patch

import av
import boto3
import numpy as np
from numpy.typing import NDArray

from storage import put, s3
from tasks.frames import frames_of
from tasks.inputs import find
from tasks.plan import write_plan
from tasks.records import Item, Selection
from tests.services import moto_server
from tests.videos import Recipe, numbered, write
from worker.frames import FrameReader

GOP = 30
SHARD_SIZES = (8, 16, 64)
SAMPLINGS = {
    "every frame": Selection(),
    "--every 10": Selection(every=10),
    "--keyframes": Selection(keyframes=True),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--frames", type=int, default=3000)
    count = parser.parse_args().frames
    with tempfile.TemporaryDirectory(prefix="maskmill-bench-") as name:
        folder = Path(name)
        sides = {"width": 320, "height": 240}
        film = write(folder, Recipe("a.mp4", frames=count, gop=GOP, picture=noisy, **sides))
        print(f"{count} frames of H.264 with B-frames, a key frame every {GOP},", end=" ")
        print(f"{film.stat().st_size:,} bytes")
        decoding(folder, film)
        planning(folder, write(folder, Recipe("b.mp4", frames=20_000, width=64, height=48)))
        reading(film)


def noisy(number: int, width: int, height: int) -> NDArray[np.uint8]:
    """A picture that takes as many bytes as one of a camera."""
    noise = np.random.default_rng(number).integers(-30, 30, (height, width, 1), np.int16)
    return np.clip(numbered(number, width, height) + noise, 0, 255).astype(np.uint8)


def plan(folder: Path, word: str, selection: Selection, size: int) -> list[list[Item]]:
    """The items of each shard."""
    out, counts = write_plan(str(folder), b"", frames_of(find([word]), selection), selection, size)
    return [list(out.read_plan(shard)) for shard in range(counts.shards)]


def decode(shards: Sequence[Sequence[Item]]) -> int:
    """Read all frames, with a reader for each shard as a worker has one; the packets decoded."""
    decoded = 0
    for items in shards:
        with closing(FrameReader(1 << 30, 1 << 24)) as reader:
            for item in items:
                reader.read(item)
            decoded += reader.decoded
    return decoded


def decoding(folder: Path, film: Path) -> None:
    print("packets decoded for each frame annotated, by images a shard:")
    print(f"  {'':14}" + "".join(f"{size:>8}" for size in SHARD_SIZES))
    for name, selection in SAMPLINGS.items():
        cells = []
        for size in SHARD_SIZES:
            shards = plan(folder / f"{name} {size}", str(film), selection, size)
            cells.append(f"{decode(shards) / sum(map(len, shards)):8.2f}")
        print(f"  {name:14}" + "".join(cells))


def planning(folder: Path, film: Path) -> None:
    start = time.perf_counter()
    shards = plan(folder / "planned", str(film), Selection(), 64)
    seconds = time.perf_counter() - start
    frames = sum(map(len, shards))
    print(f"planning took {seconds / frames * 100_000:.1f} s for each 100,000 frames")


def reading(film: Path) -> None:
    """Ten frames of a long video that lies in S3."""
    fetched = 0

    def ask(*given: Any, **more: Any) -> Any:
        nonlocal fetched
        answer = really(*given, **more)
        fetched += answer.get("ContentLength", 0)
        return answer

    really = s3.ask
    keys = {"AWS_ACCESS_KEY_ID": "x", "AWS_SECRET_ACCESS_KEY": "x", "AWS_REGION": "us-east-1"}
    with moto_server() as endpoint, patch.dict(os.environ, keys, MASKMILL_S3_ENDPOINT_URL=endpoint):
        boto3.client("s3", endpoint_url=endpoint, region_name="us-east-1").create_bucket(
            Bucket="bench"
        )
        put("s3://bench/long.mp4", film.read_bytes())
        with patch.object(s3, "ask", ask), tempfile.TemporaryDirectory() as out:
            numbers = tuple(range(GOP // 2, GOP * 90, GOP * 9))
            shards = plan(Path(out), "s3://bench/long.mp4", Selection(frames=numbers), 64)
            planned = fetched
            decode(shards)
    index, groups = needed(film, shards[0])
    read = fetched - planned
    print(f"{len(shards[0])} frames from S3: planning read {planned:,} bytes, the worker {read:,};")
    print(
        f"  {(planned + read) / (index + groups):.2f} times the index, {index:,}, and the groups",
        end="",
    )
    print(f" of pictures that are needed, {groups:,}")


def needed(film: Path, items: Sequence[Item]) -> tuple[int, int]:
    """Bytes of the film's tables, and of the groups of pictures that these frames are in."""
    wanted = {item.frame.group for item in items if item.frame}
    sizes: dict[int, int] = {}
    with av.open(str(film)) as file:
        for packet in file.demux(video=0):
            if packet.is_keyframe:
                group = packet.pts
            sizes[group] = sizes.get(group, 0) + packet.size
    index = film.stat().st_size - sum(sizes.values())
    return index, sum(size for group, size in sizes.items() if group in wanted)


if __name__ == "__main__":
    main()
