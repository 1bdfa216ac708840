"""Videos that are damaged, empty, endless or ill-meant: what fails is theirs alone, and said."""

from __future__ import annotations

import random
from contextlib import suppress
from pathlib import Path

import av
import pytest

from tasks.videos import BadVideo, VideoIndex
from tests.reading import in_shards, indexed, items_of, read
from tests.videos import RECIPES, number_of, write

DAMAGED = [
    "h264 with b-frames",
    "h264 without b-frames",
    "open groups in mp4",
    "hevc",
    "hevc with open groups",
    "mpeg2 in ts",
    "mpeg4 with b-frames in avi",
    "mjpeg in avi",
    "vp9",
]


def damage(path: Path) -> int:
    """Spoil a packet in the second group of pictures; returns its time stamp."""
    with av.open(str(path)) as container:
        packets = [each for each in container.demux(video=0) if each.size]
    keys = [place for place, each in enumerate(packets) if each.is_keyframe]
    hit = packets[keys[1] + (3 if len(keys) < 10 else 0)]
    data = bytearray(path.read_bytes())
    start, length = hit.pos + 8, hit.size // 2
    if path.suffix == ".ts":  # in the last bytes of its first transport packet
        start, length = hit.pos + 188 - 20, 20
    data[start : start + length] = random.Random(7).randbytes(length)
    path.write_bytes(data)
    assert hit.pts is not None
    return hit.pts


@pytest.mark.parametrize("kind", DAMAGED)
def test_a_damaged_part_costs_only_its_frames(tmp_path: Path, kind: str) -> None:
    path = write(tmp_path, RECIPES[kind])
    pts = damage(path)
    index = indexed(path)
    assert len(index.pts) == 40
    items = items_of(path, index)
    found = read(items)
    lost = [frame for frame, said in found.items() if said == "decode/damaged"]
    print(f"{kind}: the packet of frame {index.pts.index(pts)} spoilt, lost {lost}")
    assert index.pts.index(pts) in lost
    assert len({index.groups[frame] for frame in lost}) == 1
    assert all(found[frame] == frame for frame in range(40) if frame not in lost)
    for size in (1, 3, 64):
        assert in_shards(items, size) == found
    assert read(items[::-1]) == found


@pytest.mark.parametrize("kind", [*DAMAGED, "faststart", "fragmented", "vp8", "flv", "ts"])
def test_a_truncated_video_yields_what_it_holds(tmp_path: Path, kind: str) -> None:
    path = write(tmp_path, RECIPES[kind])
    whole = path.read_bytes()
    lengths = {0, 1, 7, 8, 20, 100, len(whole) - 1}
    lengths |= {random.Random(kind).randrange(len(whole)) for _ in range(25)}
    random.seed(kind)
    lengths |= {random.randrange(len(whole)) for _ in range(25)}
    most = 0
    for length in sorted(lengths):
        path.write_bytes(whole[:length])
        if (index := looked(path)) is None:
            continue
        numbers = dict(plain_to_the_end(path))
        found = in_shards(items_of(path, index), 64)
        lost = [frame for frame, said in found.items() if said == "decode/damaged"]
        for frame, said in found.items():
            assert frame in lost or said == numbers[index.pts[frame]]
        assert len(lost) <= 1 or min(lost) > len(found) - 14, (length, lost, len(found))
        assert len(found) - len(lost) >= most
        most = len(found) - len(lost)
    assert most > 30


def looked(path: Path) -> VideoIndex | None:
    try:
        return indexed(path)
    except BadVideo as exc:
        assert exc.kind in {"not-a-video", "no-frames"}  # noqa: PT017 - or none is raised
        return None


def plain_to_the_end(path: Path) -> list[tuple[int, int]]:
    """As `plain`, where the last packets may be broken."""
    frames: list[av.VideoFrame] = []
    with av.open(str(path)) as container:
        for packet in container.demux(video=0):
            with suppress(av.FFmpegError):
                frames += packet.decode()
    numbers = [number_of(each.to_ndarray(format="rgb24")) for each in frames]
    return [(each.pts or 0, number) for each, number in zip(frames, numbers, strict=True)]
