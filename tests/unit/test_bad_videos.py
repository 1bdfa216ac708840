"""Videos that are damaged, empty, endless or ill-meant: what fails is theirs alone, and said."""

from __future__ import annotations

import random
import resource
import socket
import struct
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path

import av
import pytest

from tasks.records import ItemError
from tasks.videos import VideoIndex
from tests.reading import LIMITS, in_shards, indexed, items_of, read
from tests.videos import RECIPES, Recipe, number_of, write, write_sound
from worker import film
from worker.film import look

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
    except ItemError as exc:
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


M3U8 = "#EXTM3U\n#EXT-X-TARGETDURATION:10\n#EXTINF:10,\n{}\n#EXT-X-ENDLIST\n"
SDP = "v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nt=0 0\nm=video {} RTP/AVP 96\n"


def avi_with_a_playlist(folder: Path, playlist: str) -> bytes:
    """An AVI whose second stream is a GAB2 subtitle that holds a playlist, as in CVE-2017-9993."""
    avi = write(folder, RECIPES["mjpeg in avi"]).read_bytes()
    text = playlist.encode()
    name = "x.m3u8".encode("utf-16-le") + b"\0\0"
    body = b"GAB2\0" + struct.pack("<HI", 2, len(name)) + name
    body += struct.pack("<HI", 4, len(text)) + text
    chunk = b"01tx" + struct.pack("<I", len(body)) + body + b"\0" * (len(body) % 2)
    header = b"strh" + struct.pack("<I", 56) + b"txts" + bytes(4) + struct.pack("<12I", *[1] * 12)
    form = b"strf" + struct.pack("<I", 0)
    extra = b"LIST" + struct.pack("<I", 4 + len(header) + len(form)) + b"strl" + header + form
    end_of_headers = avi.index(b"LIST", avi.index(b"movi") - 12)
    movi = avi.index(b"movi") + 4
    return avi[:end_of_headers] + extra + avi[end_of_headers:movi] + chunk + avi[movi:]


@pytest.fixture
def listener() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.setblocking(False)
        yield server


@pytest.mark.parametrize("without", ["", "protocol_whitelist", "format_whitelist"])
@pytest.mark.parametrize("form", ["hls", "hls of a file", "concat", "sdp", "avi", "xml", "text"])
def test_nothing_leads_out_of_a_file(
    tmp_path: Path,
    listener: socket.socket,
    form: str,
    without: str,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    """Each of the two lists is enough; with neither, the concatenation would be followed."""
    kept = {name: value for name, value in film._OPTIONS.items() if name != without}
    monkeypatch.setattr(film, "_OPTIONS", kept)
    port = listener.getsockname()[1]
    secret = write(tmp_path, RECIPES["ts"])
    url = f"http://127.0.0.1:{port}/a.ts"
    data = {
        "hls": M3U8.format(url).encode(),
        "hls of a file": M3U8.format(f"file://{secret}").encode(),
        "concat": f"ffconcat version 1.0\nfile {secret}\n".encode(),
        "sdp": SDP.format(port).encode(),
        "avi": avi_with_a_playlist(tmp_path / "avi", M3U8.format(url)),
        "xml": f'<?xml version="1.0"?><MPD><BaseURL>{url}</BaseURL></MPD>'.encode(),
        "text": b"hello",
    }[form]
    path = tmp_path / "clip.mp4"
    path.write_bytes(data)
    index = looked(path)
    if form == "avi":
        assert index is not None
        assert read(items_of(path, index)) == dict(enumerate(range(40)))
    else:
        assert index is None
    with pytest.raises(BlockingIOError):
        listener.accept()
    assert capfd.readouterr() == ("", "")


def test_sound_alone_is_no_video(tmp_path: Path) -> None:
    path = tmp_path / "sound.mp4"
    with av.open(str(path), "w") as container:
        write_sound(container, 1.0)
    with pytest.raises(ItemError, match="no pictures"):
        indexed(path)


def test_a_video_without_frames(tmp_path: Path) -> None:
    path = tmp_path / "none.mkv"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mjpeg", rate=25)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuvj420p"
        container.start_encoding()
    assert looked(path) is None


@pytest.mark.parametrize("kind", ["mjpeg in mov", "mjpeg in avi", "vp9", "h264 with b-frames"])
def test_absurd_dimensions(tmp_path: Path, kind: str) -> None:
    """Said by the container, where the frames themselves may be sound or not."""
    path = write(tmp_path, RECIPES[kind])
    data = path.read_bytes()
    small, large = {
        ".mov": (struct.pack(">HH", 128, 96), struct.pack(">HH", 65000, 65000)),
        ".mp4": (struct.pack(">HH", 128, 96), struct.pack(">HH", 65000, 65000)),
        ".avi": (struct.pack("<II", 128, 96), struct.pack("<II", 1 << 20, 1 << 20)),
        ".webm": (b"\xb0\x81\x80\xba\x81\x60", b"\xb0\x81\xff\xba\x81\xff"),
    }[path.suffix]
    assert small in data
    path.write_bytes(data.replace(small, large))
    with resource_limit(4 << 30):
        try:
            found = read(items_of(path, indexed(path)))
        except ItemError as exc:
            assert exc.kind in {"too-many-pixels", "not-a-video", "no-frames"}  # noqa: PT017
        else:
            assert all(said in (frame, "decode/damaged") for frame, said in found.items())


@contextmanager
def resource_limit(size: int) -> Iterator[None]:
    """Of address space, so that what is allocated for absurd sizes shows."""
    before = resource.getrlimit(resource.RLIMIT_AS)
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)


def test_frames_larger_than_the_limit(tmp_path: Path) -> None:
    path = write(tmp_path, Recipe())
    with pytest.raises(ItemError, match="128×96 pixels, more than the limit of 10,000"):
        look(str(path), None, replace(LIMITS, max_pixels=10_000))


@pytest.mark.parametrize("limit", [{"max_frames": 39}, {"max_seconds": 1}])
def test_videos_longer_than_the_limit(tmp_path: Path, limit: dict[str, int]) -> None:
    path = write(tmp_path, Recipe())
    assert len(look(str(path), None, replace(LIMITS, max_frames=40, max_seconds=2)).pts) == 40
    with pytest.raises(ItemError) as caught:
        look(str(path), None, replace(LIMITS, **limit))
    assert caught.value.kind == "too-long"


def test_an_avi_in_another_order_than_shown(tmp_path: Path) -> None:
    path = write(tmp_path, Recipe("clip.avi", options={"bf": "2"}))
    with pytest.raises(ItemError, match="convert it"):
        indexed(path)
