"""`maskmill annotate`, run as a person runs it: real processes, real files, canned networks."""

from __future__ import annotations

import contextlib
import errno
import io
import json
import os
import random
import re
import signal
import subprocess
import time
import zlib
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO

from storage import get, put
from tests.graphs import NAMES, write_model
from tests.pictures import jpeg, picture, write_folder
from tests.running import MASKMILL, environment, maskmill
from tests.services import http_server, reply, url_of


@pytest.fixture(scope="session")
def card(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("models"), "a")


@pytest.fixture(scope="session")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_folder(tmp_path_factory.mktemp("photos"), 15)


@pytest.fixture(scope="session")
def undisturbed(tmp_path_factory: pytest.TempPathFactory, photos: Path, card: Path) -> bytes:
    """instances.json of a run in which nothing happens."""
    out = tmp_path_factory.mktemp("undisturbed")
    assert maskmill("annotate", photos, "-m", card, "-o", out, "--shard-size", 4).code == 0
    return (out / "instances.json").read_bytes()


def load(path: Path) -> Any:
    return json.loads(path.read_bytes())


def failures(out: Path) -> dict[str, str]:
    lines = (out / "failures.jsonl").read_text().splitlines()
    return {each["file_name"]: f"{each['stage']}/{each['kind']}" for each in map(json.loads, lines)}


@pytest.mark.parametrize(
    ("form", "mask_format"),
    [("a", "rle"), ("b", "rle"), ("g", "polygon"), ("g without priors", "rle")],
    ids=["no background, RLE", "with background, RLE", "raw loc with priors, polygons", "raw loc"],
)
def test_folder_to_dataset(tmp_path: Path, photos: Path, form: Any, mask_format: str) -> None:
    out = tmp_path / "out"
    model = write_model(tmp_path, form)
    ran = maskmill("annotate", photos, "-m", model, "-o", out, "--mask-format", mask_format)
    assert ran.code == 0, ran.err
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO(str(out / "instances.json"))
        results = truth.loadRes(str(out / "results.json"))
    assert len(truth.getImgIds()) == 15
    assert len(truth.getAnnIds()) == len(results.getAnnIds()) > 100
    assert [each["name"] for each in truth.loadCats(truth.getCatIds())] == list(NAMES)
    for each, result in zip(
        truth.dataset["annotations"], results.dataset["annotations"], strict=True
    ):
        drawn = truth.annToMask(each)
        assert int(results.annToMask(result).sum()) == each["area"]
        kept = coco_mask.iou([coco_mask.encode(drawn)], [result["segmentation"]], [0])[0, 0]
        assert kept == pytest.approx(each.get("polygon_iou", 1.0), abs=1e-3)
    with Image.open(out / "contact-sheet.jpg") as sheet:
        assert min(sheet.size) > 300
    assert maskmill("doctor", out).code == 0
    names = [each["file_name"] for each in load(out / "instances.json")["images"]]
    assert names == sorted(names, key=str.encode)
    assert names[0].startswith("deep/")


