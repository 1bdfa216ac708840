"""Detections are checked once, on construction, and a refusal says what is wrong."""

import numpy as np
import pytest

from worker.detections import Detections, ModelMismatch
from worker.rle import encode

HEIGHT, WIDTH = 6, 8
MASK = encode(np.ones((2, 2), bool), 1, 1, HEIGHT, WIDTH)


def fields(**changes):
    return {
        "boxes": np.array([[0, 0, 8, 6], [1, 1, 2, 2.0]]),
        "scores": np.array([0.9, 0.5]),
        "classes": np.array([3, 0], dtype=np.int64),
        "masks": (MASK, MASK),
        "height": HEIGHT,
        "width": WIDTH,
        **changes,
    }


def second_box(*box):
    return {"boxes": np.array([[0, 0, 8, 6], box], dtype=float)}


def test_good_detections_are_taken():
    found = Detections(**fields())
    assert len(found) == 2
    assert found.dropped == 0


def test_none_is_an_ordinary_value():
    none = Detections(
        np.zeros((0, 4)), np.zeros(0), np.zeros(0, np.int64), (), HEIGHT, WIDTH, dropped=3
    )
    assert len(none) == 0
    assert none.dropped == 3


@pytest.mark.parametrize(
    ("says", "changes"),
    [
        ("scores is float64", {"scores": np.array([0.9])}),
        ("boxes is float64", {"boxes": np.zeros((2, 5))}),
        ("boxes is float32", {"boxes": fields()["boxes"].astype(np.float32)}),
        ("classes is int32", {"classes": np.array([3, 0], dtype=np.int32)}),
        ("boxes is float64", {"masks": (MASK,)}),
        ("box 1 is empty or leaves", second_box(-1, 1, 2, 2)),
        ("box 1 is empty or leaves", second_box(1, 1, 8.01, 2)),
        ("box 1 is empty or leaves", second_box(1, 1, 2, 6.01)),
        ("box 1 is empty or leaves", second_box(1, 1, 1, 2)),
        ("box 1 is empty or leaves", second_box(2, 1, 1, 2)),
        ("box 1 is empty or leaves", second_box(1, 1, np.nan, 2)),
        ("score is not finite", {"scores": np.array([np.inf, 0.5])}),
        ("class is negative", {"classes": np.array([3, -1], dtype=np.int64)}),
        ("another size", {"masks": (MASK, encode(np.ones((2, 2), bool)))}),
        ("a mask is empty", {"masks": (MASK, encode(np.zeros((HEIGHT, WIDTH), bool)))}),
        ("not in total order", {"scores": np.array([0.5, 0.9])}),
        ("not in total order", {"scores": np.array([0.5, 0.5]), **second_box(0, 0, 8, 5)}),
    ],
)
def test_bad_detections_are_refused(says, changes):
    with pytest.raises(ValueError, match=f"no detections: .*{says}"):
        Detections(**fields(**changes))


def test_a_mismatch_is_one_sentence_with_both_sides():
    mismatch = ModelMismatch("nothing fits", ["boxes (1, N, 4)", "scores"], [])
    assert str(mismatch) == (
        "the model does not fit its card: nothing fits; "
        "expected boxes (1, N, 4), scores; found nothing"
    )
    assert mismatch.expected == ("boxes (1, N, 4)", "scores")
