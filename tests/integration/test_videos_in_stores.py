"""Videos in stores: what is read of them over the wire, and what of it the dataset becomes."""

from __future__ import annotations

import dataclasses
import json
import random
import subprocess
import sys
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler
from pathlib import Path

import av
import numpy as np
import pytest

import storage
from storage.s3_clients import client_for
from storage.uris import join, parse
from tasks.records import ItemError
from tasks.videos import VideoLimits
from tests.graphs import write_model
from tests.pictures import write_folder
from tests.ranges import Ranged
from tests.reading import LIMITS, in_shards, indexed, items_of, read
from tests.running import maskmill
from tests.services import http_server, url_of
from tests.videos import RECIPES, Pixels, Recipe, numbered, write
from worker import ranges
from worker.film import look
from worker.frames import FrameReader


@pytest.fixture(autouse=True)
def forgetful() -> Iterator[None]:
    """Nothing is left in this process of what another test read."""
    yield
    forget()


def forget() -> None:
    ranges._index_piece.cache_clear()
    for file in ranges._last_download.values():
        file.close()
    ranges._last_download.clear()


def grainy(number: int, width: int, height: int) -> Pixels:
    """A picture that does not compress well."""
    noise = np.random.default_rng(number).integers(-30, 30, (height, width, 3))
    return (numbered(number, width, height) + noise).clip(0, 255).astype(np.uint8)


LONG = Recipe(
    "long.mp4",
    frames=3000,
    gop=60,
    width=256,
    height=192,
    options={"crf": "22"},
    sound=True,
    picture=grainy,
)


