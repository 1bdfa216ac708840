"""Every frame of every kind of video is the one that a plain decode from the beginning gives."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tasks.cards import ModelError
from tasks.records import Settings
from tests.reading import in_shards, indexed, items_of, plain, read
from tests.videos import RECIPES, write
from worker.frames import FrameReader
from worker.shard import frame_reader


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """All videos, each made when it is first asked for."""

    class Made(dict[str, Path]):
        def __missing__(self, kind: str) -> Path:
            self[kind] = write(tmp_path_factory.mktemp("video"), RECIPES[kind])
            return self[kind]

    return Made()


@pytest.mark.parametrize("kind", RECIPES)
def test_each_frame_is_that_of_a_plain_decode(made: dict[str, Path], kind: str) -> None:
    path = made[kind]
    oracle = plain(path)
    assert [number for _, number in oracle] == list(range(40))
    index = indexed(path)
    assert list(index.pts) == [pts for pts, _ in oracle]
    items = items_of(path, index)
    reader = FrameReader(1 << 30, 10**8)
    assert read(items, reader) == dict(enumerate(range(40)))
    print(kind, reader.decoded)
    for size in (1, 3, 64):
        assert in_shards(items, size) == dict(enumerate(range(40)))


@pytest.mark.parametrize("kind", RECIPES)
def test_frames_in_any_order(made: dict[str, Path], kind: str) -> None:
    path = made[kind]
    items = items_of(path, indexed(path))
    assert read(items[::-1]) == read(items[::3] + items[::5]) | read(items)


@settings(deadline=None, max_examples=40)
@given(
    kind=st.sampled_from(["open groups in mp4", "variable rate", "ts", "hevc with open groups"]),
    frames=st.lists(st.integers(0, 39), max_size=20),
    size=st.integers(1, 8),
)
def test_any_frames_in_any_shards(
    made: dict[str, Path], kind: str, frames: list[int], size: int
) -> None:
    items = items_of(made[kind], indexed(made[kind]), frames)
    assert in_shards(items, size) == {number: number for number in frames}


def test_a_worker_without_what_decodes_videos_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name in ("worker.frames", "worker.film"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    monkeypatch.setitem(sys.modules, "av", None)
    asked = Settings(categories=(), class_ids=(), max_bytes=1, max_pixels=1)
    with pytest.raises(ModelError, match=r"need av: pip install 'maskmill\[worker\]'"):
        frame_reader(asked)
