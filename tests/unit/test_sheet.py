"""What a contact sheet says of its pictures."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from tasks.folder import Folder
from tasks.merge import Picked
from tasks.records import Counts, Image, Item, Job, ProducedBy, Shard, encode
from tests.pictures import jpeg
from tests.unit.test_plan import asked
from worker.drawing import _tile

BY = ProducedBy("0" * 64, "onnx", "1", "fp32", "", "avx2")


@pytest.mark.parametrize("there", [True, False])
def test_a_picture_that_is_gone_is_said_to_be(tmp_path: Path, there: bool) -> None:
    photo = tmp_path / "a.jpg"
    if there:
        photo.write_bytes(jpeg(1))
    folder = Folder(str(tmp_path / "out"), "run")
    for uri, data in (
        (folder.plan(0), encode(Item(1, str(photo), "a.jpg")) + b"\n"),
        (folder.shard(0), encode(Shard(0, BY, (Image(1, "a.jpg", 8, 8, 1),), (), ()))),
    ):
        Path(uri).parent.mkdir(parents=True)
        Path(uri).write_bytes(data)
    wanted = asked()
    settings = msgspec.structs.replace(wanted.settings, max_bytes=1 << 20, max_pixels=1 << 20)
    wanted = msgspec.structs.replace(wanted, settings=settings)
    job = Job("run", wanted, Counts(items=1, shards=1))
    caption, pixels = _tile(folder, job, Picked(1, 0, "a.jpg", ()))
    if there:
        assert caption == "a.jpg: 0 from 0.3, 0 in all"
        assert pixels is not None
    else:
        assert (caption, pixels) == ("a.jpg: could not be read", None)