@pytest.fixture(scope="module")
def long(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(tmp_path_factory.mktemp("long"), LONG)


def received(uri: str) -> list[int]:
    """Grows by the bytes of each object, or part, that the store sends."""
    lengths: list[int] = []
    events = client_for(parse(uri)).meta.events
    events.unregister("after-call.s3.GetObject", unique_id="received")
    events.register(
        "after-call.s3.GetObject",
        lambda parsed, **_: lengths.append(parsed.get("ContentLength", 0)),
        unique_id="received",
    )
    return lengths


def group_bytes(path: Path) -> dict[int, int]:
    """By the time stamp of its key frame how many bytes a group of pictures takes in the file."""
    with av.open(str(path)) as container:
        packets = [each for each in container.demux(video=0) if each.size]
    keys = [each for each in packets if each.is_keyframe]
    ends = [each.pos for each in keys[1:]] + [packets[-1].pos + packets[-1].size]
    return {key.pts or 0: end - key.pos for key, end in zip(keys, ends, strict=True)}


def test_of_a_long_video_in_s3_little_is_read(moto_s3: str, long: Path) -> None:
    uri = join(moto_s3, "long.mp4")
    storage.put(uri, long.read_bytes())
    lengths = received(uri)
    index = indexed(uri)
    assert len(index.pts) == 3000
    looked, size = sum(lengths), long.stat().st_size
    lengths.clear()
    frames = sorted(random.Random(5).sample(range(3000), 10))
    assert read(items_of(uri, index, frames)) == {each: each for each in frames}
    groups = group_bytes(long)
    needed = sum(groups[key] for key in {index.groups[each] for each in frames})
    print(
        f"of {size:,} bytes: {looked:,} for the index in {len(lengths)} requests;"
        f" {sum(lengths):,} for 10 frames of groups of {needed:,} bytes"
    )
    assert looked < size / 20
    assert sum(lengths) <= 1.2 * needed + looked


def test_all_frames_are_read_once(moto_s3: str, long: Path) -> None:
    uri = join(moto_s3, "long.mp4")
    storage.put(uri, long.read_bytes())
    lengths = received(uri)
    index = indexed(uri)
    reader = FrameReader(LIMITS.max_bytes, LIMITS.max_pixels)
    items = items_of(uri, index, range(1200))
    lengths.clear()
    assert read(items, reader) == {each: each for each in range(1200)}
    needed = sum(list(group_bytes(long).values())[:20])
    print(f"{sum(lengths):,} bytes in {len(lengths)} requests for 20 groups of {needed:,}")
    assert sum(lengths) <= 1.2 * needed + (1 << 17)
    assert 1200 <= reader.decoded < 1260


STORED = ["h264 with b-frames", "fragmented", "faststart", "open groups in mp4", "late in mp4"]
STORED += ["mjpeg in mov", "vp9", "ts", "mjpeg in avi"]


@pytest.mark.parametrize("kind", STORED)
def test_each_frame_from_s3(moto_s3: str, tmp_path: Path, kind: str) -> None:
    path = write(tmp_path, RECIPES[kind])
    uri = join(moto_s3, path.name)
    storage.put(uri, path.read_bytes())
    there, here = indexed(uri), indexed(path)
    assert (list(there.pts), there.video) == (list(here.pts), here.video)
    assert in_shards(items_of(uri, there), 7) == dict(enumerate(range(40)))


Serve = Callable[[Callable[[BaseHTTPRequestHandler], None]], str]


@pytest.fixture
def serve(monkeypatch: pytest.MonkeyPatch) -> Iterator[Serve]:
    monkeypatch.setenv("MASKMILL_HTTP_ALLOW", "127.0.0.1")
    monkeypatch.setattr("storage.backoff", lambda attempt: 0.0)
    servers = []

    def start(answer: Callable[[BaseHTTPRequestHandler], None]) -> str:
        servers.append(http_server(answer))
        return url_of(servers[-1].__enter__(), "/clip.mp4?signed=yes")

    yield start
    for server in servers:
        server.__exit__(None, None, None)


@pytest.mark.parametrize("etag", ['"one"', 'W/"one"', ""])
@pytest.mark.parametrize("has_ranges", [True, False])
@pytest.mark.parametrize("kind", ["h264 with b-frames", "vp9"])
def test_each_frame_over_http(
    serve: Serve, tmp_path: Path, kind: str, has_ranges: bool, etag: str
) -> None:
    site = Ranged(write(tmp_path, RECIPES[kind]).read_bytes(), etag)
    site.ranges = has_ranges
    url = serve(site.answer)
    index = indexed(url)
    site.cut = 2 if has_ranges and etag == '"one"' else 0
    assert in_shards(items_of(url, index), 64) == dict(enumerate(range(40)))


def test_a_download_of_no_known_version_is_not_taken_for_the_next(
    serve: Serve, tmp_path: Path
) -> None:
    site = Ranged(write(tmp_path, RECIPES["vp9"]).read_bytes(), "")
    url = serve(site.answer)
    assert len(indexed(url).pts) == 40
    site.data = write(tmp_path, Recipe("other.webm", RECIPES["vp9"].codec, frames=41)).read_bytes()
    assert len(indexed(url).pts) == 41


def test_a_download_is_kept_for_the_next_shard(serve: Serve, tmp_path: Path) -> None:
    site = Ranged(write(tmp_path, RECIPES["vp9"]).read_bytes())
    url = serve(site.answer)
    index = indexed(url)
    site.asked.clear()
    in_shards(items_of(url, index), 3)
    assert site.asked == []


@pytest.mark.parametrize("kind", ["h264 with b-frames", "vp9"])
@pytest.mark.parametrize("store", ["disk", "s3", "http"])
def test_a_video_that_changed_since_it_was_planned(
    moto_s3: str, serve: Serve, tmp_path: Path, kind: str, store: str
) -> None:
    path = write(tmp_path, RECIPES[kind])
    site = Ranged(path.read_bytes())
    uri = {"disk": str(path), "s3": join(moto_s3, "a"), "http": serve(site.answer)}[store]
    if store == "s3":
        storage.put(uri, path.read_bytes())
    items = items_of(uri, indexed(uri))
    other = write(tmp_path / "other", Recipe(path.name, RECIPES[kind].codec, frames=41))
    forget()
    site.data, site.etag = other.read_bytes(), '"two"'
    if store != "http":
        storage.put(uri, other.read_bytes())
    assert set(read(items).values()) == {"fetch/changed"}


@pytest.mark.parametrize("announced", [True, False])
def test_what_is_too_much_to_download(serve: Serve, tmp_path: Path, announced: bool) -> None:
    """Announced as such, or an endless stream: no more than the limit is taken."""
    data = write(tmp_path, RECIPES["ts"]).read_bytes()
    sent = [0]

    def answer(request: BaseHTTPRequestHandler) -> None:
        request.send_response(200)
        if announced:
            request.send_header("Content-Length", str(1 << 40))
        else:
            request.send_header("Transfer-Encoding", "chunked")
        request.end_headers()
        request.close_connection = True
        try:
            while True:
                body = data if announced else b"%x\r\n%s\r\n" % (len(data), data)
                request.wfile.write(body)
                sent[0] += len(data)
        except OSError:
            return

    url = serve(answer)
    limits = VideoLimits(1 << 20, 86_400, 10**6, 10**8)
    with pytest.raises(ItemError, match="more than 1048576 bytes") as caught:
        look(url, None, limits)
    assert (caught.value.stage, caught.value.kind) == ("fetch", "too-large")
    assert sent[0] < 64 << 20


@pytest.fixture(scope="module")
def card(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("models"), "a")


@pytest.fixture(scope="module")
def mixed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Pictures between videos, one of which is damaged and one of which is none."""
    folder = write_folder(tmp_path_factory.mktemp("mixed"), 5)
    for name, kind in {"a": "open groups in mp4", "q": "rotated by 90", "z": "vp9"}.items():
        made = write(folder, RECIPES[kind])
        made.rename(folder / f"{name}{made.suffix}")
    data = bytearray((folder / "a.mp4").read_bytes())
    with av.open(str(folder / "a.mp4")) as container:
        hit = [each for each in container.demux(video=0) if each.size][20]
    data[hit.pos + 8 : hit.pos + hit.size] = bytes(hit.size - 8)
    (folder / "a.mp4").write_bytes(data)
    (folder / "none.mp4").write_bytes(b"hello")
    return folder


def annotated(folder: Path, card: Path, out: Path, *options: object) -> bytes:
    ran = maskmill("annotate", folder, "-m", card, "-o", out, "--max-failures", 99, *options)
    assert ran.code == 0, ran.err
    assert "mmco" not in ran.err
    return (out / "instances.json").read_bytes() + (out / "failures.jsonl").read_bytes()


def test_frames_beside_pictures(tmp_path: Path, mixed: Path, card: Path) -> None:
    """The same bytes in shards of any size, and in careful mode, where frames go one by one."""
    whole = annotated(mixed, card, tmp_path / "64", "--shard-size", 64)
    dataset = json.loads((tmp_path / "64" / "instances.json").read_bytes())
    lines = (tmp_path / "64" / "failures.jsonl").read_text().splitlines()
    failed = {each["file_name"]: each["kind"] for each in map(json.loads, lines)}
    assert failed.pop("none.mp4") == "not-a-video"
    assert set(failed.values()) == {"damaged"}
    assert 0 < len(failed) < 13
    assert all(each.startswith("a.mp4/frame_") for each in failed)
    sides = {each["name"]: (each["width"], each["height"]) for each in dataset["videos"]}
    assert sides == {"a.mp4": (128, 96), "q.mp4": (96, 128), "z.webm": (128, 96)}
    frames = [each for each in dataset["images"] if "video_id" in each]
    assert len(frames) == 120 - len(failed)
    for each in frames:
        assert each["timestamp"] == each["frame_index"] / 25
        assert each["file_name"].endswith(f"/frame_{each['frame_index']:06d}.jpg")
    assert len(dataset["images"]) == len(frames) + 5
    for size in (1, 7):
        assert annotated(mixed, card, tmp_path / str(size), "--shard-size", size) == whole


def test_memory_does_not_grow_with_the_length(tmp_path: Path, long: Path) -> None:
    """All frames of a long video, and of one of a tenth of its length, each read in a process."""
    short = write(tmp_path, dataclasses.replace(LONG, frames=300))
    peaks = [_peak(path) for path in (short, long)]
    print(f"peak {peaks[0] / 1024:.1f} MiB with 300 frames, {peaks[1] / 1024:.1f} with 3000")
    assert peaks[1] < 1.1 * peaks[0]


def _peak(path: Path) -> int:
    """In KiB; unlike ru_maxrss it knows nothing of the process that started this one."""
    code = (
        "import sys; from pathlib import Path; from tests.reading import indexed, items_of, read;"
        " index = indexed(sys.argv[1]); found = read(items_of(sys.argv[1], index));"
        " assert all(a == b for a, b in found.items());"
        " print(Path('/proc/self/status').read_text().split('VmHWM:')[1].split()[0])"
    )
    command = [sys.executable, "-c", code, str(path)]
    return int(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
