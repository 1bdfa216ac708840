"""Pictures: what is under a mask changes, what is not stays, and labels can be read."""

from __future__ import annotations

import io
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageDraw
from pycocotools import mask as coco

from worker import drawing
from worker.drawing import TILE, color_of, contact_sheet

# pycocotools 2.0.11 hands numpy 2 an __array__ without `copy`; it works, with a warning.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")

GROUND = 100
NAMES = {1: "person", 2: "bicycle"}


def record(mask: np.ndarray, category: int = 1, score: float = 0.87) -> dict[str, Any]:
    rle = coco.encode(np.asfortranarray(mask.astype(np.uint8)))
    segmentation = {"size": rle["size"], "counts": rle["counts"].decode()}
    made = {"bbox": coco.toBbox(rle).tolist(), "segmentation": segmentation}
    return made | {"category_id": category, "score": score}


def draw(
    pixels: np.ndarray,
    records: list[dict[str, Any]],
    names: dict[int, str],
    image_size: tuple[int, int] = (480, 640),
) -> np.ndarray:
    return drawing.draw(pixels, records, names, image_size)


def ground(height: int = 480, width: int = 640) -> np.ndarray:
    return np.full((height, width, 3), GROUND, np.uint8)


def ring(height: int = 480, width: int = 640) -> tuple[np.ndarray, np.ndarray]:
    """A disc with a hole, and the hole."""
    y, x = np.mgrid[:height, :width] + 0.5  # the pixels' centres
    away = np.hypot(x - width / 2, y - height / 2) / height
    return (away < 0.3) & (away >= 0.12), away < 0.12


def unlabelled(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(drawing, "_labelled", lambda picture, boxed, names: picture)


def outline_of(box: list[float], shape: tuple[int, int]) -> np.ndarray:
    x, y, width, height = (round(number) for number in box)
    lines = np.zeros(shape, bool)
    lines[y : y + height, x : x + width] = True
    lines[y + 1 : y + height - 1, x + 1 : x + width - 1] = False
    return lines


def test_what_is_under_a_mask_changes_and_nothing_else(monkeypatch: pytest.MonkeyPatch) -> None:
    unlabelled(monkeypatch)
    mask, hole = ring()
    made = record(mask)
    pixels = ground()
    picture = draw(pixels, [made], NAMES)
    changed = (picture != GROUND).any(axis=2)
    assert np.array_equal(changed, mask | outline_of(made["bbox"], mask.shape))
    assert not changed[hole].any()
    assert (pixels == GROUND).all(), "the caller's pixels are not drawn on"


def test_the_edge_is_stronger_than_the_inside(monkeypatch: pytest.MonkeyPatch) -> None:
    unlabelled(monkeypatch)
    mask, _ = ring()
    picture = draw(ground(), [record(mask)], NAMES).astype(int)
    far = np.abs(picture - np.array(color_of({"category_id": 1}))).sum(axis=2)
    row = mask.shape[0] // 2
    first = int(np.argmax(mask[row]))
    assert far[row, first] < 40 < far[row, first + 20]


@pytest.mark.parametrize("shape", [(240, 320), (960, 1280), (1920, 2560)])
def test_masks_scale_with_the_picture(monkeypatch, shape: tuple[int, int]) -> None:
    """Records are in the image's pixels, also where its pixels came from a reduced decode."""
    unlabelled(monkeypatch)
    mask, _ = ring(1920, 2560)
    picture = draw(ground(*shape), [record(mask)], NAMES, image_size=mask.shape)
    assert picture.shape == (480, 640, 3)
    painted = (picture != GROUND).any(axis=2)
    small_mask, small_hole = ring()
    box = outline_of(record(small_mask)["bbox"], small_mask.shape)
    assert (painted & small_hole).sum() < 0.005 * small_hole.sum()
    assert (painted ^ (small_mask | box)).sum() < 0.005 * small_mask.sum() + box.sum() / 2


def labels_of(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, tuple[int, int, int, int]]]:
    """What is written, and where its ground is, as the pen is told."""
    seen: list[tuple[str, tuple[int, int, int, int]]] = []
    rectangle, text = ImageDraw.ImageDraw.rectangle, ImageDraw.ImageDraw.text
    last: list[Any] = [None]

    def watched_rectangle(self, at, *rest, **more):
        last[0] = at
        return rectangle(self, at, *rest, **more)

    def watched_text(self, at, words, *rest, **more):
        left, top, right, bottom = self.textbbox(at, words, rest[1], anchor=more["anchor"])
        x1, y1, x2, y2 = last[0]
        assert x1 <= left
        assert right <= x2 + 1
        assert y1 <= top
        assert bottom <= y2 + 1
        seen.append((words, last[0]))
        return text(self, at, words, *rest, **more)

    monkeypatch.setattr(ImageDraw.ImageDraw, "rectangle", watched_rectangle)
    monkeypatch.setattr(ImageDraw.ImageDraw, "text", watched_text)
    return seen


