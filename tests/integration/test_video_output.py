"""What a job of videos leaves behind, by the real command: datasets, frames and clips."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from storage import get, put
from tests.graphs import write_model
from tests.pictures import write_folder
from tests.running import maskmill
from tests.videos import Recipe, number_of, write


@pytest.fixture(scope="module")
def card(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("models"), "a")


@pytest.fixture(scope="module")
def films(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two videos, one turned, and two photographs."""
    folder = tmp_path_factory.mktemp("films")
    write(folder, Recipe("a.mp4"))
    write(folder / "deep", Recipe("turned.mp4", frames=12, rotation=90))
    return write_folder(folder, 2)


def load(path: Path) -> Any:
    return json.loads(path.read_bytes())


def test_the_frames_are_where_the_dataset_says(card: Path, films: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    asked = ("annotate", films, "-m", card, "-o", out, "--every", 5, "--shard-size", 4)
    assert maskmill(*asked, "--save-frames").code == 0
    dataset = load(out / "instances.json")
    assert [(each["id"], each["name"]) for each in dataset["videos"]] == [
        *((1, "a.mp4"), (2, "deep/turned.mp4"))
    ]
    frames = [each for each in dataset["images"] if "video_id" in each]
    assert len(dataset["images"]) - 2 == len(frames) == 8 + 3
    for each in frames:
        pixels = np.asarray(Image.open(out / "frames" / each["file_name"]))
        assert pixels.shape == (each["height"], each["width"], 3)
        assert number_of(pixels) == each["frame_index"], "upright"
    kept = [path for path in (out / "frames").rglob("*") if path.is_file()]
    assert len(kept) == len(frames), "photographs are not copied"
    assert maskmill("doctor", out).code == 0

    refused = maskmill(*asked)
    assert (refused.code, "save frames" in refused.err) == (2, True), refused.err

    dataset["images"] = frames
    (tmp_path / "frames.json").write_text(json.dumps(dataset))
    again = ("annotate", tmp_path / "frames.json", "--images-root", out / "frames", "-m", card)
    assert maskmill(*again, "-o", tmp_path / "again").code == 0
    names = {each["id"]: each["file_name"] for each in frames}
    found = load(tmp_path / "again" / "instances.json")["images"]
    assert {each["id"]: each["file_name"] for each in found} == names


def test_a_frame_under_a_name_of_its_own(card: Path, films: Path, tmp_path: Path) -> None:
    lines = [
        {"uri": f"{films / 'a.mp4'}#frame=7", "file_name": "seven.jpg"},
        {"uri": f"{films / 'a.mp4'}#t=0.36", "file_name": "some/nine.jpg"},
        {"uri": "b/a.mp4#t=0", "file_name": "some/frame_1.jpg"},
        {"uri": "b/a.mp4#frame=1"},
    ]
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "a.mp4").write_bytes((films / "a.mp4").read_bytes())
    (tmp_path / "list.jsonl").write_text("".join(json.dumps(each) + "\n" for each in lines))
    out = tmp_path / "out"
    asked = ("annotate", tmp_path / "list.jsonl", "-m", card, "-o", out, "--save-frames")
    assert maskmill(*asked).code == 0
    dataset = load(out / "instances.json")
    names = [str(films / "a.mp4").lstrip("/"), "b/a.mp4"]  # as those of frames without such a name
    assert [each["name"] for each in dataset["videos"]] == names
    frames = {
        each["file_name"]: (each["video_id"], each["frame_index"]) for each in dataset["images"]
    }
    own = {"seven.jpg": (1, 7), "some/nine.jpg": (1, 9), "some/frame_1.jpg": (2, 0)}
    assert frames == own | {"b/a.mp4/frame_000001.jpg": (2, 1)}
    assert number_of(np.asarray(Image.open(out / "frames" / "some" / "nine.jpg"))) == 9


def test_frames_that_cannot_be_kept_stop_the_job(card: Path, films: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "frames").write_text("a file is in the way")
    asked = ("annotate", films / "a.mp4", "-m", card, "-o", out, "--every", 5, "--save-frames")
    stopped = maskmill(*asked)
    assert stopped.code == 4, stopped.err
    assert "may not be written: a folder or a file is in the way" in stopped.err
    (out / "frames").unlink()
    assert maskmill(*asked).code == 0
    assert len(list((out / "frames" / "a.mp4").iterdir())) == 8


def test_the_same_bytes_for_any_shard_size_and_source(
    card: Path, films: Path, tmp_path: Path, moto_s3: str
) -> None:
    put(f"{moto_s3}/films/a.mp4", (films / "a.mp4").read_bytes())
    made = []
    for size, source in (
        (3, films / "a.mp4"),
        (64, films / "a.mp4"),
        (7, f"{moto_s3}/films/a.mp4"),
    ):
        out = tmp_path / f"out{size}"
        asked = ("annotate", source, "-m", card, "-o", out, "--from", 0.2, "--shard-size", size)
        assert maskmill(*asked).code == 0
        made.append((out / "instances.json").read_bytes())
    assert made[0] == made[1] == made[2]


def test_clips_of_a_job_in_a_bucket(card: Path, films: Path, moto_s3: str) -> None:
    out = f"{moto_s3}/out"
    early = maskmill("report", out)
    assert (early.code, "holds no job" in early.err) == (4, True)
    assert maskmill("annotate", films, "-m", card, "-o", out, "--every", 10).code == 0
    assert "8 of 8 inputs" in maskmill("report", out).out
    ran = maskmill("report", out, "--clip", "--json")
    assert ran.code == 0, ran.err
    assert [(each["video"], each["frames"]) for each in ran.events] == [
        *(("a.mp4", 4), ("deep/turned.mp4", 2))
    ]
    for each in ran.events:
        assert get(each["uri"])[4:8] == b"ftyp"
    assert ran.events[1]["uri"] == f"{out}/clips/deep/turned.mp4.mp4"
