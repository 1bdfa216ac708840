"""What every decoder ends with: detections in total order, in the image, none of them empty."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.cards import InputSpec
from worker.detections import Candidates, ModelMismatch, Wanted, finished
from worker.preprocess import to_frame
from worker.rle import encode

HEIGHT, WIDTH = 6, 8
FRAME = to_frame(HEIGHT, WIDTH, InputSpec(), (HEIGHT, WIDTH))
BOX = st.tuples(*[st.sampled_from([-3, -0.5, 0, 1, 2.5, 5, 6, 7.9, 8, 9.0, np.inf])] * 4)


@st.composite
def rows(draw):
    count = draw(st.integers(0, 7))
    boxes = np.array([draw(BOX) for _ in range(count)], dtype=float).reshape(-1, 4)
    scores = [draw(st.sampled_from([0.25, 0.5, 0.75])) for _ in range(count)]
    classes = [draw(st.integers(0, 2)) for _ in range(count)]
    areas = [draw(st.integers(0, 2)) for _ in range(count)]
    return boxes, np.array(scores, np.float32), np.array(classes, np.intp), areas


@given(rows(), st.sampled_from([None, 0, 1, 3]))
def test_any_rows_become_sound_detections(made, limit):
    boxes, scores, classes, areas = made
    asked = []

    def masks_of(kept):
        asked.extend(kept.rows.tolist())
        size = HEIGHT, WIDTH
        return [encode(np.ones((1, areas[n]), bool), 1, n % HEIGHT, *size) for n in kept.rows]

    candidates = Candidates(boxes, scores, classes, np.arange(len(boxes)))
    found = finished(candidates, boxes, FRAME, masks_of, limit)
    kinds = [array.dtype for array in (found.boxes, found.scores, found.classes)]
    assert kinds == [np.float64, np.float64, np.int64]
    assert found.boxes.shape == (len(found), 4) == (len(found.masks), 4)
    x1, y1, x2, y2 = found.boxes.T
    assert ((x1 >= 0) & (x1 < x2) & (x2 <= WIDTH) & (y1 >= 0) & (y1 < y2) & (y2 <= HEIGHT)).all()
    ranks = [
        (-score, *box, kind)
        for score, box, kind in zip(
            found.scores.tolist(), found.boxes.tolist(), found.classes.tolist(), strict=True
        )
    ]
    assert ranks == sorted(ranks)
    assert all(mask.area and (mask.height, mask.width) == (HEIGHT, WIDTH) for mask in found.masks)
    clipped = np.clip(boxes, 0, [WIDTH, HEIGHT] * 2)
    solid = [n for n, (a, b, c, d) in enumerate(clipped.tolist()) if a < c and b < d]
    assert len(asked) == len(solid[:limit])
    assert set(asked) <= set(solid)
    assert len(found) + found.dropped == len(asked)
    assert [areas[n] for n in asked if areas[n]] == [mask.area for mask in found.masks]


@pytest.mark.parametrize(
    ("why", "wanted", "passing"),
    [
        ("a finite score of a class", Wanted(), [1, 0, 0, 1, 1, 0]),
        ("from the threshold on", Wanted(0.5), [1, 0, 0, 0, 1, 0]),
        ("of a class that is kept", Wanted(keep_classes=frozenset({2, 7})), [0, 0, 0, 1, 1, 0]),
        ("of none", Wanted(keep_classes=frozenset()), [0] * 6),
    ],
)
def test_what_may_be_in_the_answer(why, wanted, passing):
    scores = np.array([0.5, np.nan, np.inf, 0.25, 0.75, 0.9], np.float32)
    classes = np.array([0, 1, 1, 2, 2, -1])
    assert wanted.passing(scores, classes).tolist() == [bool(each) for each in passing]


@pytest.mark.parametrize(
    ("why", "wanted", "rows"),
    [
        ("over the least", Wanted(), [0, 3]),
        ("and over the threshold", Wanted(0.5), [3]),
        ("a threshold under the least", Wanted(0.1), [0, 3]),
    ],
)
def test_rows_with_a_score_over_the_least(why, wanted, rows):
    scores = np.array([[0.3, 0], [0.2, 0.1], [np.inf, np.nan], [np.nan, 0.5]], np.float32)
    found, kept = wanted.rows_over(scores, np.float32(0.2))
    assert found.tolist() == rows
    assert kept.dtype == np.float32
    assert kept[-1].tolist() == [-np.inf, 0.5]


def test_a_mismatch_is_one_sentence_with_both_sides():
    mismatch = ModelMismatch("nothing fits", ["boxes (1, N, 4)", "scores"], [])
    assert str(mismatch) == (
        "the model does not fit its card: nothing fits; "
        "expected boxes (1, N, 4), scores; found nothing"
    )
    assert mismatch.expected == ("boxes (1, N, 4)", "scores")
