"""Frames drawn: `maskmill report --clip`, and the contact sheet."""

from __future__ import annotations

import contextlib
import io
import json
import resource
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import av
import msgspec
import numpy as np
import pytest
from PIL import Image as Picture

from storage import get, put
from storage.errors import Full
from storage.uris import of_frame
from tasks.annotate import report
from tasks.exits import Said
from tasks.folder import Folder, JobError
from tasks.merge import Picked, merge_all
from tasks.records import (
    Annotation,
    Image,
    Item,
    Job,
    ProducedBy,
    RleMask,
    Shard,
    VideoFrame,
    encode,
)
from tasks.videos import VideoLimits
from tests.pictures import jpeg
from tests.unit.test_dataset_videos import NOTHING_DRAWN, job_of
from tests.videos import Recipe, number_of, write
from worker import rle
from worker.clip import clips
from worker.drawing import write_sheet
from worker.film import look

BY = ProducedBy("0" * 64, "onnx", "1", "fp32", "", "avx2")
LIMITS = VideoLimits(1 << 30, 3600, 10_000, 1 << 24)


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    return Folder(str(tmp_path / "out"), "run")


def found(image: Item, width: int, height: int, score: float = 0.9) -> Annotation:
    """The left half of a picture."""
    mask = np.zeros((height, width), np.bool_)
    mask[:, : width // 2] = True
    made = rle.encode(mask, 0, 0, height, width)
    segmentation = RleMask((height, width), made.counts)
    return Annotation(image.id, 1, (0, 0, width // 2, height), made.area, segmentation, score)


def merged(folder: Folder, films: dict[Path, Iterable[int]], photo: Path | None = None) -> Job:
    """A job of some frames of each video; on the second of each something was found."""
    items, images, annotations = [], [], []
    for source, picked in films.items():
        index = look(str(source), None, LIMITS)
        video = msgspec.structs.replace(index.video, name=source.name)
        for place, n in enumerate(picked):
            time = index.microseconds(n) / 10**6
            item = Item(
                len(items) + 1,
                of_frame(str(source), n),
                f"{source.name}/frame_{n:06d}.jpg",
                index.version,
                VideoFrame(n, index.pts[n], time, index.groups[n]),
            )
            items.append(item)
            size = video.width, video.height
            image = Image(item.id, item.file_name, *size, video=video)
            images.append(msgspec.structs.replace(image, frame_index=n, timestamp=time))
            annotations.append(found(item, *size, score=0.9 if place == 1 else 0.2))
    if photo is not None:
        items.append(Item(len(items) + 1, str(photo), photo.name))
        images.append(Image(len(items), photo.name, 96, 72))
    put(folder.plan(0), b"".join(encode(each) + b"\n" for each in items))
    put(folder.shard(0), encode(Shard(0, BY, tuple(images), tuple(annotations), ())))
    job = job_of(folder, len(items), 1)
    merge_all(folder, job, NOTHING_DRAWN)
    return job


def draw_clips(folder: Folder, job: Job) -> list[dict[str, Any]]:
    with contextlib.redirect_stdout(io.StringIO()) as said:
        assert clips(folder, job, as_json=True) == 0
    return [json.loads(line) for line in said.getvalue().splitlines()]


def shown_by(path: str) -> list[tuple[float, np.ndarray]]:
    with av.open(path) as file:
        return [(frame.time, frame.to_ndarray(format="rgb24")) for frame in file.decode(video=0)]


def test_a_clip_shows_each_frame_for_as_long_as_it_stands_for(
    folder: Folder, tmp_path: Path
) -> None:
    source = write(tmp_path, Recipe(frames=40))  # 25 a second
    job = merged(folder, {source: [3, 5, 6, 16, 26]})
    [clip] = draw_clips(folder, job)
    assert clip == {
        "event": "clip",
        "video": "clip.mp4",
        "frames": 5,
        "uri": folder.file("clips/clip.mp4.mp4"),
    }
    pictures = shown_by(clip["uri"])
    assert [time for time, _ in pictures] == pytest.approx([0, 0.08, 0.12, 0.52, 0.92], abs=1e-4)
    assert [number_of(pixels) for _, pixels in pictures] == [3, 5, 6, 16, 26]
    with av.open(clip["uri"]) as file:
        stream = file.streams.video[0]
        assert (stream.codec.canonical_name, stream.pix_fmt) == ("h264", "yuv420p")
        assert (stream.width, stream.height) == (512, 384), "small ones grow, so that labels fit"
        seconds = stream.duration * stream.time_base
    assert float(seconds) == pytest.approx(0.92 + 0.4, abs=1e-3), "the last is as long as before"
    data = get(clip["uri"])
    assert data.index(b"moov") < data.index(b"mdat"), "a player can begin before it has all"


def test_the_last_frame_ends_with_the_video(folder: Folder, tmp_path: Path) -> None:
    job = merged(folder, {write(tmp_path, Recipe(frames=22)): range(0, 22, 10)})
    [clip] = draw_clips(folder, job)
    with av.open(clip["uri"]) as file:
        stream = file.streams.video[0]
        assert float(stream.duration * stream.time_base) == pytest.approx(0.88, abs=1e-3)


def test_what_was_found_is_drawn_where_it_is(folder: Folder, tmp_path: Path) -> None:
    plain = lambda number, width, height: np.full((height, width, 3), 120, np.uint8)  # noqa: E731
    job = merged(folder, {write(tmp_path, Recipe(frames=3, picture=plain)): range(3)})
    [clip] = draw_clips(folder, job)
    pictures = [pixels.astype(int) for _, pixels in shown_by(clip["uri"])]
    lower = slice(200, None)  # under the label
    left, right = pictures[1][lower, 20:230], pictures[1][lower, 280:]
    assert np.abs(right - 120).max() < 12
    assert np.ptp(left.mean(axis=(0, 1))) > 40, "it has a colour"
    for other in (pictures[0], pictures[2]):
        assert np.abs(other - 120).max() < 12, "what scores 0.2 is not drawn"


def test_a_wide_video_is_made_smaller_and_odd_sizes_even(folder: Folder, tmp_path: Path) -> None:
    wide = Recipe("wide.mp4", frames=2, width=1920, height=1080, gop=2)
    tall = Recipe("tall.mp4", frames=2, width=96, height=128, rotation=90)
    job = merged(folder, {write(tmp_path, each): range(2) for each in (wide, tall)})
    sizes = {}
    for clip in draw_clips(folder, job):
        _, pixels = shown_by(clip["uri"])[0]
        sizes[clip["video"]] = pixels.shape[1::-1]
        assert number_of(pixels) == 0, "upright"
    assert sizes == {"wide.mp4": (1280, 720), "tall.mp4": (512, 384)}


def test_each_of_several_videos_and_none(folder: Folder, tmp_path: Path) -> None:
    films = [write(tmp_path, Recipe(name, frames=2)) for name in ("a.mp4", "b.mkv")]
    job = merged(folder, {film: range(2) for film in films})
    drawn = [clip["uri"] for clip in draw_clips(folder, job)]
    assert drawn == [folder.file(f"clips/{name}.mp4") for name in ("a.mp4", "b.mkv")]
    Path(folder.file("instances.json")).write_text('{"images": [], "videos": []}')
    with pytest.raises(JobError, match=r"instances.json has no video, only images"):
        draw_clips(folder, job)


def test_an_edited_dataset_is_drawn_as_it_is(folder: Folder, tmp_path: Path) -> None:
    job = merged(folder, {write(tmp_path, Recipe(frames=3)): range(3)})
    made = json.loads(get(folder.file("instances.json")))
    made["annotations"] = [made["annotations"][0]]
    del made["annotations"][0]["score"]
    del made["images"][1]
    put(folder.file("instances.json"), json.dumps(made).encode())
    [clip] = draw_clips(folder, job)
    pictures = [pixels for _, pixels in shown_by(clip["uri"])]
    assert [number_of(pixels) for pixels in pictures] == [0, 2]
    coloured = [np.ptp(pixels[100:, 20:230].mean(axis=(0, 1))) > 20 for pixels in pictures]
    assert coloured == [True, False], "without a score it counts"


@pytest.mark.parametrize(
    "shape",
    [[[0, 0, 64, 0, 64, 96, 0, 96]], {"size": [96, 128], "counts": [0, 64 * 96, 64 * 96]}, []],
    ids=["polygons", "numbers", "a box alone"],
)
def test_all_shapes_that_a_dataset_may_have_are_drawn(
    folder: Folder, tmp_path: Path, shape: object
) -> None:
    job = merged(folder, {write(tmp_path, Recipe(frames=2)): range(2)})
    usual = [pixels for _, pixels in shown_by(draw_clips(folder, job)[0]["uri"])]
    made = json.loads(get(folder.file("instances.json")))
    for each in made["annotations"]:
        each["segmentation"] = shape
    put(folder.file("instances.json"), json.dumps(made).encode())
    pictures = [pixels for _, pixels in shown_by(draw_clips(folder, job)[0]["uri"])]
    assert np.array_equal(pictures, usual) == bool(shape)


def test_a_source_that_is_gone_is_named(folder: Folder, tmp_path: Path) -> None:
    source = write(tmp_path, Recipe(frames=3))
    job = merged(folder, {source: range(3)})
    source.unlink()
    with pytest.raises(JobError, match=r"clip\.mp4#frame=0 cannot be drawn on: .*does not exist"):
        draw_clips(folder, job)
    write(tmp_path, Recipe(frames=4))
    with pytest.raises(JobError, match="not the one that was planned"):
        draw_clips(folder, job)
    assert list(Path(folder.file("clips")).glob("*")) == []


def test_a_full_scratch_disk_is_said_to_be(folder: Folder, tmp_path: Path) -> None:
    noise = np.random.default_rng(1).integers(0, 256, (480, 640, 3), np.uint8)
    source = write(tmp_path, Recipe(frames=9, width=640, height=480, picture=lambda *_: noise))
    job = merged(folder, {source: range(9)})
    usual = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, usual[1]))
    try:
        with pytest.raises(Full, match="the disk or the quota is full"):
            draw_clips(folder, job)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, usual)