def test_each_bad_input_is_one_record_and_the_rest_goes_on(tmp_path: Path, card: Path) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    good = jpeg(1)
    (folder / "good.jpg").write_bytes(good)
    (folder / "really a png.jpg").write_bytes(_png(2))
    (folder / "no extension").write_bytes(jpeg(3))
    (folder / "empty.jpg").write_bytes(b"")
    (folder / "truncated.jpg").write_bytes(good[: len(good) // 2])
    (folder / "text.png").write_bytes(b"this is no picture at all")
    (folder / "bomb.png").write_bytes(_png_header(60_000, 60_000))
    (folder / "big.jpg").write_bytes(jpeg(4) + b"\0" * 200_000)
    (folder / "dangling.jpg").symlink_to(tmp_path / "nowhere")
    (folder / "notes.txt").write_text("not an image, and known for it")
    out = tmp_path / "out"
    ran = maskmill("annotate", folder, "-m", card, "-o", out, "--json", MASKMILL_MAX_BYTES="100000")
    assert ran.code == 3, ran.err
    summary = ran.events[-1]
    assert summary["event"] == "summary"
    assert failures(out) == {
        "empty.jpg": "decode/empty",
        "truncated.jpg": "decode/corrupt",
        "text.png": "decode/not-an-image",
        "bomb.png": "decode/too-many-pixels",
        "big.jpg": "fetch/too-large",
        "dangling.jpg": "fetch/not-found",
    }
    annotated = {each["file_name"] for each in load(out / "instances.json")["images"]}
    assert annotated == {"good.jpg", "really a png.jpg", "no extension"}
    assert summary["images"] + summary["failures"] == summary["inputs"]
    assert summary["not_images"] >= 1
    assert any(name.endswith("notes.txt") for name in summary["not_images_named"])
    assert maskmill("doctor", out).code == 0
    again = maskmill(
        *("annotate", folder, "-m", card, "-o", out, "--max-failures", 9),
        MASKMILL_MAX_BYTES="100000",
    )
    assert again.code == 0, "within the budget"


def test_vanished_and_changed_after_planning(tmp_path: Path, card: Path) -> None:
    """The child is killed before its first fetch; what happens to the files then is found out."""
    folder = write_folder(tmp_path / "in", 4, first=1)
    out = tmp_path / "out"
    fault = {"who": "child", "path": "picture 0001", "errno": errno.EIO}
    maskmill("annotate", folder, "-m", card, "-o", out, fault=fault)
    (folder / "picture 0001.jpg").unlink()
    (folder / "picture 0002.jpg").write_bytes(jpeg(77, 99, 99))
    ran = maskmill("annotate", folder, "-m", card, "-o", out)
    assert ran.code == 3
    assert "2 inputs failed, more than --max-failures 0; they are listed in" in ran.out
    expected = {"picture 0001.jpg": "fetch/not-found", "picture 0002.jpg": "fetch/changed"}
    assert failures(out) == expected


@pytest.mark.parametrize("size", [1, 7, 128])
@pytest.mark.parametrize("threads", ["1", "5"])
def test_same_bytes_for_any_shard_size_and_threads(
    tmp_path: Path, photos: Path, card: Path, undisturbed: bytes, size: int, threads: str
) -> None:
    ran = maskmill(
        *("annotate", photos, "-m", card, "-o", tmp_path, "--shard-size", size),
        MASKMILL_DECODE_THREADS=threads,
        MASKMILL_THREADS=threads,
    )
    assert ran.code == 0, ran.err
    assert (tmp_path / "instances.json").read_bytes() == undisturbed


@pytest.mark.parametrize("seed", range(6))
def test_killed_at_any_point_and_run_again(
    tmp_path: Path, photos: Path, card: Path, undisturbed: bytes, seed: int
) -> None:
    """kill -9 at some touch of the output, by parent and child; then the same command again."""
    chance = random.Random(seed)
    command = ("annotate", photos, "-m", card, "-o", tmp_path / "out", "--shard-size", 4)
    fault = {"who": "parent", "path": "/out", "nth": chance.randint(1, 12)}
    killed = maskmill(*command, fault=fault | {"signal": signal.SIGKILL})
    assert killed.code == -signal.SIGKILL
    fault = {"who": "child", "path": "/out", "nth": chance.randint(8, 60)}
    killed = maskmill(*command, fault=fault | {"signal": signal.SIGKILL})
    assert "killed by signal 9" in killed.err
    ran = maskmill(*command)
    assert ran.code == 0, ran.err
    assert (tmp_path / "out" / "instances.json").read_bytes() == undisturbed
    assert maskmill("doctor", tmp_path / "out").code == 0


def test_an_image_that_kills_its_process_costs_only_itself(
    tmp_path: Path, photos: Path, card: Path
) -> None:
    fault = {"who": "child", "path": "picture 0007", "signal": signal.SIGSEGV, "always": True}
    ran = maskmill("annotate", photos, "-m", card, "-o", tmp_path, "--shard-size", 5, fault=fault)
    assert ran.code == 3, ran.err
    assert "killed by signal 11" in ran.err
    assert failures(tmp_path) == {"picture 0007.jpg": "worker/crashed"}
    assert len(load(tmp_path / "instances.json")["images"]) == 14
    assert load(tmp_path / "run.json")["attempts"]["died"] == 4


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["nowhere/*.jpg"], ["no inputs match", "nowhere"]),
        (["nowhere.jpg"], ["no inputs match", "nowhere.jpg"]),
        (["{notes}"], ["none of the 1 files found is an image"]),
        (["{photos}", "-m", "unheard-of"], ["no model 'unheard-of'", "shapes"]),
        (["{photos}", "-m", "{fake}.onnx"], ["no card", "fake.toml"]),
        (["{photos}", "-m", "{text}"], ["no network", "text.onnx"]),
        (["{photos}", "-m", "{other}"], ["does not fit its card", "expected", "found"]),
        (["{photos}", "-m", "{wrong}"], ["SHA-256", "instead of"]),
        (["{photos}", "--classes", "ash,brich"], ["no class 'brich'", "near it: birch"]),
        (["{photos}", "--category-ids", "coco91"], ["'ash'"]),
        (["{twice}/a", "{twice}/b"], ["would both be", "x.jpg"]),
        (["{photos}", "--images-from", "{notes}/n.txt"], ["n.txt", "not JSON"]),
        (["{photos}", "--images-from", "{ids}"], ["is not in", "--extra-images"]),
        (["{ids}", "{ids2}"], ["both have the image id 5"]),
        (["ftp://host/x.jpg"], ["ftp", "not supported"]),
        (["{photos}", "--precision", "bf16"], ["bf16", "openvino"]),
        (["{photos}", "--category-map", "{ids}"], ["--category-map", "cannot be read"]),
        (["{photos}", "--allow-unmatched"], ["--category-map", "not given"]),
    ],
    ids=lambda value: value[-1] if isinstance(value, list) else None,
)
def test_wrong_usage_is_one_sentence_before_anything_runs(
    tmp_path: Path, photos: Path, card: Path, arguments: list[str], words: list[str]
) -> None:
    places = _wrong_places(tmp_path)
    filled = [word.format(photos=photos, **places) for word in arguments]
    model = [] if "-m" in filled else ["-m", card]
    ran = maskmill("annotate", *filled, *model, "-o", tmp_path / "out", cwd=tmp_path)
    assert ran.code == 2, ran.err
    assert ran.err.count("\n") == 1
    assert all(word in ran.err for word in words), ran.err
    assert not (tmp_path / "out" / "job.json").exists()


