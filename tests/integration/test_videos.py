"""Videos through the real commands: every frame of a dataset is the one that it says it is."""

from __future__ import annotations

import json
import signal
from collections.abc import Callable
from fractions import Fraction
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np
import pytest
import urllib3

from storage import get, list_entries, put
from tasks.folder import read_job
from tasks.frames import frames_of
from tasks.inputs import find
from tasks.records import Sampling
from tests.contract.test_s3_faults import Proxy
from tests.faults import SHARED, folder_of
from tests.fleet import fleet
from tests.graphs import write_model
from tests.integration.test_open_jobs import await_parts, send_bare
from tests.pictures import write_folder
from tests.ranges import Ranged
from tests.running import maskmill
from tests.services import http_server, reply, url_of
from tests.videos import Recipe, number_of, write

VFR = [n * 40 + n % 3 * 11 for n in range(30)]
RECIPES = {
    "a/clip.mp4": Recipe(name="clip.mp4", frames=50),
    "a/vfr#1.mp4": Recipe(name="vfr#1.mp4", frames=30, time_base=Fraction(1, 1000), pts=VFR, gop=7),
    "b.mkv": Recipe(name="b.mkv", frames=30, first=100),
}
Shown = list[tuple[int, Fraction, bool]]  # of each frame the number on it, its time, whether key


@pytest.fixture(scope="module")
def card(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("model"), "b")