def test_the_command_says_what_is_missing(folder: Folder, tmp_path: Path) -> None:
    photo = tmp_path / "a.jpg"
    photo.write_bytes(jpeg(1))
    merged(folder, {}, photo)
    said = report(folder.uri, clip=False, as_json=False)
    assert isinstance(said, Said)
    assert (said.code, "1 of 1 inputs" in next(iter(said.lines))) == (0, True)
    with pytest.raises(JobError, match="has no video, only images"):
        report(folder.uri, clip=True, as_json=False)
    Path(folder.file("run.json")).unlink()
    with pytest.raises(JobError, match="is not merged yet"):
        report(folder.uri, clip=False, as_json=True)


def test_the_command_tells_a_program(
    folder: Folder, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    merged(folder, {write(tmp_path, Recipe(frames=3)): range(3)})
    assert report(folder.uri, clip=True, as_json=True) == 0
    said = json.loads(capsys.readouterr().out)
    assert (said["event"], said["frames"]) == ("clip", 3)


def test_a_sheet_has_frames_beside_photographs(folder: Folder, tmp_path: Path) -> None:
    photo = tmp_path / "a.jpg"
    photo.write_bytes(jpeg(1))
    source = write(tmp_path, Recipe(frames=8, width=640, height=480))
    job = merged(folder, {source: [0, 7]}, photo)
    picks: list[Picked] = []
    merge_all(folder, job, lambda f, j, found: bool(picks.extend(found)))
    assert write_sheet(folder, job, picks)
    sheet = np.asarray(Picture.open(io.BytesIO(get(folder.file("contact-sheet.jpg")))))
    tiles = [sheet[8:488, 8:648], sheet[8:488, 656:1296]]
    assert number_of(tiles[0]) == 0
    assert len(np.unique(tiles[1].reshape(-1, 3), axis=0)) > 100, "drawn on"
    source.unlink()
    assert write_sheet(folder, job, picks), "the others are there"
