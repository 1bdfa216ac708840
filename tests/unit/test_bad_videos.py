"""Videos that are damaged, empty, endless or ill-meant: what fails is theirs alone, and said."""

from __future__ import annotations

import random
import socket
import struct
from pathlib import Path
from typing import Any

import av
import pytest

from tasks.videos import BadVideo, VideoLimits
from tests.reading import LIMITS, in_shards, indexed, items_of, plain, read
from tests.videos import RECIPES, Recipe, write
from worker.video import look

DAMAGED = [
    "h264 with b-frames",
    "h264 without b-frames",
    "open groups in mp4",
    "open groups in ts",
    "hevc",
    "hevc with open groups",
    "mpeg2 in ts",
    "mpeg4 with b-frames in avi",
    "mjpeg in avi",
    "vp9",
]


def sound(path: Path, found: dict[int, int | str]) -> list[int]:
    """The frames that were read; each is the one that it is said to be."""
    numbers = {frame: number for frame, number in found.items() if isinstance(number, int)}
    assert {str(each) for each in found.values() if isinstance(each, str)} <= {"decode/damaged"}
    return sorted(numbers)


def outcome(path: Path) -> str:
    """How a look at a video ends."""
    try:
        return f"{len(indexed(path).pts)} frames"
    except BadVideo as exc:
        assert str(exc).isprintable()
        return f"{exc.stage}/{exc.kind}"


@pytest.mark.parametrize("kind", DAMAGED)
def test_a_damaged_part_costs_only_its_frames(tmp_path: Path, kind: str) -> None:
    path = write(tmp_path, RECIPES[kind])
    index = indexed(path)
    before = read(items_of(path, index))
    with av.open(str(path)) as container:
        packets = [each for each in container.demux(video=0) if each.size]
    # In the second of the groups, behind its first frames.
    keys = [place for place, each in enumerate(packets) if each.is_keyframe]
    hit = packets[keys[1] + (3 if len(keys) < 10 else 0)]
    data = bytearray(path.read_bytes())
    start = hit.pos + (600 if path.suffix == ".ts" else 8)
    random.seed(7)
    for place in range(start, start + max(8, hit.size // 2 if path.suffix != ".ts" else 700)):
        data[place] = random.randrange(256)
    path.write_bytes(data)
    again = indexed(path)
    items = items_of(path, again)
    found = in_shards(items, 64)
    print(found)
    lost = sorted(frame for frame, said in found.items() if said == "decode/damaged")
    print(kind, "hit", hit.pts, "lost", lost, [again.pts[n] for n in lost])
    assert in_shards(items, 1) == in_shards(items, 3) == found
    assert read(items[::-1]) == found
    groups = {again.groups[frame] for frame in lost}
    assert len(groups) <= 2
    assert lost
    for frame, number in found.items():
        if frame not in lost:
            assert number == before[frame]


@pytest.mark.parametrize("kind", [*DAMAGED, "faststart", "fragmented", "vp8", "flv", "mpeg1 in mpg"])
def test_a_truncated_video_yields_what_it_holds(tmp_path: Path, kind: str) -> None:
    path = write(tmp_path, RECIPES[kind])
    whole = path.read_bytes()
    random.seed(kind)
    lengths = {0, 1, 7, 8, 20, 100, len(whole) - 1}
    lengths |= {random.randrange(len(whole)) for _ in range(25)}
    held = []
    for length in sorted(lengths):
        path.write_bytes(whole[:length])
        try:
            index = indexed(path)
        except BadVideo as exc:
            assert (exc.stage, exc.kind) in {("decode", "not-a-video"), ("decode", "no-frames")}
            continue
        found = in_shards(items_of(path, index), 64)
        read_back = [each for each in found.values() if isinstance(each, int)]
        assert read_back == sorted(read_back)
        assert all(said in (frame, "decode/damaged") for frame, said in found.items())
        try:
            oracle = plain(path)
        except av.FFmpegError:
            oracle = []
        held.append((length, len(read_back), len(found), len(oracle)))
    print(kind, held)