@pytest.fixture(scope="module")
def mixed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Photographs and videos."""
    folder = write_folder(tmp_path_factory.mktemp("mixed"), 3)
    for name, recipe in RECIPES.items():
        write((folder / name).parent, recipe)
    (folder / "c.mp4").write_bytes(b"no video at all")
    return folder


def decoded(path: Path) -> Shown:
    """A plain decoding from the first frame to the last."""
    with av.open(str(path)) as container:
        start = Fraction(container.start_time or 0, 10**6)
        return [
            (
                number_of(each.to_ndarray(format="rgb24")),
                each.pts * each.time_base - start,
                each.key_frame,
            )
            for each in container.decode(video=0)
        ]


@pytest.fixture(scope="module")
def shown(mixed: Path) -> dict[str, Shown]:
    return {name: decoded(mixed / name) for name in RECIPES}


def dataset(out: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(get(f"{out}/instances.json"))
    return found


def frames_in(found: dict[str, Any]) -> dict[str, list[dict[str, Any]]]:
    """The images that are frames, by the name of their video."""
    names = {each["id"]: each["name"] for each in found["videos"]}
    by_video: dict[str, list[dict[str, Any]]] = {}
    for each in found["images"]:
        if "video_id" in each:
            by_video.setdefault(names[each["video_id"]], []).append(each)
    return by_video


def saved_number(out: str, image: dict[str, Any]) -> int:
    """What stands on a frame that was kept beside the dataset."""
    data = np.frombuffer(get(f"{out}/frames/{image['file_name']}"), np.uint8)
    return number_of(cv2.imdecode(data, cv2.IMREAD_COLOR))


def every_tick(frames: Shown, rate: int) -> list[int]:
    step = Fraction(1, rate)
    last = int(frames[-1][1] / step)
    ticks = (k * step for k in range(last + 1))
    return sorted({max(n for n, each in enumerate(frames) if each[1] <= tick) for tick in ticks})


CHOICES: dict[str, Callable[[Shown], list[int]]] = {
    "": lambda frames: list(range(len(frames))),
    "--every 7": lambda frames: list(range(0, len(frames), 7)),
    "--fps 4": lambda frames: every_tick(frames, 4),
    "--keyframes": lambda frames: [n for n, each in enumerate(frames) if each[2]],
    "--frames 2,0,29": lambda frames: [0, 2, 29],
    "--from 0.2 --to 0:00.8": lambda frames: [
        n for n, each in enumerate(frames) if Fraction(1, 5) <= each[1] < Fraction(4, 5)
    ],
}


@pytest.mark.parametrize("options", CHOICES)
def test_every_frame_is_the_one_that_it_says(
    tmp_path: Path, mixed: Path, card: Path, shown: dict[str, Shown], options: str
) -> None:
    """By number, by time and by key frames."""
    how = (*options.split(), "-m", card, "--shard-size", 5, "--save-frames")
    ran = maskmill("annotate", mixed, "-o", tmp_path / "out", *how)
    assert ran.code == 3, ran.err  # for the one that is no video
    found = dataset(str(tmp_path / "out"))
    frames = frames_in(found)
    assert set(frames) == set(RECIPES)
    for name, images in frames.items():
        expected = CHOICES[options](shown[name])
        assert [each["frame_index"] for each in images] == expected
        for each in images:
            number, time, _ = shown[name][each["frame_index"]]
            assert each["timestamp"] == round(float(time), 6)
            assert saved_number(f"{tmp_path}/out", each) == number
            assert each["file_name"] == f"{name}/frame_{each['frame_index']:06d}.jpg"
    assert len(found["images"]) == 3 + sum(map(len, frames.values()))
    (failure,) = map(json.loads, (tmp_path / "out" / "failures.jsonl").read_text().splitlines())
    assert (failure["file_name"], failure["stage"]) == ("c.mp4", "decode")


def test_the_same_bytes_from_s3(
    mixed: Path, card: Path, moto_s3: str, undisturbed: bytes, shown: dict[str, Shown]
) -> None:
    for path in filter(Path.is_file, mixed.rglob("*")):
        put(f"{moto_s3}/in/{path.relative_to(mixed)}", path.read_bytes())
    out = f"{moto_s3}/out"
    ran = maskmill("annotate", f"{moto_s3}/in/", "-m", card, "-o", out, "--save-frames")
    assert ran.code == 3, ran.err
    assert get(f"{out}/instances.json") == undisturbed
    for name, images in frames_in(dataset(out)).items():
        numbers = [saved_number(out, each) for each in images]
        assert numbers == [number for number, _, _ in shown[name]]


def test_fragments_in_words_and_lists(
    tmp_path: Path, mixed: Path, card: Path, shown: dict[str, Shown]
) -> None:
    lines = [
        "a/clip.mp4#t=0.5",
        "a/clip.mp4#frame=3",
        "a/clip.mp4#frame=12",
        "a/clip.mp4#frame=500",
        "a/vfr%231.mp4#t=0.3,0.5",
        '{"uri": "b.mkv#frame=29", "file_name": "last.jpg"}',
    ]
    (mixed / "list.jsonl").write_text("\n".join(lines))
    command = ("annotate", mixed / "list.jsonl", f"{mixed}/b.mkv#t=0", "-m", card, "--save-frames")
    ran = maskmill(*command, "-o", tmp_path / "out", "--json")
    (mixed / "list.jsonl").unlink()
    assert ran.code == 3, ran.err
    assert ran.events[-1]["duplicates"] == 1, "0.5 s is frame 12"
    found = dataset(str(tmp_path / "out"))
    inside = [n for n, each in enumerate(shown["a/vfr#1.mp4"]) if 0.3 <= each[1] < 0.5]
    assert [each["file_name"] for each in found["images"]] == [
        "a/clip.mp4/frame_000012.jpg",
        "a/clip.mp4/frame_000003.jpg",
        *(f"a/vfr#1.mp4/frame_{n:06d}.jpg" for n in inside),
        "last.jpg",
        "b.mkv/frame_000000.jpg",
    ]
    numbers = [saved_number(str(tmp_path / "out"), each) for each in found["images"]]
    assert numbers == [12, 3, *inside, 129, 100]
    (failure,) = map(json.loads, (tmp_path / "out" / "failures.jsonl").read_text().splitlines())
    assert failure["uri"].endswith("clip.mp4#frame=500")
    assert (failure["stage"], failure["kind"]) == ("decode", "no-frame")
    assert "50 frames" in failure["message"]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (
            ["a/clip.mp4#t=3,2"],
            "clip.mp4#t=3,2: no frame of a video is both from 3 on and before 2",
        ),
        (["a/clip.mp4#t=1:2:3:4"], "1:2:3:4 is no time of a video"),
        (["a/clip.mp4", "--fps", "2", "--every", "3"], "--fps and --every exclude each other"),
        (["a/clip.mp4", "--fps", "0"], "--fps takes a number above 0"),
        (["a/clip.mp4", "--from", "9", "--to", "0:03"], "both from 9 on and before 0:03"),
        (["a/clip.mp4", "--frames", "1,x"], "--frames[1] cannot be so: Expected `int`"),
        (["a/gone.mp4#t=3"], "no inputs match"),
    ],
)
def test_wrong_usage_is_one_sentence(
    tmp_path: Path, mixed: Path, card: Path, words: list[str], said: str
) -> None:
    ran = maskmill("annotate", *words, "-m", card, "-o", tmp_path / "out", cwd=mixed)
    assert ran.code == 2
    assert said in " ".join(ran.err.replace("│", " ").split())
    assert not (tmp_path / "out").exists()


def test_the_choice_is_part_of_the_question_and_no_matter_to_images(
    tmp_path: Path, mixed: Path, card: Path
) -> None:
    photos = sorted(str(path) for path in mixed.rglob("*.jpg"))
    command = ("annotate", *photos, "-m", card, "-o", tmp_path / "out")
    assert maskmill(*command, "--fps", "2").code == 0
    assert len(dataset(str(tmp_path / "out"))["images"]) == 3
    assert "videos" not in dataset(str(tmp_path / "out"))
    other = maskmill(*command, "--fps", "3")
    assert (other.code, "fps (2.0 before, 3.0 now)" in other.err) == (2, True)


def test_videos_over_http(tmp_path: Path, mixed: Path, card: Path) -> None:
    """Presigned, expired, gone, forbidden, of no store; what is signed is in the plan alone."""
    data = (mixed / "a" / "clip.mp4").read_bytes()

    def answer(request: BaseHTTPRequestHandler) -> None:
        place = request.path.partition("?")[0]
        old = b"<Error><Message>Request has expired</Message></Error>"
        start, _, last = (
            request.headers.get("Range", "bytes=0-").removeprefix("bytes=").partition("-")
        )
        end = min(int(last or len(data)) + 1, len(data))
        part = {"Content-Range": f"bytes {start}-{end - 1}/{len(data)}", "ETag": '"1"'}
        if place == "/clip.mp4":
            reply(request, 206, data[int(start) : end], part)
        else:
            reply(request, *{"/old.mp4": (403, old)}.get(place, (404, b"")))

    with http_server(answer) as server:
        base = url_of(server)
        words = [
            f"{base}/clip.mp4?X-Amz-Signature=SECRET#frame=7",
            f"{base}/clip.mp4?X-Amz-Signature=SECRET#t=0.5",
            f"{base}/old.mp4?X-Amz-Signature=SECRET#t=0.5",
            f"{base}/gone.mp4",
            "http://169.254.169.254/latest.mp4",
            "gs://bucket/other.mp4",
        ]
        listed = tmp_path / "urls.txt"
        listed.write_text("\n".join(words))
        command = ("annotate", listed, "-m", card, "-o", tmp_path / "out", "--save-frames")
        ran = maskmill(*command, MASKMILL_HTTP_ALLOW="127.0.0.1")
        assert ran.code == 3, ran.err
    out = str(tmp_path / "out")
    assert [saved_number(out, each) for each in dataset(out)["images"]] == [7, 12]
    lines = (tmp_path / "out" / "failures.jsonl").read_text().splitlines()
    ends = {each["file_name"]: (each["uri"], each["kind"]) for each in map(json.loads, lines)}
    assert ends == {
        "old.mp4#t=0.5": (f"{base}/old.mp4#t=0.5", "expired"),
        "gone.mp4": (f"{base}/gone.mp4", "not-found"),
        "latest.mp4": ("http://169.254.169.254/latest.mp4", "refused"),
        "bucket/other.mp4": ("gs://bucket/other.mp4", "bad-uri"),
    }
    texts = (tmp_path / "out").rglob("*.json*")
    holders = {path.parent.parent.name for path in texts if "SECRET" in path.read_text()}
    assert holders == {"plan"}


def test_videos_that_take_turns_are_read_once(tmp_path: Path, mixed: Path, card: Path) -> None:
    """As pictures that several cameras took at once are listed."""
    site = Ranged((mixed / "b.mkv").read_bytes())
    numbers = [9, 3, 21, 14, 28, 0]
    with http_server(site.answer) as server:
        cameras = [url_of(server, name) for name in ("/a.mkv", "/b.mkv")]
        words = [f"{camera}#frame={number}" for number in numbers for camera in cameras]
        (tmp_path / "urls.txt").write_text("\n".join(words))
        command = ("annotate", tmp_path / "urls.txt", "-m", card, "-o", tmp_path / "out")
        ran = maskmill(*command, "--save-frames", MASKMILL_HTTP_ALLOW="127.0.0.1")
        assert ran.code == 0, ran.err
    images = dataset(str(tmp_path / "out"))["images"]
    assert [each["frame_index"] for each in images] == [n for n in numbers for _ in cameras]
    shown = [saved_number(str(tmp_path / "out"), each) - 100 for each in images]
    assert shown == [each["frame_index"] for each in images]
    downloads = sum(not asked for asked, _ in site.asked)
    assert downloads <= 2 + 2 + len(images), "to plan, to work, and for the contact sheet"


def test_a_store_that_is_away_ends_the_planning(tmp_path: Path, card: Path, moto_s3: str) -> None:
    word = "s3://no-such-bucket-of-ours/missing.mp4"
    ran = maskmill("annotate", word, "-m", card, "-o", tmp_path / "out")
    assert (ran.code, ran.err.count("\n")) == (4, 1), ran.err
    assert "no-such-bucket-of-ours" in ran.err
    assert not (tmp_path / "out" / "job.json").exists()


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory, mixed: Path, card: Path) -> bytes:
    out = tmp_path_factory.mktemp("undisturbed")
    assert maskmill("annotate", mixed, "-m", card, "-o", out).code == 3
    return (out / "instances.json").read_bytes()


@pytest.mark.parametrize("size", [1, 1000])
def test_the_same_bytes_for_any_shard_size(
    tmp_path: Path, mixed: Path, card: Path, undisturbed: bytes, size: int
) -> None:
    command = ("annotate", mixed, "-m", card, "-o", tmp_path / "out", "--shard-size", size)
    done = maskmill(*command, "--json")
    assert done.code == 3
    told = [each for each in done.events if each["event"] in ("planned", "summary")]
    assert len(told) == 2
    assert all("shards" in each for each in told)
    assert (tmp_path / "out" / "instances.json").read_bytes() == undisturbed
    assert maskmill("doctor", tmp_path / "out").code == 0


@pytest.mark.parametrize("nth", [40, 80])
def test_killed_in_mid_video_and_run_again(
    tmp_path: Path, mixed: Path, card: Path, undisturbed: bytes, nth: int
) -> None:
    command = ("annotate", mixed, "-m", card, "-o", tmp_path / "out", "--shard-size", 5)
    fault = {"who": "child", "path": "/out", "nth": nth, "signal": signal.SIGKILL}
    killed = maskmill(*command, fault=fault | {"kill": "both"})
    assert killed.code == -signal.SIGKILL
    job = read_job(str(tmp_path / "out"))
    assert job is not None
    before = sum(1 for _ in list_entries(f"{folder_of(tmp_path / 'out').file('shards')}/"))
    assert 0 < before < job.counts.shards
    again = maskmill(*command, "--json")
    assert again.code == 3, again.err
    assert (tmp_path / "out" / "instances.json").read_bytes() == undisturbed


def test_planning_that_was_cut_off_goes_on(
    tmp_path: Path, mixed: Path, card: Path, undisturbed: bytes
) -> None:
    command = ("annotate", mixed, "-m", card, "-o", tmp_path / "out", "--shard-size", 5)
    fault = {"who": "parent", "path": "/plan/", "nth": 25, "signal": signal.SIGKILL}
    assert maskmill(*command, fault=fault).code == -signal.SIGKILL
    (run,) = (tmp_path / "out" / "plan").iterdir()
    written = {path: path.stat().st_mtime_ns for path in run.glob("*.jsonl")}
    assert written
    assert maskmill(*command).code == 3
    assert list((tmp_path / "out" / "plan").iterdir()) == [run]
    assert {path: path.stat().st_mtime_ns for path in written} == written
    assert (tmp_path / "out" / "instances.json").read_bytes() == undisturbed


def test_two_workers_one_of_them_killed(
    tmp_path: Path, mixed: Path, card: Path, undisturbed: bytes
) -> None:
    out = tmp_path / "out"
    with fleet(tmp_path / "fleet") as made:
        fault = {"who": "child", "path": "/out", "nth": 60, "signal": 9}
        made.worker(fault=fault)
        made.worker()
        ran = made.run("submit", mixed, "-m", card, "-o", out, SHARED, "--shard-size", 5, "--wait")
        assert ran.code == 3, made.logs()
    assert (out / "instances.json").read_bytes() == undisturbed


def test_a_video_is_uploaded_once(tmp_path: Path, mixed: Path, card: Path, moto_s3: str) -> None:
    clip = mixed / "a" / "clip.mp4"
    words = [f"{clip}#frame={n}" for n in (30, 3, 3)] + [str(clip)]
    roots = {"MASKMILL_INPUT_ROOTS": "", "MASKMILL_OUTPUT_ROOTS": ""}
    with fleet(tmp_path / "fleet", **roots, MASKMILL_STATE=f"{moto_s3}/state") as made:
        command = ("submit", *words, "-m", card, "-o", f"{moto_s3}/out", "--every", "10")
        refused = made.run(*command)
        assert (refused.code, "--upload copies" in refused.err) == (2, True)
        (dry,) = made.run(*command, "--upload", "--dry-run", "--json").events
        assert (dry["items"], dry["duplicates"]) == (6, 2)
        made.worker()
        ran = made.run(*command, "--upload", "--wait")
        assert ran.code == 0, made.logs()
    (stored,) = list_entries(f"{moto_s3}/out/inputs/")
    assert stored.size == clip.stat().st_size
    images = dataset(f"{moto_s3}/out")["images"]
    assert [each["frame_index"] for each in images] == [30, 3, 0, 10, 20, 40]


def test_an_open_job_takes_frames_by_message_and_by_command(
    tmp_path: Path, mixed: Path, card: Path, shown: dict[str, Shown]
) -> None:
    out, links = tmp_path / "out", tmp_path / "links"
    links.mkdir()
    (links / "link.mp4").symlink_to("/etc/hostname")
    clip = mixed / "a" / "clip.mp4"
    roots = f"{mixed},{links},{card.parent}"
    with fleet(tmp_path / "fleet", MASKMILL_INPUT_ROOTS=roots) as made:
        made.worker()
        items = [f"{clip}#t=1.2", f"{mixed}/a/vfr%231.mp4", f"{links}/link.mp4#t=3"]
        wish = {"items": items, "model": str(card), "output": str(out), "options": {"every": 20}}
        send_bare(made.broker, tmp_path, ("maskmill.annotate", wish))
        await_parts(out, 1)
        added = made.run(
            *("submit", clip, "-m", card, "-o", out, SHARED, "--append", "--frames", "4,30")
        )
        assert added.code == 0, added.err
        await_parts(out, 2)
        assert made.run("merge", out).code == 0, made.logs()
    images = dataset(str(out))["images"]
    assert [each["file_name"].rpartition("/")[2] for each in images] == [
        *("frame_000004.jpg", "frame_000030.jpg", "frame_000000.jpg", "frame_000020.jpg")
    ]
    assert shown["a/clip.mp4"][30][1] == Fraction("1.2")
    (failure,) = map(json.loads, (out / "failures.jsonl").read_text().splitlines())
    assert failure["uri"] == f"{links}/link.mp4#t=3"
    assert (failure["stage"], failure["kind"]) == ("fetch", "refused")


class Counting(Proxy):
    """Counts what is read."""

    read = 0

    def send(self, request: BaseHTTPRequestHandler, found: urllib3.BaseHTTPResponse) -> None:
        self.read += len(found.data)
        super().send(request, found)


def noise(number: int, width: int, height: int) -> np.ndarray:
    return np.random.default_rng(number).integers(0, 256, (height, width, 3), np.uint8)


def test_planning_reads_little_of_a_long_video(
    tmp_path: Path, moto: str, moto_s3: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its tables, not its pixels."""
    quick = {"preset": "ultrafast", "qp": "20"}
    recipe = Recipe(frames=500, gop=50, options=quick, picture=noise)
    path = write(tmp_path, recipe)
    put(f"{moto_s3}/long.mp4", path.read_bytes())
    proxy = Counting(moto)
    with http_server(proxy.answer) as server:
        monkeypatch.setenv("MASKMILL_S3_ENDPOINT_URL", url_of(server))
        found = list(frames_of(find([f"{moto_s3}/long.mp4"]), Sampling(every=100)))
    proxy.close()
    size = path.stat().st_size
    print(f"planning a video of {size:,} bytes read {proxy.read:,} in {len(proxy.seen)} requests")
    assert [each.frame.index for each in found if each.frame] == [0, 100, 200, 300, 400]
    assert proxy.read < size / 20
    assert len(proxy.seen) < 10
