"""--save-frames: the pixels of the frames that were annotated, where the dataset says they are."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image as Picture
from PIL import JpegImagePlugin

from storage import get
from tasks.folder import Folder
from tasks.records import Item, ItemError
from tests.unit.test_dataset_videos import job_of
from worker.per_image import save_frame


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    return Folder(str(tmp_path / "out"), "run")


@pytest.mark.parametrize("is_open", [False, True])
def test_a_frame_is_kept_as_it_is(folder: Folder, is_open: bool) -> None:
    random = np.random.default_rng(1)
    coarse = random.integers(0, 256, (6, 8, 3), dtype=np.uint8)
    pixels = np.repeat(np.repeat(coarse, 16, axis=0), 16, axis=1)
    item = Item(1, "s3://b/a/clip.mp4#frame=7", "a/clip.mp4/frame_000007.jpg")
    job = job_of(folder, 1, 1, is_open=is_open)
    save_frame(folder, job, item, pixels)
    data = get(folder.file("frames/a/clip.mp4/frame_000007.jpg"))
    picture = Picture.open(io.BytesIO(data))
    assert isinstance(picture, JpegImagePlugin.JpegImageFile)
    assert JpegImagePlugin.get_sampling(picture) == 0, "4:4:4"
    assert np.abs(np.asarray(picture).astype(int) - pixels).max() < 24
    save_frame(folder, job, item, pixels)
    assert get(folder.file("frames/a/clip.mp4/frame_000007.jpg")) == data
    save_frame(folder, job, item, pixels // 2)
    same = get(folder.file("frames/a/clip.mp4/frame_000007.jpg")) == data
    assert same == is_open, "in an open job it may be another input of that name"


@pytest.mark.parametrize("name", ["../x/frame_000001.jpg", "a//b.jpg", "a\\b.jpg", "x" * 300])
def test_a_name_that_leads_elsewhere_is_a_failure(folder: Folder, name: str) -> None:
    with pytest.raises(ItemError, match="--save-frames") as said:
        save_frame(
            folder,
            job_of(folder, 1, 1),
            Item(1, "s3://b/c#frame=1", name),
            np.zeros((4, 4, 3), np.uint8),
        )
    assert (said.value.stage, said.value.kind) == ("write", "bad-uri")