def _wrong_places(folder: Path) -> dict[str, str]:
    for name in ("notes", "twice/a", "twice/b"):
        (folder / name).mkdir(parents=True)
    (folder / "notes/n.txt").write_text("no image")
    (folder / "fake.onnx").write_bytes(b"no network")
    for part in "ab":
        (folder / f"twice/{part}/x.jpg").write_bytes(jpeg(1))
    text = write_model(folder, "a", "text")
    (folder / "text.onnx").write_bytes(b"this is no network either")
    other = write_model(folder, "a", "other")
    other.write_text(other.read_text().replace('"ash", "birch", ', ""))
    wrong = write_model(folder, "a", "wrong")
    wrong.write_text(wrong.read_text() + f'sha256 = "{"0" * 64}"\n')
    for name in ("ids.json", "ids2.json"):
        images = [{"id": 5, "file_name": f"{name}.jpg"}]
        (folder / name).write_text(json.dumps({"images": images}))
    return {
        "notes": "notes",
        "fake": "fake",
        "text": str(text),
        "other": str(other),
        "wrong": str(wrong),
        "twice": "twice",
        "ids": "ids.json",
        "ids2": "ids2.json",
    }


def test_another_setting_on_the_same_output_is_refused(
    tmp_path: Path, photos: Path, card: Path
) -> None:
    command = ("annotate", photos, "-m", card, "-o", tmp_path)
    assert maskmill(*command).code == 0
    before = (tmp_path / "instances.json").read_bytes()
    ran = maskmill(*command, "--threshold", 0.3)
    assert ran.code == 2
    assert "threshold (null before, 0.3 now)" in ran.err
    assert "--overwrite" in ran.err
    assert (tmp_path / "instances.json").read_bytes() == before
    assert maskmill(*command, "--threshold", 0.3, "--overwrite").code == 0
    scores = [each["score"] for each in load(tmp_path / "instances.json")["annotations"]]
    assert scores
    assert min(scores) >= 0.3
    shards = list((tmp_path / "shards").rglob("*.json"))
    assert len(shards) == 1, "the old run's shards are gone"


def test_a_dataset_edited_by_hand_is_not_replaced(tmp_path: Path, photos: Path, card: Path) -> None:
    command = ("annotate", photos, "-m", card, "-o", tmp_path)
    assert maskmill(*command).code == 0
    (tmp_path / "instances.json").write_text("edited")
    assert maskmill("doctor", tmp_path).code == 4
    ran = maskmill(*command, "--max-detections", 3, "--overwrite")
    assert ran.code == 4
    assert "--replace-edited" in ran.err
    assert (tmp_path / "instances.json").read_text() == "edited"
    assert maskmill(*command, "--max-detections", 3, "--replace-edited").code == 0
    counts = [each["image_id"] for each in load(tmp_path / "instances.json")["annotations"]]
    assert max(map(counts.count, set(counts))) <= 3