def boxed(x1: int, y1: int, x2: int, y2: int, **more: Any) -> dict[str, Any]:
    mask = np.zeros((480, 640), bool)
    mask[y1:y2, x1:x2] = True
    return record(mask, **more)


@pytest.mark.parametrize(
    "box",
    [(200, 200, 300, 300), (0, 0, 640, 480), (0, 0, 3, 3), (637, 477, 640, 480), (600, 0, 640, 20)],
)
def test_labels_stay_inside(monkeypatch, box: tuple[int, int, int, int]) -> None:
    seen = labels_of(monkeypatch)
    draw(ground(), [boxed(*box)], NAMES)
    [(words, (x1, y1, x2, y2))] = seen
    assert words == "person 0.87"
    assert 0 <= x1 < x2 < 640
    assert 0 <= y1 < y2 < 480


def test_the_best_score_is_written_last_and_so_on_top(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = labels_of(monkeypatch)
    draw(ground(), [boxed(100, 100, 400, 400, score=score) for score in (0.5, 0.9, 0.7)], NAMES)
    assert [words for words, _ in seen] == ["person 0.50", "person 0.70", "person 0.90"]


def test_long_names_are_cut_in_their_middle(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = labels_of(monkeypatch)
    name = "the beginning of it" + " and more" * 9 + " and the end"
    draw(ground(), [boxed(100, 100, 400, 400)], {1: name})
    assert seen[0][0] == "the beginning o…re and the end 0.87"


@pytest.mark.parametrize("category", range(1, 91, 4))
def test_labels_contrast_with_their_ground(category: int) -> None:
    def luminance(color: tuple[int, ...]) -> float:  # WCAG 2
        parts = [c / 255 / 12.92 if c <= 10 else ((c / 255 + 0.055) / 1.055) ** 2.4 for c in color]
        return float(np.dot(parts, (0.2126, 0.7152, 0.0722)))

    color = color_of({"category_id": category})
    ink = (0, 0, 0) if np.dot(color, (0.299, 0.587, 0.114)) > 128 else (255, 255, 255)
    low, high = sorted((luminance(color), luminance(ink)))
    assert (high + 0.05) / (low + 0.05) >= 3
    picture = draw(ground(), [boxed(100, 100, 400, 400, category=category)], {category: "MMMM"})
    assert (picture == ink).all(axis=2).any()


def test_colours_are_stable_and_differ() -> None:
    colors = [color_of({"category_id": number}) for number in range(1, 91)]
    assert colors == [color_of({"category_id": number}) for number in range(1, 91)]
    assert len(set(colors)) == 90
    for one, other in pairwise(colors):
        assert np.abs(np.subtract(one, other)).max() > 60


@pytest.mark.parametrize("name", ["猫", "Größe", "a\nb\x00c", "", "x" * 3000, "🐈‍⬛"])
def test_any_name_can_be_drawn(name: str) -> None:
    picture = draw(ground(48, 64), [boxed(10, 10, 40, 40)], {1: name}, image_size=(480, 640))
    assert picture.shape == (192, 256, 3)
    assert contact_sheet([(name, picture)])


def test_unknown_categories_are_drawn(monkeypatch) -> None:
    seen = labels_of(monkeypatch)
    draw(ground(), [boxed(100, 100, 200, 200, category=77)], NAMES)
    assert [words for words, _ in seen] == ["77 0.87"]


def test_a_picture_without_annotations_is_only_fitted() -> None:
    assert np.array_equal(draw(ground(), [], NAMES), ground())
    assert draw(ground(1000, 100), [], NAMES).shape == (480, 48, 3)
    assert draw(ground(1, 5000), [], NAMES).shape == (1, 640, 3)


@pytest.mark.parametrize(("count", "columns", "rows"), [(1, 1, 1), (2, 2, 1), (5, 3, 2), (9, 3, 3)])
def test_a_sheet_is_a_grid(count: int, columns: int, rows: int) -> None:
    tiles = [(f"{n}.jpg: 0", np.full((480, 640, 3), 40 + 20 * n, np.uint8)) for n in range(count)]
    data = contact_sheet(tiles)
    assert data == contact_sheet(tiles)
    sheet = np.asarray(Image.open(io.BytesIO(data)))
    pitch = (sheet.shape[1] - 8) // columns, (sheet.shape[0] - 8) // rows
    for number in range(count):
        x, y = 8 + number % columns * pitch[0], 8 + number // columns * pitch[1]
        middle = sheet[y + TILE[1] // 2, x + TILE[0] // 2].astype(int)
        assert np.abs(middle - (40 + 20 * number)).max() <= 2
        caption = sheet[y + TILE[1] + 4 : y + pitch[1] - 8, x : x + 200]
        assert caption.max() > 180, "something is written under it"


def test_a_picture_that_could_not_be_read_is_grey() -> None:
    sheet = np.asarray(Image.open(io.BytesIO(contact_sheet([("gone.jpg", None)])))).astype(int)
    tile = sheet[8 : 8 + TILE[1], 8 : 8 + TILE[0]]
    assert np.abs(tile - (70, 70, 74)).max() <= 3
