"""A limit for memory changes what is in flight, never what comes out."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import pytest

from tests.graphs import write_model
from tests.running import maskmill
from worker.images import Header
from worker.memory import Flight


@pytest.fixture(scope="module")
def card(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("model"), "b")


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eight pictures of twelve megapixels, which are small as files."""
    folder = tmp_path_factory.mktemp("photos")
    for number in range(8):
        tile = np.random.default_rng(number).integers(0, 255, (6, 8, 3), np.uint8)
        picture = cv2.resize(tile, (4000, 3000), interpolation=cv2.INTER_NEAREST)
        cv2.imwrite(str(folder / f"{number}.png"), picture)
    return folder


def test_the_same_bytes_in_less_memory(tmp_path: Path, photos: Path, card: Path) -> None:
    """Without a limit eight pictures are open at once, if the machine has time for it."""
    peaks, made = [], []
    for options in (*[()] * 4, ("--memory", "320M")):
        if not options and max(peaks, default=0) > 320 << 20:
            continue
        out = tmp_path / f"out{len(made)}"
        command = ("annotate", photos, "-m", card, "-o", out, "--json", *options)
        ran = maskmill(*command, MASKMILL_DECODE_THREADS="8", MASKMILL_THREADS="1")
        assert ran.code == 0, ran.err
        made.append((out / "instances.json").read_bytes())
        peaks.append(ran.events[-1]["peak_memory_bytes"])
        assert peaks[-1] == json.loads((out / "run.json").read_bytes())["peak_memory_bytes"]
    assert len(set(made)) == 1
    assert peaks[-1] < 320 << 20 < max(peaks)


def test_too_little_is_said_at_the_start(tmp_path: Path, photos: Path, card: Path) -> None:
    command = ("annotate", photos, "-m", card, "-o", tmp_path / "out", "--memory")
    ran = maskmill(*command, "64M")
    assert ran.code == 2
    assert "a memory of 64 MiB is too little for canned.onnx: loaded it takes" in ran.err
    assert ran.err.count("\n") == 1
    assert not (tmp_path / "out").exists()
    ran = maskmill(*command, "lots")
    assert ran.code == 2
    assert "MASKMILL_MEMORY is 'lots'" in ran.err


@pytest.mark.parametrize(("name", "pixel"), [("PNG", 14), ("WebP", 22)])
def test_what_an_image_takes_while_it_is_decoded(name: str, pixel: int) -> None:
    flight, header = Flight(), Header(name, 300, 400, 1)
    with flight.decoding(5000, header, None):
        assert flight._taken == 5000 + 300 * 400 * pixel
    assert flight._taken == 0