def test_a_full_disk_stops_with_one_sentence_and_goes_on_later(
    tmp_path: Path, photos: Path, card: Path, undisturbed: bytes
) -> None:
    command = ("annotate", photos, "-m", card, "-o", tmp_path / "out", "--shard-size", 4)
    fault = {"who": "child", "path": "/out/shards", "nth": 3, "errno": errno.ENOSPC}
    ran = maskmill(*command, fault=fault)
    assert ran.code == 4
    assert ran.err.splitlines()[-1].endswith("the disk or the quota is full"), ran.err
    assert maskmill(*command).code == 0
    assert (tmp_path / "out" / "instances.json").read_bytes() == undisturbed


def test_an_error_between_two_shards_ends_the_run(
    tmp_path: Path, photos: Path, card: Path, undisturbed: bytes
) -> None:
    command = ("annotate", photos, "-m", card, "-o", tmp_path / "out")
    fault = {"who": "child", "call": "worker.local:read_job", "raises": "OSError"}
    ran = maskmill(*command, fault=fault)
    assert (ran.code, "injected" in ran.err) == (4, True), ran.err
    assert maskmill(*command).code == 0
    assert (tmp_path / "out" / "instances.json").read_bytes() == undisturbed


def test_an_output_that_cannot_be_written(tmp_path: Path, photos: Path, card: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    ran = maskmill("annotate", photos, "-m", card, "-o", tmp_path / "file" / "out")
    assert ran.code == 4
    assert "file/out" in ran.err
    assert ran.err.count("\n") == 1


def test_ctrl_c_stops_cleanly_and_the_same_command_goes_on(
    tmp_path: Path, photos: Path, card: Path, undisturbed: bytes
) -> None:
    command = [MASKMILL, "annotate", str(photos), "-m", str(card), "-o", str(tmp_path / "out")]
    command += ["--shard-size", "1", "--json"]
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment()
    )
    assert process.stdout is not None
    for line in process.stdout:
        if json.loads(line)["event"] == "committed":
            process.send_signal(signal.SIGINT)
            break
    out, err = process.communicate(timeout=60)
    assert process.returncode == 4, err
    said = json.loads(out.splitlines()[-1])
    assert (said["event"], said["exit"]) == ("error", 4)
    assert "the same command goes on" in said["message"]
    done = len(list((tmp_path / "out" / "shards").rglob("*.json")))
    assert 1 <= done < 15
    assert f"{done} of 15 inputs" in said["message"]
    subprocess.run(command, check=True, capture_output=True)
    assert (tmp_path / "out" / "instances.json").read_bytes() == undisturbed


def test_a_dead_parent_takes_its_child_along(tmp_path: Path, photos: Path, card: Path) -> None:
    command = [MASKMILL, "annotate", str(photos), "-m", str(card), "-o", str(tmp_path / "out")]
    process = subprocess.Popen(
        [*command, "--shard-size", "1", "--json"], stdout=subprocess.PIPE, env=environment()
    )
    assert process.stdout is not None
    for line in process.stdout:
        if json.loads(line)["event"] == "committed":
            break
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    process.kill()
    process.wait()
    process.stdout.close()
    end = time.monotonic() + 30
    while any(Path(f"/proc/{child}").exists() for child in children) and time.monotonic() < end:
        os.sched_yield()
    assert not any(Path(f"/proc/{child}").exists() for child in children)


def test_lists_duplicates_sample_and_limit(tmp_path: Path, photos: Path, card: Path) -> None:
    names = sorted(str(path.relative_to(photos)) for path in photos.rglob("*.jpg"))
    some = tmp_path / "some.txt"
    lines = [str(photos / name) for name in names[:6]]
    some.write_text("# a comment\n" + "\n".join([*lines, lines[0]]) + "\n")
    more = tmp_path / "more.jsonl"
    more.write_text(json.dumps({"uri": str(photos / names[7]), "file_name": "seventh.jpg"}) + "\n")
    command = ("annotate", some, more, "-", "-m", card, "--json")
    ran = maskmill(*command, "-o", tmp_path / "all", stdin=f"{photos / names[8]}\n{lines[1]}\n")
    assert ran.code == 0, ran.err
    assert (ran.events[-1]["inputs"], ran.events[-1]["duplicates"]) == (8, 2)
    images = load(tmp_path / "all" / "instances.json")["images"]
    assert [each["id"] for each in images] == list(range(1, 9))
    assert images[6]["file_name"] == "seventh.jpg"

    def chosen(out: str, *options: object) -> list[str]:
        assert maskmill("annotate", photos, "-m", card, "-o", tmp_path / out, *options).code == 0
        return [each["file_name"] for each in load(tmp_path / out / "instances.json")["images"]]

    first, second = chosen("s1", "--sample", 5, "--seed", 1), chosen("s2", "--sample", 5)
    assert len(first) == len(second) == 5
    assert first != second
    assert first == sorted(first, key=str.encode)
    assert chosen("limit", "--limit", 3) == sorted(names, key=str.encode)[:3]


def test_ids_of_a_coco_file_are_kept(tmp_path: Path, photos: Path, card: Path) -> None:
    names = sorted(str(path.relative_to(photos)) for path in photos.rglob("*.jpg"))
    truth = tmp_path / "truth.json"
    records = [{"id": 100 - n, "file_name": name, "width": 1} for n, name in enumerate(names[:4])]
    truth.write_text(json.dumps({"images": records, "annotations": [{"id": 1, "image_id": 100}]}))
    command = ("annotate", truth, "--images-root", photos, "-m", card)
    assert maskmill(*command, "-o", tmp_path / "own").code == 0
    expected = {each["file_name"]: each["id"] for each in records}
    images = load(tmp_path / "own" / "instances.json")["images"]
    assert {each["file_name"]: each["id"] for each in images} == expected
    assert [each["id"] for each in images] == [97, 98, 99, 100]
    command = ("annotate", photos, "-m", card, "--images-from", truth, "--extra-images")
    assert maskmill(*command, "-o", tmp_path / "from").code == 0
    images = load(tmp_path / "from" / "instances.json")["images"]
    assert [each["id"] for each in images] == list(range(97, 112))
    assert {each["file_name"]: each["id"] for each in images}.items() >= expected.items()


def test_classes_and_category_ids(tmp_path: Path, photos: Path, card: Path) -> None:
    ids = tmp_path / "ids.json"
    ids.write_text(json.dumps({name: 10 * n for n, name in enumerate(NAMES, 1)}))
    command = ("annotate", photos, "-m", card, "--classes", "Cedar, 50", "--category-ids", ids)
    assert maskmill(*command, "-o", tmp_path / "out").code == 0
    dataset = load(tmp_path / "out" / "instances.json")
    assert {each["category_id"] for each in dataset["annotations"]} == {30, 50}
    assert [each["id"] for each in dataset["categories"]] == [10, 20, 30, 40, 50]


def test_a_category_map_and_tidied_masks(tmp_path: Path, photos: Path, card: Path) -> None:
    mapping = tmp_path / "map.json"
    mapping.write_text(json.dumps({"ash": "tree", "2": "tree", "elm": "elm"}))
    command = ("annotate", photos, "-m", card, "--category-map", mapping)
    assert maskmill(*command, "-o", tmp_path / "out").code == 0
    assert maskmill(*command, "--min-area", 400, "-o", tmp_path / "large").code == 0
    dataset = load(tmp_path / "out" / "instances.json")
    assert [(each["id"], each["name"]) for each in dataset["categories"]] == [
        (6, "tree"),
        (5, "elm"),
    ]
    assert {each["category_id"] for each in dataset["annotations"]} == {5, 6}
    large = load(tmp_path / "large" / "instances.json")["annotations"]
    wanted = [each["bbox"] for each in dataset["annotations"] if each["area"] >= 400]
    assert 0 < len(wanted) < len(dataset["annotations"])
    assert [each["bbox"] for each in large] == wanted
    mapping.write_text(json.dumps({"oak": "tree", "elm": "tree"}))
    refused = maskmill(*command, "-o", tmp_path / "other")
    assert (refused.code, refused.err.count("\n")) == (2, 1)
    assert "'oak'" in refused.err
    assert maskmill(*command, "--allow-unmatched", "-o", tmp_path / "other").code == 0


def test_s3_in_and_out(tmp_path: Path, card: Path, s3: str, undisturbed: bytes) -> None:
    """The same photographs from a bucket, into a bucket: the same bytes as from a folder."""
    photos = write_folder(tmp_path / "photos", 15)
    for path in photos.rglob("*.jpg"):
        put(f"{s3}/photos/{path.relative_to(photos)}", path.read_bytes())
    put(f"{s3}/photos/notes.txt", b"not an image")
    command = ("annotate", f"{s3}/photos/", "-m", card, "-o", f"{s3}/out", "--json")
    ran = maskmill(*command, "--shard-size", 4)
    assert ran.code == 0, ran.err
    assert ran.events[-1]["not_images"] == 1
    assert get(f"{s3}/out/instances.json") == undisturbed
    assert maskmill("doctor", f"{s3}/out").code == 0
    glob = ("annotate", f"{s3}/photos/deep/*.jpg", "-m", card, "-o", f"{s3}/deep", "--json")
    assert maskmill(*glob).events[-1]["images"] == 5


def test_missing_buckets_and_credentials(
    tmp_path: Path, photos: Path, card: Path, moto_s3: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    ran = maskmill("annotate", "s3://not-there/x/", "-m", card, "-o", tmp_path / "a")
    assert (ran.code, "not-there" in ran.err, ran.err.count("\n")) == (4, True, 1), ran.err
    ran = maskmill("annotate", photos, "-m", card, "-o", "s3://not-there/out")
    assert (ran.code, "not-there" in ran.err, ran.err.count("\n")) == (4, True, 1), ran.err
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    ran = maskmill("annotate", photos, "-m", card, "-o", f"{moto_s3}/out")
    assert (ran.code, "credentials" in ran.err) == (4, True), ran.err


def _png(seed: int) -> bytes:
    file = io.BytesIO()
    picture(seed).save(file, "PNG")
    return file.getvalue()


def _png_header(width: int, height: int) -> bytes:
    """A PNG that says it is huge, and is not."""
    small = _png(9)
    head = small[12:16] + width.to_bytes(4, "big") + height.to_bytes(4, "big") + small[24:29]
    return small[:12] + head + zlib.crc32(head).to_bytes(4, "big") + small[33:]


def test_http_inputs_and_presigned_queries(tmp_path: Path, card: Path) -> None:
    """One good URL, one gone, one expired, one whose name does not resolve, one forbidden place."""
    with http_server(_answer) as server:
        base = url_of(server)
        signed = f"{base}/good.jpg?X-Amz-Signature=SECRET"
        urls = [signed, f"{base}/gone.jpg", f"{base}/old.jpg?X-Amz-Signature=SECRET"]
        urls += ["http://no-such-host.invalid/x.jpg", "http://169.254.169.254/latest.jpg"]
        listed = tmp_path / "urls.txt"
        listed.write_text("\n".join(urls))
        ran = maskmill(
            *("annotate", listed, "-m", card, "-o", tmp_path / "out", "--max-failures", 4),
            MASKMILL_HTTP_ALLOW="127.0.0.1",
        )
    assert ran.code == 0, ran.err
    assert failures(tmp_path / "out") == {
        "gone.jpg": "fetch/not-found",
        "old.jpg": "fetch/expired",
        "x.jpg": "fetch/unreachable",
        "latest.jpg": "fetch/refused",
    }
    said = (tmp_path / "out" / "failures.jsonl").read_text()
    assert "expired" in said
    assert "does not resolve" in said
    holders = [path for path in (tmp_path / "out").rglob("*.json*") if "SECRET" in path.read_text()]
    assert [path.parent.parent.name for path in holders] == ["plan"]


def _answer(request: BaseHTTPRequestHandler) -> None:
    path = request.path.partition("?")[0]
    answers = {
        "/good.jpg": (200, jpeg(5)),
        "/old.jpg": (403, b"<Error><Message>Request has expired</Message></Error>"),
    }
    reply(request, *answers.get(path, (404, b"")))


def test_a_working_directory_with_packages_of_our_names(
    tmp_path: Path, photos: Path, card: Path
) -> None:
    for name in ("worker", "tasks", "storage"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text("raise SystemExit('the wrong package')")
    ran = maskmill("annotate", photos, "-m", card, "-o", "out", "--limit", 2, cwd=tmp_path)
    assert ran.code == 0, ran.err


def test_doctor_says_what_works_and_no_secret(tmp_path: Path) -> None:
    ran = maskmill(
        *("doctor", "--json"),
        MASKMILL_S3_ENDPOINT_URL="http://user:hidden@127.0.0.1:1",
        AWS_SECRET_ACCESS_KEY="hidden",
    )
    assert ran.code == 0, ran.err
    (report,) = ran.events
    assert "CPUExecutionProvider" in report["engines"]["onnxruntime"]
    assert report["formats"]["JPEG"] == report["formats"]["TIFF"] == "read"
    assert report["stores"]["file"] == "reads and writes"
    assert report["settings"]["AWS_SECRET_ACCESS_KEY"] == "set"
    assert "hidden" not in ran.out
    text = maskmill("doctor")
    assert text.code == 0
    assert "  JPEG        read" in text.out


def test_doctor_finds_what_is_unsound(tmp_path: Path, photos: Path, card: Path) -> None:
    """Each kind of damage to a finished job is named."""
    assert maskmill("annotate", photos, "-m", card, "-o", tmp_path, "--shard-size", 5).code == 0
    run = next((tmp_path / "shards").iterdir())
    for name in ("instances.json", "results.json"):
        whole = (tmp_path / name).read_text()
        (tmp_path / name).write_text(whole.replace('"category_id":', '"category_id": ', 1))
        (problem,) = maskmill("doctor", tmp_path, "--json").events[0]["problems"]
        assert f"{name} is not what its shards make: somebody changed it" in problem
        (tmp_path / name).write_text(whole)
    sealed = (tmp_path / "run.json").read_text()
    (tmp_path / "run.json").write_text(re.sub('"images": [0-9]+', '"images": 3', sealed))
    assert "run.json names other sums" in maskmill("doctor", tmp_path).out
    shard = load(run / "00000.json")
    shard["annotations"][0]["area"] += 1
    shard["annotations"][1]["bbox"][0] = 5000
    shard["annotations"][2]["image_id"] = 77
    (run / "00000.json").write_text(json.dumps(shard))
    shard = load(run / "00001.json")
    shard["images"].pop()
    (run / "00001.json").write_text(json.dumps(shard))
    (run / "00002.conflict.json").write_text("{}")
    ran = maskmill("doctor", tmp_path, "--json")
    assert ran.code == 4
    said = "\n".join(ran.events[0]["problems"])
    for words in (
        "annotation 1 of shard 0 has the area",
        "annotation 2 of shard 0 has a box outside",
        "annotation 3 of shard 0 names an image",
        "shard 1 does not end each of its 5 inputs",
        "instances.json is not what its shards make",
        "00002.conflict.json",
    ):
        assert words in said, said
    (run / "00000.json").unlink()
    assert "1 of 3 shards are not done" in maskmill("doctor", tmp_path).out


def test_files_that_are_not_ours_are_left_alone(tmp_path: Path, photos: Path, card: Path) -> None:
    """In a folder with plan/, shards/ or an instances.json of somebody's own."""
    mine = [tmp_path / "plan" / "floor.jpg", tmp_path / "shards" / "notes.txt"]
    for path in mine:
        path.parent.mkdir()
        path.write_bytes(jpeg(3))
    command = ("annotate", photos, "-m", card, "-o", tmp_path)
    assert maskmill(*command).code == 0
    assert maskmill(*command, "--overwrite", "--limit", 2).code == 0
    assert all(path.exists() for path in mine)
    other = tmp_path / "other"
    other.mkdir()
    (other / "instances.json").write_text("mine")
    ran = maskmill("annotate", photos, "-m", card, "-o", other)
    assert ran.code == 2, ran.err
    assert "another --output" in ran.err
    assert (other / "instances.json").read_text() == "mine"


def test_derived_files_that_are_gone_are_made_again(
    tmp_path: Path, photos: Path, card: Path, undisturbed: bytes
) -> None:
    command = ("annotate", photos, "-m", card, "-o", tmp_path, "--shard-size", 4)
    assert maskmill(*command).code == 0
    for name in ("instances.json", "contact-sheet.jpg"):
        (tmp_path / name).unlink()
    assert maskmill(*command).code == 0
    assert (tmp_path / "instances.json").read_bytes() == undisturbed
    assert (tmp_path / "contact-sheet.jpg").exists()
    (tmp_path / "run.json").write_text("{}")
    ran = maskmill(*command)
    assert (ran.code, ran.err.count("\n")) == (4, 1), ran.err
    assert "run.json" in ran.err


def test_an_output_among_the_inputs(tmp_path: Path, card: Path) -> None:
    """The contact sheet of a job that lies below the inputs is not annotated."""
    write_folder(tmp_path, 4)
    for out in ("a", "b"):
        ran = maskmill("annotate", tmp_path, "-m", card, "-o", tmp_path / out, "--json")
        assert ran.code == 0, ran.err
        assert ran.events[-1]["inputs"] == 4


def test_a_network_that_fails_on_one_image(tmp_path: Path, card: Path) -> None:
    folder = write_folder(tmp_path / "in", 3, first=1)
    Image.new("RGB", (50, 50), "white").save(folder / "white.jpg")
    model = write_model(tmp_path, "a", fails_on_white=True)
    ran = maskmill("annotate", folder, "-m", model, "-o", tmp_path / "out")
    assert ran.code == 3, ran.err
    assert failures(tmp_path / "out") == {"white.jpg": "model/failed"}


def test_a_child_told_to_end_by_others_is_no_success(
    tmp_path: Path, photos: Path, card: Path
) -> None:
    fault = {"who": "child", "path": "/out/shards", "signal": signal.SIGTERM}
    ran = maskmill("annotate", photos, "-m", card, "-o", tmp_path / "out", fault=fault)
    assert ran.code in (0, 4), ran.err
    assert (ran.code == 0) == (tmp_path / "out" / "run.json").exists()
    assert "Traceback" not in ran.err


def test_odd_names_everywhere(tmp_path: Path, card: Path) -> None:
    """Names that are not UTF-8, hold markup, queries, newlines or fragments."""
    folder = os.fsencode(tmp_path / "caf") + b"\xe9"
    os.mkdir(folder)
    names = [b"x[/y].jpg", b"a\nb.jpg", b"50%25 #1?.jpg", b"caf\xe9.jpg", b"note[/b].txt"]
    for number, name in enumerate(names):
        path = Path(os.fsdecode(folder + b"/" + name))
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(b"text" if name.endswith(b"txt") else jpeg(number))
    out = os.fsdecode(os.fsencode(tmp_path / "out") + b"\xe9 [red]")
    ran = maskmill("annotate", os.fsdecode(folder), "-m", card, "-o", out)
    assert ran.code == 0, ran.err
    images = load(Path(out) / "instances.json")["images"]
    assert {each["file_name"] for each in images} == {
        "x[/y].jpg",
        "a\nb.jpg",
        "50%25 #1?.jpg",
        "caf\\xe9.jpg",
    }
    assert "note%5B/b%5D.txt" in ran.out


@pytest.mark.parametrize(
    ("options", "variables", "words"),
    [
        (["--extra-images"], {}, "--images-from"),
        ([], {"MASKMILL_MAX_BYTES": "²"}, "MASKMILL_MAX_BYTES"),
        ([], {"MASKMILL_THREADS": "abc"}, "MASKMILL_THREADS"),
        ([], {"MASKMILL_PROVIDERS": "NoSuch"}, "NoSuch"),
        (["--category-ids", "nowhere.json"], {}, "nowhere.json"),
    ],
    ids=["an option without its partner", "no digit", "no number", "no provider", "no file"],
)
def test_settings_that_cannot_be_used(
    tmp_path: Path, photos: Path, card: Path, options: list[str], variables: Any, words: str
) -> None:
    ran = maskmill("annotate", photos, "-m", card, "-o", tmp_path / "out", *options, **variables)
    assert (ran.code, ran.err.count("\n")) == (2, 1), ran.err
    assert words in ran.err


def test_another_list_on_standard_input_is_another_job(
    tmp_path: Path, photos: Path, card: Path
) -> None:
    paths = sorted(map(str, photos.rglob("*.jpg")))
    command = ("annotate", "-", "-m", card, "-o", tmp_path / "out")
    assert maskmill(*command, stdin="\n".join(paths[:3])).code == 0
    assert maskmill(*command, stdin="\n".join(paths[:3])).code == 0
    ran = maskmill(*command, stdin="\n".join(paths[:4]))
    assert ran.code == 2
    assert "other inputs" in ran.err


def test_a_job_started_anew_by_another_command(tmp_path: Path, photos: Path, card: Path) -> None:
    """The first command says so and leaves; the second one's dataset is whole."""
    command = ["annotate", str(photos), "-m", str(card), "-o", str(tmp_path / "out")]
    first = subprocess.Popen(
        [MASKMILL, *command, "--shard-size", "1", "--json"],
        stdout=subprocess.PIPE,
        text=True,
        env=environment(),
    )
    assert first.stdout is not None
    for line in first.stdout:
        if json.loads(line)["event"] == "committed":
            first.send_signal(signal.SIGSTOP)
            break
    second = maskmill(*command, "--overwrite", "--limit", 9)
    first.send_signal(signal.SIGCONT)
    out, _ = first.communicate(timeout=60)
    assert second.code == 0, second.err
    assert first.returncode in (0, 4), out
    assert len(load(tmp_path / "out" / "instances.json")["images"]) == 9
    assert maskmill("doctor", tmp_path / "out").code == 0
